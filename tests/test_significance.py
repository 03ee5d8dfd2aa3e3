"""Intervals and tests, against enumeration and published values."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.significance import (
    clustered_interval,
    mcnemar_exact,
    paired_interval,
    pass_at_k,
    sign_flip_test,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)
def test_wilson_intervals_of_the_literature(successes, total, low, high):
    """The last two are Newcombe 1998 (Statistics in Medicine 17), table I, method 3."""
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_the_score_equation(case):
    """Its ends are where |share - p| = z sqrt(p (1 - p) / n)."""
    successes, total = case
    for end in wilson_interval(successes, total):
        if 1e-9 < end < 1 - 1e-9:  # else it is an end of the scale, but for rounding
            distance = abs(successes / total - end) / math.sqrt(end * (1 - end) / total)
            assert distance == pytest.approx(1.959963984540054, rel=1e-6)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (1, 1), (0, 5), (2, 7), (7, 2), (4, 4)])
def test_mcnemar_counts_outcomes_as_uneven_as_the_one_seen(first, second):
    n = first + second
    uneven = [sum(coins) for coins in itertools.product((0, 1), repeat=n)]
    as_extreme = [ones for ones in uneven if abs(2 * ones - n) >= abs(first - second)]
    assert mcnemar_exact(first, second) == pytest.approx(len(as_extreme) / 2**n)


def test_mcnemar_of_many_pairs_does_not_overflow():
    assert 0 < mcnemar_exact(900, 1100) < 1e-4
    assert mcnemar_exact(0, 2000) == pytest.approx(2.0 * 0.5**2000, abs=1e-300)


@pytest.mark.parametrize(("n", "c", "k"), [(1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (5, 4, 2), (6, 6, 3)])
def test_pass_at_k_counts_the_subsets_with_a_right_answer(n, c, k):
    answers = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(answers, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_an_interval_of_prompts_is_the_standard_error_of_their_means():
    shares = [0.0, 0.5, 1.0, 1.0]
    error = statistics.stdev(shares) / 2
    assert clustered_interval(shares) == pytest.approx((0.625 - 1.96 * error, 1.0), abs=1e-4)
    differences = [0.5, -0.5, 1.0, 0.0]
    error = statistics.stdev(differences) / 2
    expected = (0.25 - 1.96 * error, 0.25 + 1.96 * error)
    assert paired_interval(differences) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("shares", "low", "high"), [([0.0] * 10, 0.0, 0.2775), ([1.0] * 10, 0.7225, 1.0)])
def test_prompts_that_all_agree_leave_doubt_all_the_same(shares, low, high):
    assert clustered_interval(shares) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("differences", [[1.0] * 5, [0.5, -0.25, 0.75, 0.0, 0.5], [1.0, -1.0]])
def test_the_sign_flip_test_approaches_the_enumeration(differences):
    signs = list(itertools.product((1, -1), repeat=len(differences)))
    totals = [abs(sum(s * d for s, d in zip(row, differences, strict=True))) for row in signs]
    exact = sum(total >= abs(sum(differences)) - 1e-9 for total in totals) / len(signs)
    assert sign_flip_test(differences) == pytest.approx(exact, abs=0.02)
    assert sign_flip_test(differences) == sign_flip_test(differences)


def test_no_difference_is_no_evidence():
    assert sign_flip_test([0.0, 0.0]) == 1.0
