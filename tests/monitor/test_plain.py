"""Plain lines: the documented format, not too many of them, and never a long silence."""

import io
import time
from typing import Any

import pytest

from distillctl.monitor.plain import PlainDisplay
from distillctl.terminal.table import duration

START = {
    "t": 0.0,
    "kind": "start",
    "step": 0,
    "attempt": 1,
    "run": "runs/tiny/0001",
    "steps": 2000,
    "student": "builtin:tiny-student",
    "teacher": "builtin:tiny-teacher",
    "world_size": 1,
}
METRICS = {
    "kl/reverse": 0.0851,
    "actor/entropy": 0.58,
    "actor/loss": 0.0849,
    "perf/rollout_tokens_per_s": 5104.2,
    "response_length/mean": 84.3,
    "actor/grad_norm": 0.43,
    "actor/lr": 9.1e-6,
    "timing_s/step": 14.9,
}


class Screen:
    """A display on a clock of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.out = io.StringIO()
        self.display = PlainDisplay(self.out, lambda: self.now)

    def apply(self, kind: str, step: int = 0, **fields: Any) -> None:
        self.display.apply({"t": self.now, "attempt": 1, "kind": kind, "step": step, **fields})

    @property
    def lines(self) -> list[str]:
        """What was printed, without the time of day."""
        return [line.partition(" ")[2] for line in self.out.getvalue().splitlines()]


@pytest.fixture
def screen() -> Screen:
    return Screen()


def test_a_step_line_is_the_documented_one(screen: Screen) -> None:
    screen.display.apply(START)
    for step in (411, 412):
        screen.now += 14.9
        screen.apply("step", step, metrics=METRICS)
    assert screen.lines[-1] == (
        "step=412/2000 kl=0.0851 entropy=0.580 loss=0.0849 gen_tok_s=5104 resp_len=84 "
        "grad_norm=0.43 lr=9.1e-06 step_s=14.9 eta=6h34m"
    )


def test_lines_begin_with_the_events_time_of_day(screen: Screen) -> None:
    screen.apply("warn", message="careful")
    clock = time.strftime("%H:%M:%S", time.localtime(screen.now))
    assert screen.out.getvalue() == f"{clock} warning step=0 careful\n"


def test_every_other_kind_has_its_line(screen: Screen) -> None:
    screen.display.apply(START)
    screen.apply("phase", name="loading student", state="begin")
    screen.apply("phase", name="loading student", state="end", seconds=12.34)
    screen.apply("eval", 20, metrics={"val/acc": 0.4312}, num=1319)
    screen.apply("checkpoint", 20, path="checkpoints/step_000020")
    screen.apply("stop", 21, signal=15, state="asked")
    screen.apply("end", 21, state="stopped", exit_code=143, seconds=3700.0)
    assert screen.lines == [
        "start run=runs/tiny/0001 steps=2000 student=builtin:tiny-student "
        "teacher=builtin:tiny-teacher world_size=1",
        "phase loading student ...",
        "phase loading student done seconds=12.3",
        "eval step=20 acc=0.431 prompts=1319",
        "checkpoint step=20 path=checkpoints/step_000020",
        "stop step=21 signal=15 state=asked",
        "end state=stopped step=21 exit_code=143 after=1h01m",
    ]


def test_unknown_kinds_and_samples_print_nothing(screen: Screen) -> None:
    screen.apply("dance")
    screen.apply("sample", 1, path="samples/step_000001.parquet")
    assert screen.lines == []


def test_missing_metrics_are_dashes(screen: Screen) -> None:
    screen.display.apply(START)
    screen.apply("step", 1, metrics={**METRICS, "actor/grad_norm": None})
    assert "grad_norm=- " in screen.lines[-1]
    screen.apply("eval", 1, metrics={"val/acc": None}, num=0)
    assert screen.lines[-1] == "eval step=1 acc=- prompts=0"


def shown_steps(screen: Screen) -> list[int]:
    return [int(line[5:].split("/")[0]) for line in screen.lines if line.startswith("step=")]


def test_fast_steps_are_at_least_five_seconds_apart_but_first_and_last(screen: Screen) -> None:
    screen.display.apply({**START, "steps": 20})
    for step in range(1, 21):
        screen.apply("step", step, metrics=METRICS)
        screen.now += 1.0
    assert shown_steps(screen) == [1, 6, 11, 16, 20]


def test_slow_steps_are_all_shown(screen: Screen) -> None:
    screen.display.apply({**START, "steps": 20})
    for step in range(1, 6):
        screen.apply("step", step, metrics=METRICS)
        screen.now += 5.0
    assert shown_steps(screen) == [1, 2, 3, 4, 5]


def test_the_first_step_after_a_resume_is_shown(screen: Screen) -> None:
    screen.display.apply({**START, "step": 400})
    screen.apply("step", 401, metrics=METRICS)
    screen.apply("step", 402, metrics=METRICS)
    assert shown_steps(screen) == [401]


@pytest.mark.parametrize("last", ["stop", "end"])
def test_the_last_step_of_a_stopped_run_is_shown(screen: Screen, last: str) -> None:
    screen.display.apply(START)
    for step in (1, 2, 3):
        screen.apply("step", step, metrics=METRICS)
    screen.apply(last, 3, signal=2, state="failed", exit_code=1, seconds=1.0)
    assert shown_steps(screen) == [1, 3]
    assert screen.lines[-1].startswith(last)


def test_no_silence_of_more_than_thirty_seconds(screen: Screen) -> None:
    screen.apply("phase", name="loading student", state="begin")
    for _ in range(100):
        screen.now += 1.0
        screen.display.tick()
    beats = screen.lines[1:]
    assert len(beats) == 3
    assert all("loading student" in line for line in beats)


def test_no_heartbeat_while_lines_come(screen: Screen) -> None:
    screen.display.apply(START)
    for step in range(1, 50):
        screen.apply("step", step, metrics=METRICS)
        screen.now += 20.0
        screen.display.tick()
    assert len(shown_steps(screen)) == len(screen.lines) - 1


def test_one_line_per_event_without_escape_codes(screen: Screen) -> None:
    screen.apply("warn", message="\x1b[31mred\nsecond line\r\u2028third\x00")
    (line,) = screen.out.getvalue().splitlines()
    assert line.isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.6, "1h00m"),
        (23640, "6h34m"),
        (360000, "100h00m"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
