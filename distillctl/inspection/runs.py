"""`distillctl inspect runs` and `inspect run`: the list of runs, and the state of one run.

Each `show_X` returns an object for JSON, and `render_X` returns its text. `follow_run` is the exception: it
prints until the run ends. Raises ConfigError if a path is not a run.
"""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

from distillctl.config.loading import load_config
from distillctl.errors import ConfigError, DistillError
from distillctl.files.reading import read_json
from distillctl.inspection.diagnose import Evidence, Finding, diagnose
from distillctl.inspection.series import Series, load_events
from distillctl.monitor.follow import POLL_S, Display
from distillctl.monitor.plain import PlainDisplay
from distillctl.monitor.state import RunState
from distillctl.monitor.tui import TuiDisplay
from distillctl.run import checkpoints
from distillctl.run.directory import STATUS, RunDir, open_run, read_status
from distillctl.run.events import EventTail
from distillctl.run.metrics import metric_table
from distillctl.terminal.stream import inline, is_screen
from distillctl.terminal.table import clock, duration, number, one_line, table

RunRow = TypedDict(
    "RunRow",
    {
        "run": str,
        "state": str,
        "step": int,
        "steps": int | None,
        "kl/reverse": float | None,
        "val/acc": float | None,
        "started": float | None,
        "problem": str | None,
    },
)
"""A run in the list, with the values of its newest step and evaluation; `started` in seconds since 1970."""


class Ends(TypedDict):
    """The first and the last value of a metric; None if the step had no value."""

    first: float | None
    last: float | None


class MetricView(Ends):
    """A metric of a run."""

    unit: str


class RunView(TypedDict):
    """What `inspect run` shows."""

    run: str
    state: str
    attempt: int
    step: int
    steps: int | None
    student: str | None
    teacher: str | None
    world_size: int | None
    phase: str | None
    startup_s: dict[str, float]
    """Duration of each phase of the start, in seconds."""
    eta_s: float | None
    exit_code: int | None
    metrics: dict[str, MetricView]
    phase_share: dict[str, float]
    """Share of the time that each phase of a step takes."""
    evals: list[dict[str, float | None]]
    """`step` and the metrics of each evaluation."""
    checkpoint: str | None
    """Path of the newest checkpoint."""
    warnings: list[str]
    diagnosis: list[dict[str, str]]
    """The fields of each `Finding`."""
    problems: list[str]


