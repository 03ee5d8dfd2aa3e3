"""The events that rank 0 writes to `events.jsonl`. The other ranks write nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from distillctl.run.checks import Check
from distillctl.run.events import EventLog
from distillctl.run.metrics import require_described


class Reporter:
    """Appends events. On every rank but rank 0 the log is None and nothing happens."""

    def __init__(self, log: EventLog | None) -> None:
        self._log = log

    def emit(self, kind: str, step: int, **fields: Any) -> None:
        """Append one event. `run.metrics` must describe its metrics."""
        require_described(fields.get("metrics", ()))
        if self._log is not None:
            self._log.emit(kind, step=step, **fields)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Emit events at the beginning and the end of a start-up phase."""
        start = time.perf_counter()
        self.emit("phase", 0, name=name, state="begin")
        yield
        self.emit("phase", 0, name=name, state="end", seconds=time.perf_counter() - start)

    def report_checks(self, checks: Iterable[Check]) -> None:
        """Emit an event for each check before the first step."""
        for check in checks:
            self.emit("check", 0, **asdict(check))

    def warn(self, message: str) -> None:
        """Emit a warning before the first step."""
        self.warn_at(0, message)

    def warn_at(self, step: int, message: str) -> None:
        """Emit a warning after `step`."""
        self.emit("warn", step, message=message)
