"""The live screen: frames of a run's state on a terminal, inline, at most four a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from distillctl.monitor.charset import Look
from distillctl.monitor.screen import frame
from distillctl.monitor.state import RunState
from distillctl.terminal.stream import console, has_unicode

if TYPE_CHECKING:
    from rich.console import Group

FRAME_S = 0.25
"""Shortest time between two frames."""
IDLE_S = 1.0
"""Longest time between two frames: clocks go on while nothing happens."""


class TuiDisplay:
    """Draws on `out`, a terminal. `close` leaves the last frame and the cursor in place."""

    def __init__(
        self, out: TextIO, *, following: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        from rich.live import Live

        self._look, self._clock = Look(not has_unicode(out), following), clock
        self._state, self._drawn_t, self._dirty = RunState(), 0.0, True
        self._console = console(out)
        # stdout carries the result and may be a pipe; what is printed to stderr stands above the frame.
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, vertical_overflow="crop"
        )
        self._live.start()

    def recall(self, event: dict[str, Any]) -> None:
        """Take in an event of an earlier attempt."""
        self._state.apply(event)

    def apply(self, event: dict[str, Any]) -> None:
        """Take in an event; it is drawn by the next `tick`."""
        self._state.apply(event)
        self._dirty = True

    def tick(self) -> None:
        """Draw when something is new, or a second after the last frame."""
        wait_s = FRAME_S if self._dirty else IDLE_S
        if self._clock() - self._drawn_t >= wait_s:
            self._draw()

    def close(self) -> None:
        """Draw the last frame and give the terminal back."""
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        self._live.update(self._frame(), refresh=True)
        self._drawn_t, self._dirty = self._clock(), False

    def _frame(self) -> Group:
        from rich.console import Group

        columns, rows = self._console.size
        # A line less than there is room for: the one below the frame, where the cursor and `^C` stand.
        return Group(*frame(self._state, columns, max(rows - 1, 1), self._clock(), self._look))
