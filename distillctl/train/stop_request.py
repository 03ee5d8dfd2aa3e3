"""Signals that ask a run to stop at the next boundary between two phases."""

from __future__ import annotations

import signal


class StopRequest:
    """The newest stop signal that this process got; 0 before the first."""

    def __init__(self) -> None:
        self.signal = 0

    def listen(self) -> None:
        """Record signals from now on. Before this call, a signal ends the process: it has nothing to save."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: object) -> None:
        self.signal = number

    def is_made(self) -> bool:
        """Whether this process got a stop signal."""
        return bool(self.signal)
