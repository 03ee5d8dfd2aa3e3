"""The bounded past of a metric, against all of its values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.monitor import history
from distillctl.monitor.history import History
from distillctl.terminal.sparkline import bucket_means

finite = st.floats(-1e6, 1e6)


def filled(values: list[float | None]) -> History:
    past = History()
    for step, value in enumerate(values, start=1):
        past.add(step, value)
    return past


@given(st.lists(finite, min_size=1, max_size=100))
def test_below_its_capacity_every_step_has_a_bucket(values: list[float]) -> None:
    past = filled(list(values))
    assert past.means() == values
    assert past.last == values[-1]


@given(st.lists(finite, min_size=1, max_size=200), st.integers(1, 12))
def test_above_it_a_bucket_is_the_mean_of_its_steps(values: list[float], capacity: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "CAPACITY", capacity)
        past = filled(list(values))
    means, width = past.means(), past.width
    assert len(means) <= capacity
    expected = [values[i : i + width] for i in range(0, len(values), width)]
    assert means == pytest.approx([sum(part) / len(part) for part in expected], rel=1e-9, abs=1e-6)


def test_missing_values_are_gaps_and_counted() -> None:
    past = filled([1.0, None, math.nan, math.inf, 3.0])
    means = past.means()
    assert (means[0], means[4], past.num_missing) == (1.0, 3.0, 3)
    assert all(math.isnan(value) for value in means[1:4])


def test_a_later_attempt_replaces_the_steps_it_repeats() -> None:
    past = filled([1.0, 2.0, 3.0, 4.0])
    past.truncate(2)
    past.add(3, 30.0)
    assert past.means() == [1.0, 2.0, 30.0]


def test_a_step_number_out_of_a_damaged_file_takes_no_memory() -> None:
    past = filled([1.0])
    past.add(10**15, 2.0)
    past.add(-5, 9.0)
    assert len(past.means()) <= history.CAPACITY
    assert [value for value in past.means() if not math.isnan(value)] == [1.0, 2.0]


def test_the_moving_average_is_the_recursion() -> None:
    values = [float(n * n % 7) for n in range(40)]
    average = values[0]
    for value in values[1:]:
        average = 0.9 * average + 0.1 * value
    assert filled(list(values)).ema() == pytest.approx(average, rel=1e-12)
    assert math.isnan(History().ema())


@given(st.lists(finite, max_size=50), st.integers(1, 60))
def test_bucket_means_fit_and_keep_the_whole(values: list[float], count: int) -> None:
    means = bucket_means(values, count)
    assert len(means) == min(len(values), count)
    if means:
        assert min(values) - 1e-6 <= min(means) <= max(means) <= max(values) + 1e-6


def test_bucket_means_leave_out_nan() -> None:
    assert bucket_means([1.0, math.nan, math.nan, math.nan], 2)[0] == 1.0
    assert math.isnan(bucket_means([1.0, math.nan, math.nan, math.nan], 2)[1])