def show_runs(folder: Path) -> list[RunRow]:
    """One row per run below `folder`, at most three levels deep, ordered by path."""
    if not folder.is_dir():
        hint = "give the folder with your runs: `train` writes them to runs/ in its working directory"
        raise ConfigError(f"{folder}: no such folder", hint)
    found = {path.parent for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/config.yaml")}
    if (folder / "config.yaml").is_file():
        found.add(folder)
    return [_run_row(RunDir(path)) for path in sorted(found)]


def problems(run: RunDir, series: Series) -> list[str]:
    """The faults of a run's files that make its values incomplete, in words."""
    found = []
    if series.num_skipped:
        found.append(f"{run.events_path}: {series.num_skipped} lines are not events and are left out")
    try:
        written = read_json(run.status_path)
    except ConfigError as error:
        return [*found, error.message] if os.path.lexists(run.status_path) else found
    wrong = sorted(written.keys() & STATUS.keys() - read_status(run.status_path).keys())
    return [*found, *(f"{run.status_path}: {name} has the wrong type" for name in wrong)]


def render_runs(rows: list[RunRow]) -> str:
    """A table of `show_runs`."""
    columns = ["run", "state", "step", "kl/reverse", "val/acc", "started"]
    body = [
        [
            row["run"],
            row["state"],
            f"{row['step']}/{row['steps'] or '?'}",
            number(row["kl/reverse"]),
            number(row["val/acc"]),
            clock(row["started"]),
        ]
        for row in rows
    ]
    told = [f"{inline(row['run'])}: {inline(row['problem'])}" for row in rows if row["problem"]]
    return "\n".join([table(columns, body), *told]) if rows else "no runs"


def show_run(path: Path) -> RunView:
    """State, first and last metrics, time per phase, evaluations, checkpoint, warnings and diagnosis.

    If events.jsonl is larger than 6 MB, the time per phase comes from a part of the steps.
    """
    run = open_run(path)
    state, series = load_events(run.events_path, thin=True)
    running = run.is_locked()
    checkpoint = checkpoints.latest(run.checkpoints)
    return {
        "run": str(run.path),
        "state": run_status(run),
        "attempt": run.attempt,
        "step": state.step,
        "steps": state.num_steps,
        "student": state.start.get("student"),
        "teacher": state.start.get("teacher"),
        "world_size": state.start.get("world_size"),
        "phase": state.phase if running else None,
        "startup_s": state.phases,
        "eta_s": state.eta_s() if running else None,
        "exit_code": read_status(run.status_path).get("exit_code"),
        "metrics": {
            name: {**_ends(series, name), "unit": metric.unit}
            for name, metric in metric_table(series.metrics)
        },
        "phase_share": state.phase_shares(),
        "evals": [{"step": step, **metrics} for step, metrics in sorted(series.evals.items())],
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "warnings": [message for _, message in series.warnings],
        "diagnosis": [asdict(finding) for finding in _findings(run, state, series)],
        "problems": problems(run, series),
    }


def render_run(found: RunView) -> str:
    """`show_run` as text: a head, a table of metrics, then one line each for the rest."""
    head = [
        f"{inline(found['run'])}  {inline(found['state'])}  step {found['step']}/{found['steps'] or '?'}"
        f"  attempt {found['attempt']}",
    ]
    if found["student"]:
        head.append(f"student {inline(found['student'])}  teacher {inline(found['teacher'])}")
    if found["phase"]:
        head.append(f"now: {inline(found['phase'])}")
    if found["eta_s"] is not None:
        head.append(f"remaining: {duration(found['eta_s'])}")
    metrics = [
        [name, number(values["first"]), number(values["last"]), values["unit"]]
        for name, values in found["metrics"].items()
    ]
    parts = ["\n".join(head)]
    if metrics:
        parts.append(table(["metric", "first", "last", "unit"], metrics))
    shares = found["phase_share"].items()
    if shares:
        parts.append("time  " + "  ".join(f"{name} {100 * share:.0f} %" for name, share in shares))
    tail = [f"eval step {row['step']}  val/acc {number(row.get('val/acc'))}" for row in found["evals"]]
    if found["checkpoint"]:
        tail.append(f"checkpoint {inline(found['checkpoint'])}")
    tail += [f"warning: {one_line(message)}" for message in found["warnings"]]
    tail += [f"not shown: {inline(problem)}" for problem in found["problems"]]
    for row in found["diagnosis"]:
        tail.append(f"{row['level']}: {row['name']}: {inline(row['message'])}\n  try: {row['remedy']}")
    return "\n\n".join([*parts, "\n".join(tail)]).rstrip()


def _findings(run: RunDir, state: RunState, series: Series) -> list[Finding]:
    try:
        config = load_config(run.config_path)
    except ConfigError:  # missing, or from another version: the checks that need it find nothing
        config = None
    failed = run_status(run) in ("failed", "died")
    logs = run.logs(run.attempt)
    shares = state.phase_shares()
    return diagnose(Evidence(series=series, config=config, phase_shares=shares, failed=failed, logs=logs))


def follow_run(path: Path) -> None:
    """Show a run on stderr from its beginning until it ends, or until Ctrl-C: on a screen, or as lines in a
    pipe."""
    run = open_run(path)
    display: Display = PlainDisplay(sys.stderr)
    if is_screen(sys.stderr):
        display = TuiDisplay(sys.stderr, following=True)
    tail = EventTail(run.events_path)
    try:
        while True:
            # Ask before reading, so that everything the launcher wrote before it released the lock is read.
            running = run.is_locked()
            for event in tail.new_events():
                display.apply(event)
            display.tick()
            if not running:
                return
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return
    finally:
        display.close()


def run_status(run: RunDir) -> str:
    """`running`, `done`, `failed` or `stopped`; `died` if the launcher ended without saying how; `new` if the
    run was never started."""
    if run.is_locked():
        return "running"
    told = str(read_status(run.status_path).get("state", "new"))
    return "died" if told == "running" else told


def _run_row(run: RunDir) -> RunRow:
    try:
        state, series = load_events(run.events_path, thin=True)
        status = run_status(run)
        problem = "; ".join(problems(run, series)) or None
    except (DistillError, OSError, MemoryError) as error:  # one bad run must not hide the others
        state = RunState(with_histories=False)
        series = Series()
        status = "unreadable"
        problem = _why(error)
    return {
        "run": str(run.path),
        "state": status,
        "step": state.step,
        "steps": state.num_steps,
        "kl/reverse": _ends(series, "kl/reverse")["last"],
        "val/acc": state.evaluation["metrics"].get("val/acc") if state.evaluation else None,
        "started": state.start.get("t"),
        "problem": problem,
    }


def _why(error: DistillError | OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "reading it takes more memory than is free"
    return error.message if isinstance(error, DistillError) else str(error)


def _ends(series: Series, name: str) -> Ends:
    values = [None if math.isnan(value) else value for value in series.column(name)] or [None]
    return {"first": values[0], "last": values[-1]}
