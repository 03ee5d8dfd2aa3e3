"""Guards on made-up metrics: what violates them, when they warn and when they stop."""

import json
import math

import pytest

from distillctl.config.guards import GuardsConfig
from distillctl.train.guards import BASELINE_STEPS, Guards

HEALTHY = {
    "actor/skipped_steps": 0.0, "actor/entropy": 0.5, "response_length/mean": 40.0, "kl/reverse": 0.4,
    "topk/teacher_mass": 0.99,
}  # fmt: skip


def guarded(**settings):
    guards = Guards(GuardsConfig(**settings))
    for _ in range(BASELINE_STEPS):
        assert guards.check(HEALTHY) == []
    return guards


SICK = {
    "min_entropy": {"actor/entropy": 1e-5},
    "max_length_growth": {"response_length/mean": 161.0},
    "min_teacher_mass": {"topk/teacher_mass": 0.49},
    "max_kl_growth": {"kl/reverse": 2.01},
}


@pytest.mark.parametrize("guard", SICK)
def test_a_guard_counts_to_its_patience(guard):
    guards = guarded(patience=3)
    for count in (1, 2, 3):
        (violation,) = guards.check(HEALTHY | SICK[guard])
        assert (violation.guard, violation.count, violation.fatal) == (guard, count, count == 3)
        assert guards.violated


@pytest.mark.parametrize("guard", SICK)
def test_a_healthy_step_starts_the_count_anew(guard):
    guards = guarded(patience=2)
    guards.check(HEALTHY | SICK[guard])
    assert guards.check(HEALTHY) == []
    assert not guards.violated
    (violation,) = guards.check(HEALTHY | SICK[guard])
    assert (violation.count, violation.fatal) == (1, False)


@pytest.mark.parametrize("guard", [*SICK, "max_skipped_steps"])
def test_a_guard_can_be_switched_off(guard):
    guards = guarded(patience=1, **{guard: None})
    sick = SICK.get(guard, {"actor/skipped_steps": 1.0})
    assert guards.check(HEALTHY | sick) == []


FINE = [
    {"actor/entropy": 1.1e-4},
    {"response_length/mean": 159.0},
    {"topk/teacher_mass": 0.5},
    {"kl/reverse": 1.99},
]


@pytest.mark.parametrize("metrics", FINE)
def test_nothing_happens_on_the_right_side_of_a_threshold(metrics):
    assert guarded().check(HEALTHY | metrics) == []


def test_skipped_steps_in_a_row_stop_a_run():
    guards = guarded(max_skipped_steps=2)
    nothing = dict.fromkeys(HEALTHY, math.nan)
    (first,) = guards.check(nothing | {"actor/skipped_steps": 1.0})
    (second,) = guards.check(nothing | {"actor/skipped_steps": 2.0})
    assert (first.guard, first.fatal, second.fatal) == ("max_skipped_steps", False, True)


def test_a_skipped_step_long_ago_is_forgotten():
    guards = guarded(max_skipped_steps=1)
    guards.check(HEALTHY | {"actor/skipped_steps": 1.0})
    assert guards.check(HEALTHY | {"actor/skipped_steps": 1.0}) == []


def test_a_loss_without_a_list_has_no_teacher_mass():
    metrics = {name: value for name, value in HEALTHY.items() if name != "topk/teacher_mass"}
    assert Guards(GuardsConfig()).check(metrics) == []


def test_a_pair_that_begins_close_may_grow_to_the_floor():
    guards = Guards(GuardsConfig(max_kl_growth=5.0))
    for _ in range(BASELINE_STEPS):
        guards.check(HEALTHY | {"kl/reverse": 0.001})
    assert guards.check(HEALTHY | {"kl/reverse": 0.49}) == []
    assert guards.check(HEALTHY | {"kl/reverse": 0.51})[0].guard == "max_kl_growth"


@pytest.mark.parametrize("at", range(1, 9))
def test_resumed_guards_go_on_where_they_were(at):
    """Saved as JSON and loaded after any step, they say what they would have said."""
    kls = [0.4, 0.5, math.nan, 0.4, 0.3, 0.4, 3.0, 3.0, 3.0]
    steps = [HEALTHY | {"kl/reverse": kl, "actor/skipped_steps": float(kl != kl)} for kl in kls]
    whole, first, second = (Guards(GuardsConfig(patience=3)) for _ in range(3))
    expected = [whole.check(metrics) for metrics in steps]
    found = [first.check(metrics) for metrics in steps[:at]]
    second.load_state(json.loads(json.dumps(first.state())))
    found += [second.check(metrics) for metrics in steps[at:]]
    assert found == expected
    assert expected[-1][0].fatal
