"""Frames of the screen: they fit every terminal, and show what the events say."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from distillctl.monitor.charset import Look
from distillctl.monitor.screen import frame
from distillctl.monitor.state import RunState

SIZES = [(200, 60), (120, 40), (100, 24), (99, 24), (80, 24), (60, 20), (59, 20), (40, 12), (80, 10), (80, 9),
         (20, 5), (1, 1)]  # fmt: skip
PLAIN = Look()
SAMPLE = {
    "kind": "sample", "step": 12, "t": 1200.0, "path": "samples/step_000012.parquet",
    "pieces": ["12", " x", " 12", "\n", " is", " 144", "\x1b[31m", "答え"],
    "kl": [0.01, 0.3, 0.0, None, 0.7, 2.5, 0.0, 1.2], "mean_kl": 0.031, "num_tokens": 214, "correct": True,
}  # fmt: skip


def fold(*events: dict[str, Any]) -> RunState:
    state = RunState()
    for event in events:
        state.apply({"t": 1000.0, "attempt": 1, "step": 0, **event})
    return state


def training(num_steps: int = 12, **metrics: float | None) -> list[dict[str, Any]]:
    """Events of a run that has done some of its 40 steps, ten seconds each."""
    steps = [
        {
            "kind": "step",
            "step": n,
            "t": 1010.0 + 10 * n,
            "metrics": {
                "kl/reverse": 1.0 / n,
                "actor/entropy": 0.5 + 0.01 * n,
                "perf/rollout_tokens_per_s": 5000.0 + n,
                "response_length/mean": 84.0,
                "actor/grad_norm": 0.5,
                "rollout/mismatch_kl": 1e-6,
                "timing_s/step": 10.0,
                "timing_s/rollout": 6.0,
                "timing_s/teacher": 1.0,
                "timing_s/update": 2.0,
                "timing_s/sync": 1.0,
                "memory/trainer_bytes": 3.0 * 2**30,
                "memory/engine_bytes": 1.5 * 2**30,
                **metrics,
            },
        }
        for n in range(1, num_steps + 1)
    ]
    return [
        {"kind": "phase", "name": "loading student", "state": "begin", "t": 1000.0},
        {"kind": "phase", "name": "loading student", "state": "end", "seconds": 10.0, "t": 1010.0},
        {"kind": "start", "run": "runs/tiny/0007", "steps": 40, "t": 1010.0},
        *steps,
    ]


FULL = [
    *training(),
    {"kind": "eval", "step": 10, "metrics": {"val/acc": 0.431}},
    {"kind": "checkpoint", "step": 10, "path": "checkpoints/step_000010"},
    {"kind": "warn", "step": 11, "message": "the rollout engine\nended \x1b[2J"},
    SAMPLE,
]
STORIES = {
    "nothing": [],
    "start-up": [{"kind": "phase", "name": "loading student", "state": "begin"}],
    "before the first step": training(0),
    "training": FULL,
    "no numbers": training(3, **{"kl/reverse": None, "actor/entropy": None}),
    "stopping": [*FULL, {"kind": "stop", "step": 12, "signal": 2, "state": "asked"}],
    "ended": [*FULL, {"kind": "end", "step": 12, "state": "done", "exit_code": 0, "seconds": 130.0}],
}


def lines(state: RunState, columns: int, rows: int, look: Look = PLAIN, now: float = 1133.0) -> list[str]:
    """A frame as a terminal without colour shows it."""
    console = Console(
        width=columns, height=rows, force_terminal=True, color_system=None, legacy_windows=False, _environ={}
    )
    with console.capture() as captured:
        for line in frame(state, columns, rows, now, look):
            console.print(line)
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("story", STORIES)
def test_no_frame_is_wider_or_higher_than_its_terminal(story, columns, rows, ascii_only) -> None:
    shown = lines(fold(*STORIES[story]), columns, rows, Look(ascii_only))
    assert 1 <= len(shown) <= rows
    assert all(cell_len(line) <= columns for line in shown)
    assert all(line.isprintable() for line in shown)
    assert not ascii_only or "".join(shown).isascii()


def test_a_wide_frame() -> None:
    expected = Path(__file__).with_name("screen_100x24.txt").read_text()
    assert lines(fold(*FULL), 100, 24) == expected.splitlines()


def test_a_narrow_frame_in_ascii() -> None:
    assert lines(fold(*FULL), 40, 12, Look(ascii_only=True)) == [
        "runs/tiny/0007  step 12/40 - 2m13s - eta",
        "#" * 10 + "-" * 23 + "  30.0%",
        "kl/reverse    0.0833  #~-.._______",
        "entropy        0.620  __.--~=++*##",
        "gen tok/s      5,012  __.--~=++*##",
        "val/acc       43.1 %  ~",
        "resp_len        84.0  ~~~~~~~~~~~~",
        "grad_norm        0.5  ~~~~~~~~~~~~",
        "mismatch_kl  1.0e-06  ~~~~~~~~~~~~",
        "step s         10.00  ~~~~~~~~~~~~",
        "! step 11: the rollout engine ended [2J",
        "ckpt 10 - ^C saves & stops, twice quits",
    ]


def test_a_low_terminal_gets_the_head_and_the_newest_numbers() -> None:
    assert lines(fold(*FULL), 80, 9) == [
        "runs/tiny/0007  step 12/40 · 2m13s · eta 4m40s",
        "kl 0.0833  entropy 0.620  5,012 tok/s",
    ]
    assert lines(fold(*STORIES["start-up"]), 80, 9, now=1007.0)[1] == "loading student 7 s"


def test_phases_before_the_first_step_have_their_seconds() -> None:
    state = fold(
        {"kind": "phase", "name": "loading data", "state": "begin"},
        {"kind": "phase", "name": "loading data", "state": "end", "seconds": 2.5},
        {"kind": "phase", "name": "loading student", "state": "begin", "t": 1002.5},
    )
    shown = lines(state, 80, 24, now=1014.5)
    assert shown[0] == "starting  14s"
    assert "✓   2.5 s  loading data" in shown
    assert "» loading student 12 s" in shown


def test_the_footer_says_what_ctrl_c_does() -> None:
    stopping, ended = fold(*STORIES["stopping"]), fold(*STORIES["ended"])
    assert "; again: quit at once" in lines(stopping, 80, 24)[-1]
    assert lines(fold(*FULL), 80, 24, Look(following=True))[-1].endswith("Ctrl-C: leave this view")
    assert lines(ended, 80, 24)[-1] == "last checkpoint: step 10 · exit code 0"
    assert lines(ended, 80, 24, now=9e9)[0] == "runs/tiny/0007  step 12/40 · done after 2m10s"


def styles(state: RunState, label: str) -> set[str]:
    (line,) = [line for line in frame(state, 100, 24, 0.0, Look()) if line.plain.startswith(label)]
    return {str(span.style) for span in line.spans}


@pytest.mark.parametrize(
    ("label", "metric", "odd", "ordinary"),
    [
        ("kl/reverse", "kl/reverse", 40.0, 1.2),
        ("mismatch_kl", "rollout/mismatch_kl", 0.02, 0.01),
        ("grad_norm", "actor/grad_norm", None, 5.0),
    ],
)
def test_a_number_that_deserves_a_look_is_yellow(label, metric, odd, ordinary) -> None:
    for value, expected in ((odd, True), (ordinary, False)):
        state = fold(*training())
        state.apply({"kind": "step", "step": 13, "t": 1140.0, "metrics": {metric: value}})
        assert ("yellow" in styles(state, label)) == expected


def test_missing_numbers_are_counted_and_leave_gaps() -> None:
    events = training(5)
    events[-2]["metrics"]["actor/grad_norm"] = math.nan
    (row,) = [line for line in lines(fold(*events), 100, 24) if line.startswith("grad_norm")]
    assert row.startswith("grad_norm (1 NaN)")
    assert "▄▄▄ ▄" in row


def test_tokens_of_the_sample_are_shaded_by_their_kl() -> None:
    (line,) = [line for line in frame(fold(*FULL), 100, 24, 0.0, Look()) if line.plain.startswith("»")]
    shaded = {line.plain[span.start : span.end] for span in line.spans if "color" in str(span.style)}
    assert shaded == {" x", " is", " 144", "答え"}


def test_memory_of_every_gpu() -> None:
    gpus = {"gpu/used_bytes/0": 71.0 * 2**30, "gpu/utilization/0": 0.97, "gpu/used_bytes/1": 2.0**30}
    state = fold(*training(2, **gpus))
    assert any("gpu0 97% 71 GiB · gpu1 0% 1 GiB" in line for line in lines(state, 100, 24))


def test_a_run_of_any_length_takes_the_same_memory() -> None:
    """Counted in what grows: buckets and kept events."""
    state = fold(*training(1))
    for n, kind in itertools.product(range(2, 20_000), ("step", "warn", "eval")):
        state.apply({"kind": kind, "step": n, "t": 0.0, "message": "x", "metrics": {"kl/reverse": 1.0}})
    assert len(state.histories["kl/reverse"].means()) <= 4096
    assert len(state.warnings) <= 20
