"""What the ranks write to `events.jsonl`: rank 0 does, the others write nothing."""

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
        """Append one event; its metrics are described in `run.metrics`."""
        require_described(fields.get("metrics", ()))
        if self._log is not None:
            self._log.emit(kind, step=step, **fields)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Begin and end events around a start-up phase."""
        start = time.perf_counter()
        self.emit("phase", 0, name=name, state="begin")
        yield
        self.emit("phase", 0, name=name, state="end", seconds=time.perf_counter() - start)

    def report_checks(self, checks: Iterable[Check]) -> None:
        """An event for each check before the first step."""
        for check in checks:
            self.emit("check", 0, **asdict(check))

    def warn(self, message: str) -> None:
        """A warning before the first step."""
        self.warn_at(0, message)

    def warn_at(self, step: int, message: str) -> None:
        """A warning after `step`."""
        self.emit("warn", step, message=message)
