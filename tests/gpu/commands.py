"""distillctl's command line in a process, with its output in a log, and what the events of a run say."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from settings import PYTHON, WORK

from distillctl.run.events import read_events

REPORTED = ("kl/", "perf/", "actor/", "rollout/", "gpu/", "memory/")
"""Metrics of the last step that a stage reports."""


def distillctl(*arguments: object, log: str, timeout_s: float | None = None) -> str:
    """Run a command line in `WORK`; returns what it printed. Raises RuntimeError where it fails."""
    path = WORK / "logs" / log
    with path.open("w") as file:
        done = subprocess.run(
            [PYTHON, "-m", "distillctl", *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT,
            cwd=WORK, timeout=timeout_s, check=False, env={**os.environ, "NO_COLOR": "1"},
        )  # fmt: skip
    text = path.read_text()
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {text[-3000:]}")
    return text


def need_data() -> None:
    """Prepare the tiny preset's data unless it is there."""
    if not (WORK / "data/arith/train.parquet").exists():
        distillctl("prep", "arith", log="prep.log")


def run_facts(name: str) -> dict[str, Any]:
    """Phases, checks, warnings, timings and evaluations of a run, from its events."""
    events = list(read_events(WORK / name / "events.jsonl"))
    of_kind = {kind: [e for e in events if e["kind"] == kind] for kind in ("check", "warn", "step", "eval")}
    phases = {e["name"]: round(e["seconds"], 1) for e in events if e["kind"] == "phase" and "seconds" in e}
    steps = [event["metrics"] for event in of_kind["step"]]
    checks = [f"{e['level']} {e['name']}: {e['detail']}"[:150] for e in of_kind["check"]]
    evaluations = [
        {key: value for key, value in event["metrics"].items() if key.startswith("val/")}
        for event in of_kind["eval"]
    ]
    return {
        "phases_s": phases,
        "checks": checks,
        "warnings": [event["message"][:200] for event in of_kind["warn"]],
        "steps": len(steps),
        "timings": [_timings(step) for step in steps[:2] + steps[-1:]],
        "last": {key: round(value, 5) for key, value in steps[-1].items() if key.startswith(REPORTED)},
        "evals": evaluations,
    }


def _timings(metrics: dict[str, float]) -> dict[str, float]:
    prefix = "timing_s/"
    return {
        key.removeprefix(prefix): round(value, 2) for key, value in metrics.items() if key.startswith(prefix)
    }
