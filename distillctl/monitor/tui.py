"""The live screen: draws a run's state inline on a terminal, at most four times a second."""

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
"""Longest time between two frames: the elapsed time changes even when nothing else does."""


class TuiDisplay:
    """Draws on the terminal `out`. `close` leaves the last frame on the screen and restores the cursor."""

    def __init__(
        self, out: TextIO, *, following: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        from rich.live import Live

        self._look = Look(not has_unicode(out), following)
        self._clock = clock
        self._state = RunState()
        self._drawn_t = 0.0
        self._dirty = True
        self._console = console(out)
        # stdout carries the result and may be a pipe. Text printed to stderr appears above the frame.
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, vertical_overflow="crop"
        )
        self._live.start()

    def recall(self, event: dict[str, Any]) -> None:
        """Take in an event of an earlier attempt."""
        self._state.apply(event)

    def apply(self, event: dict[str, Any]) -> None:
        """Take in an event; the next `tick` draws it."""
        self._state.apply(event)
        self._dirty = True

    def tick(self) -> None:
        """Draw if something is new and the last frame is old enough, or a second after the last frame."""
        wait_s = FRAME_S if self._dirty else IDLE_S
        if self._clock() - self._drawn_t >= wait_s:
            self._draw()

    def close(self) -> None:
        """Draw the last frame and restore the terminal."""
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        self._live.update(self._frame(), refresh=True)
        self._drawn_t = self._clock()
        self._dirty = False

    def _frame(self) -> Group:
        from rich.console import Group

        columns, rows = self._console.size
        # One line less than the terminal has: the cursor and `^C` are in the line below the frame.
        return Group(*frame(self._state, columns, max(rows - 1, 1), self._clock(), self._look))
