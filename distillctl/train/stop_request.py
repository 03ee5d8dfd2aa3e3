"""Signals that ask a run to stop at the next boundary between two phases."""

from __future__ import annotations

import signal


class StopRequest:
    """The newest of these signals that this process got; 0 before there is one."""

    def __init__(self) -> None:
        self.signal = 0

    def listen(self) -> None:
        """Take signals in. Before that they end the process, which has nothing to save yet."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: object) -> None:
        self.signal = number

    def is_made(self) -> bool:
        """Whether this process got one."""
        return bool(self.signal)
