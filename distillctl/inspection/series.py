"""Every step of a run as columns, for reports and comparisons."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from pathlib import Path
from typing import Any

from distillctl.monitor.state import RunState
from distillctl.run.events import EventParser, read_events


class Series:
    """The steps of a run, built from events. Give them to `apply` in order. A step that a later attempt
    repeats replaces the earlier one."""

    def __init__(self) -> None:
        self.steps = array("q")
        """Finished steps in ascending order."""
        self.metrics: dict[str, array[float]] = {}
        """One value per step by metric name; NaN if the step has no value."""
        self.evals: dict[int, dict[str, float | None]] = {}
        """Metrics of each evaluation by step."""
        self.num_graded: dict[int, int] = {}
        """Number of responses that each evaluation graded, by step."""
        self.checkpoints: dict[int, str] = {}
        self.warnings: list[tuple[int, str]] = []
        """Step and message of each warning. Preflight warnings have step 0."""
        self.num_attempts = 0
        self.num_skipped = 0
        """Number of lines of the file that are not events."""

    def apply(self, event: dict[str, Any]) -> None:
        """Add one event."""
        step = event.get("step", 0)
        self.num_attempts = max(self.num_attempts, event.get("attempt", 0))
        match event["kind"]:
            case "start":
                self._truncate(step)
            case "step":
                self._truncate(step - 1)
                self._append(step, event["metrics"])
            case "eval":
                self.evals[step] = event["metrics"]
                self.num_graded[step] = event.get("num", 0)
            case "checkpoint":
                self.checkpoints[step] = event["path"]
            case "warn":
                self.warnings.append((step, event["message"]))
            case "check" if event["level"] == "warn":
                self.warnings.append((step, f"{event['name']}: {event['detail']}"))

    def column(self, name: str) -> list[float]:
        """Values of a metric by step; all NaN if no step has it."""
        return list(self.metrics.get(name, [math.nan] * len(self.steps)))

    def _append(self, step: int, metrics: dict[str, float | None]) -> None:
        self.steps.append(step)
        if metrics.keys() != self.metrics.keys():
            for name in metrics.keys() - self.metrics.keys():
                self.metrics[name] = array("d", [math.nan]) * (len(self.steps) - 1)
            metrics = {name: metrics.get(name) for name in self.metrics}
        columns = self.metrics
        for name, value in metrics.items():
            columns[name].append(math.nan if value is None else value)

    def _truncate(self, step: int) -> None:
        keep = bisect_right(self.steps, step)
        if keep == len(self.steps):
            return
        del self.steps[keep:]
        for column in self.metrics.values():
            del column[keep:]


def load_events(path: Path, *, thin: bool = False) -> tuple[RunState, Series]:
    """The newest state, without its histories, and all steps from the events of a file. `thin` is as for
    `read_events`."""
    state = RunState(with_histories=False)
    series = Series()
    parser = EventParser()
    for event in read_events(path, thin=thin, parser=parser):
        state.apply(event)
        series.apply(event)
    series.num_skipped = parser.num_skipped
    return state, series
