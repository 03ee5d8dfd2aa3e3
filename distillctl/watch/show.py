"""What `distillctl inspect` shows. Each `show_X` returns a JSON-able object, each `render_X` its text.

In: names and paths as users type them. Out: plain text without escape codes, for terminals and pipes alike.
Raises ConfigError for what is not there. `follow_run` is the exception: it prints, until the run ends.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from distillctl import checkpoints
from distillctl.errors import ConfigError
from distillctl.events import EventTail, read_events
from distillctl.run import RunDir, metric_table, open_run, read_status
from distillctl.watch.plain import PlainDisplay, duration
from distillctl.watch.state import RunState

PHASES = ("rollout", "teacher", "update", "sync")
"""Parts of a step, with their seconds in `timing_s/<phase>`."""
NUM_SHOWN = 3
"""Prompts of a data file that are shown."""
_PIPE_WIDTH = 160
_POLL_S = 0.5


def show_presets() -> list[dict[str, str]]:
    """Name and header (purpose, hardware, time, expected result) of every preset."""
    from distillctl.presets import preset_header, preset_names

    return [{"name": name, "about": preset_header(name)} for name in preset_names()]


def render_presets(rows: list[dict[str, str]]) -> str:
    """A table of `show_presets`."""
    return _table(["preset", "about"], [[row["name"], row["about"]] for row in rows])


def show_config(name: str) -> dict[str, Any]:
    """The whole configuration of a preset, a run directory or a YAML file, defaults included."""
    from distillctl.presets import load_config, load_preset

    path = Path(name)
    if path.is_dir():
        config = load_config(open_run(path).config_path)
    else:
        config = load_config(path) if path.is_file() else load_preset(name)
    return config.model_dump(mode="json")


def render_config(tree: dict[str, Any]) -> str:
    """`show_config` as YAML that `train --config` reads."""
    from distillctl.config import Config
    from distillctl.presets import to_yaml

    return to_yaml(Config.model_validate(tree)).rstrip("\n")


def show_schema() -> dict[str, Any]:
    """JSON schema of the configuration."""
    from distillctl.config import Config

    return Config.model_json_schema()


def show_runs(folder: Path) -> list[dict[str, Any]]:
    """One row per run below `folder` (two levels deep, as `runs/<preset>/<number>`), in order of path."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder", "runs are made in runs/ where train was started")
    found = {path.parent for depth in ("*", "*/*", "*/*/*") for path in folder.glob(f"{depth}/config.yaml")}
    if (folder / "config.yaml").is_file():
        found.add(folder)
    return [_run_row(RunDir(path)) for path in sorted(found)]


def render_runs(rows: list[dict[str, Any]]) -> str:
    """A table of `show_runs`."""
    columns = ["run", "state", "step", "kl/reverse", "val/acc", "started"]
    body = [
        [
            row["run"],
            row["state"],
            f"{row['step']}/{row['steps'] or '?'}",
            _number(row["kl/reverse"]),
            _number(row["val/acc"]),
            _clock(row["started"]),
        ]
        for row in rows
    ]
    return _table(columns, body) if rows else "no runs"


def show_run(path: Path) -> dict[str, Any]:
    """State, metrics of the first and last step, split of the time, evaluations, checkpoint, warnings."""
    run = open_run(path)
    state, running = load_state(run), run.is_locked()
    steps = sorted(state.steps)
    first, last = (state.steps[steps[0]], state.steps[steps[-1]]) if steps else ({}, {})
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
            name: {"first": first.get(name), "last": last.get(name), "unit": metric.unit}
            for name, metric in metric_table(first.keys() | last.keys())
        },
        "phase_share": _phase_share(state),
        "evals": [{"step": step, **metrics} for step, metrics in sorted(state.evals.items())],
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "warnings": state.warnings,
    }


def render_run(found: dict[str, Any]) -> str:
    """`show_run` as text: a head, a table of metrics, the rest line by line."""
    head = [
        f"{found['run']}  {found['state']}  step {found['step']}/{found['steps'] or '?'}"
        f"  attempt {found['attempt']}",
    ]
    if found["student"]:
        head.append(f"student {found['student']}  teacher {found['teacher']}")
    if found["phase"]:
        head.append(f"now: {found['phase']}")
    if found["eta_s"] is not None:
        head.append(f"remaining: {duration(found['eta_s'])}")
    metrics = [
        [name, _number(values["first"]), _number(values["last"]), values["unit"]]
        for name, values in found["metrics"].items()
    ]
    parts = ["\n".join(head)]
    if metrics:
        parts.append(_table(["metric", "first", "last", "unit"], metrics))
    shares = found["phase_share"].items()
    if shares:
        parts.append("time  " + "  ".join(f"{name} {100 * share:.0f} %" for name, share in shares))
    tail = [f"eval step {row['step']}  val/acc {_number(row.get('val/acc'))}" for row in found["evals"]]
    if found["checkpoint"]:
        tail.append(f"checkpoint {found['checkpoint']}")
    tail += [f"warning: {_one_line(message)}" for message in found["warnings"]]
    return "\n\n".join([*parts, "\n".join(tail)]).rstrip()


