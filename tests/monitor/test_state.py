"""The fold over a run's events: every step once, whatever was repeated."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from distillctl.inspection.series import Series, load_events
from distillctl.monitor.state import RunState

START = {"kind": "start", "step": 0, "attempt": 1, "t": 1.0, "run": "runs/tiny/0001", "steps": 10}


def step(number: int, attempt: int = 1, **metrics: float | None) -> dict[str, Any]:
    return {"kind": "step", "step": number, "attempt": attempt, "t": 10.0 + number, "metrics": metrics}


def fold(*events: dict[str, Any]) -> RunState:
    state = RunState()
    for event in events:
        state.apply(event)
    return state


def timed(number: int, seconds: float | None) -> dict[str, Any]:
    event = step(number)
    event["metrics"]["timing_s/step"] = seconds
    return event


def test_a_run_before_its_first_event() -> None:
    state = RunState()
    assert (state.step, state.num_steps, state.eta_s(), state.phase) == (0, 0, None, None)


def test_phases_are_open_until_they_end() -> None:
    phase = {"kind": "phase", "step": 0, "name": "loading student"}
    state = fold({**phase, "state": "begin"})
    assert state.phase == "loading student"
    state.apply({**phase, "state": "end", "seconds": 12.5})
    assert state.phase is None
    assert state.phases == {"loading student": 12.5}


def test_the_newest_of_everything_is_kept() -> None:
    state = fold(
        START,
        step(1, kl=0.5),
        {"kind": "eval", "step": 1, "metrics": {"val/acc": 0.25}, "num": 4},
        {"kind": "checkpoint", "step": 1, "path": "checkpoints/step_000001"},
        {"kind": "warn", "step": 1, "message": "careful"},
        step(2, kl=0.4),
    )
    assert state.histories["kl"].means() == [0.5, 0.4]
    assert state.metrics == {"kl": 0.4}
    assert state.evaluation["metrics"] == {"val/acc": 0.25}
    assert state.histories["val/acc"].last == 0.25
    assert state.checkpoint["path"] == "checkpoints/step_000001"
    assert [warning["message"] for warning in state.warnings] == ["careful"]
    assert (state.step, state.num_steps) == (2, 10)


def test_a_resumed_run_has_each_step_once() -> None:
    state = fold(START, *(step(n, kl=1.0) for n in range(1, 6)))
    state.apply({"kind": "end", "step": 5, "state": "failed", "exit_code": 1, "seconds": 9.0})
    assert state.end["state"] == "failed"
    state.apply({**START, "attempt": 2, "step": 3})
    assert state.end == {}
    assert state.step == 3
    state.apply(step(4, attempt=2, kl=2.0))
    assert state.histories["kl"].means() == [1.0, 1.0, 1.0, 2.0]
    assert state.attempt == 2


def test_unknown_kinds_and_keys_are_ignored() -> None:
    state = fold(START, {"kind": "dance", "step": 4}, {**step(1), "new": 1})
    assert state.step == 1


def test_the_remaining_time_leaves_out_the_first_step() -> None:
    assert fold(START, timed(1, 60.0)).eta_s() is None
    assert fold(START, timed(1, 60.0), timed(2, 2.0), timed(3, 4.0)).eta_s() == 3.0 * 7


def test_the_remaining_time_after_a_resume_leaves_out_that_attempts_first_step() -> None:
    state = fold({**START, "step": 5}, timed(6, 60.0), timed(7, 2.0))
    assert state.eta_s() == 2.0 * 3


def test_the_remaining_time_follows_the_newest_steps() -> None:
    start = {**START, "steps": 1000}
    state = fold(start, *(timed(n, 100.0) for n in range(1, 500)), *(timed(n, 1.0) for n in range(500, 600)))
    assert state.eta_s() == 401.0


def test_a_step_without_a_time_does_not_count() -> None:
    assert fold(START, timed(1, 1.0), timed(2, None), timed(3, 2.0)).eta_s() == 2.0 * 7


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=6))
def test_any_sequence_of_attempts_leaves_contiguous_steps(attempts: list[tuple[int, int]]) -> None:
    """Each attempt goes on from a step that was reached and does a few."""
    state, series, reached = RunState(), Series(), 0
    for number, (back, count) in enumerate(attempts, start=1):
        first = max(0, reached - back)
        steps = [step(n, attempt=number, origin=float(n)) for n in range(first + 1, first + count + 1)]
        for event in ({**START, "attempt": number, "step": first}, *steps):
            state.apply(event)
            series.apply(event)
        reached = first + count
    assert list(series.steps) == list(range(1, reached + 1))
    assert series.column("origin") == list(map(float, series.steps))
    assert state.step == reached
    if reached:
        assert state.histories["origin"].means() == series.column("origin")


def test_series_keep_each_step_once_and_what_came_between(tmp_path) -> None:
    path = tmp_path / "events.jsonl"
    events = [
        START,
        step(1, kl=0.5),
        step(2, kl=0.4, lr=1.0),
        {"kind": "eval", "step": 2, "metrics": {"val/acc": 0.25}},
        {"kind": "check", "step": 0, "level": "warn", "name": "teacher", "detail": "odd"},
        {**START, "attempt": 2, "step": 1},
        step(2, attempt=2, kl=0.3, lr=None),
        {"kind": "warn", "step": 2, "message": "careful"},
        {"kind": "checkpoint", "step": 2, "path": "p"},
    ]
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"kind": "st')
    state, series = load_events(path)
    assert (state.step, list(series.steps), series.num_attempts) == (2, [1, 2], 2)
    assert series.column("kl") == [0.5, 0.3]
    assert all(math.isnan(value) for value in (*series.column("lr"), *series.column("none")))
    assert series.evals == {2: {"val/acc": 0.25}}
    assert series.warnings == [(0, "teacher: odd"), (2, "careful")]
    assert series.checkpoints == {2: "p"}