def follow_run(path: Path) -> None:
    """Print the lines of a run to stderr, past ones first, until it ends or Ctrl-C."""
    run = open_run(path)
    display, tail = PlainDisplay(sys.stderr), EventTail(run.events_path)
    try:
        while True:
            # Asked before reading: what a launcher wrote before it let go of the run is then still read.
            running = run.is_locked()
            for event in tail.read():
                display.apply(event)
            if not running:
                return
            display.tick()
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return


def show_data(path: Path) -> dict[str, Any]:
    """Size, sources, share with a ground truth and first prompts of a data file."""
    from distillctl.data.read import read_rows

    rows = read_rows(path)
    lengths = [sum(len(message["content"]) for message in row.messages) for row in rows]
    return {
        "file": str(path),
        "rows": len(rows),
        "columns": _columns(path),
        "data_sources": dict(Counter(row.data_source or "-" for row in rows)),
        "splits": dict(Counter(row.split for row in rows)),
        "ground_truth_share": sum(row.ground_truth is not None for row in rows) / len(rows),
        "prompt_chars": {"mean": sum(lengths) / len(lengths), "max": max(lengths)},
        "first": [{"prompt": row.messages, "ground_truth": row.ground_truth} for row in rows[:NUM_SHOWN]],
    }


def render_data(found: dict[str, Any]) -> str:
    """`show_data` as text."""
    chars = found["prompt_chars"]
    lines = [
        f"{found['file']}: {found['rows']} rows, "
        f"{100 * found['ground_truth_share']:.1f} % with a ground truth",
        f"columns: {', '.join(found['columns'])}",
        "sources: " + ", ".join(f"{name} ({count})" for name, count in found["data_sources"].items()),
        "splits: " + ", ".join(f"{name} ({count})" for name, count in found["splits"].items()),
        f"prompt length: mean {chars['mean']:.0f}, longest {chars['max']} characters",
    ]
    for number, row in enumerate(found["first"]):
        lines += ["", f"row {number}, ground truth {row['ground_truth']}"]
        lines += [f"  {m['role']}: {_one_line(m['content'])}" for m in row["prompt"]]
    return "\n".join(lines)


def load_state(run: RunDir) -> RunState:
    """The state that all events of a run add up to."""
    state = RunState()
    for event in read_events(run.events_path):
        state.apply(event)
    return state


def run_status(run: RunDir) -> str:
    """running, done, failed, stopped; `died` when a launcher went without a word; `new` before the first."""
    if run.is_locked():
        return "running"
    told = str(read_status(run.status_path).get("state", "new"))
    return "died" if told == "running" else told


def _run_row(run: RunDir) -> dict[str, Any]:
    state = load_state(run)
    evals = [metrics.get("val/acc") for _, metrics in sorted(state.evals.items())]
    return {
        "run": str(run.path),
        "state": run_status(run),
        "step": state.step,
        "steps": state.num_steps,
        "kl/reverse": state.steps[state.step].get("kl/reverse") if state.steps else None,
        "val/acc": evals[-1] if evals else None,
        "started": state.start.get("t"),
    }


def _phase_share(state: RunState) -> dict[str, float]:
    """Share of each phase in the phases' time over all steps; empty before the first."""
    totals = {
        phase: sum(metrics.get(f"timing_s/{phase}") or 0.0 for metrics in state.steps.values())
        for phase in PHASES
    }
    whole = sum(totals.values())
    return {phase: seconds / whole for phase, seconds in totals.items()} if whole else {}


def _columns(path: Path) -> list[str]:
    """Column names of a parquet file, or the keys of the first row of JSON."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)
    from distillctl.data.read import MAX_ROW_BYTES

    with path.open(encoding="utf-8-sig") as file:  # of lines, the first is enough
        text = file.read(MAX_ROW_BYTES if path.suffix == ".jsonl" else -1).lstrip()
    first, _ = json.JSONDecoder().raw_decode(text.removeprefix("[").lstrip())
    return list(first)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    out = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PIPE_WIDTH
    # An empty environment: FORCE_COLOR would put escape codes into a pipe (style.md, section 8, trap 1).
    console = Console(file=out, width=width, force_terminal=False, color_system=None, _environ={})
    console.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _one_line(text: str) -> str:
    """`text` without line breaks and control characters, which data and models may contain."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _clock(t: float | None) -> str:
    return "-" if t is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(t))
