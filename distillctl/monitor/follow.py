"""Passing the events of a growing file to displays, in a separate thread.

A stopped terminal (Ctrl-S) or a pipe that nobody reads blocks only this thread, not the run.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from distillctl.run.events import EventTail

POLL_S = 0.1
LAST_WORD_S = 5.0
"""Longest wait for blocked displays after the run has ended."""


class Display(Protocol):
    """Shows or forwards the events of a run."""

    def recall(self, event: dict[str, Any]) -> None:
        """Take in an event of an earlier attempt, without showing it as news."""

    def apply(self, event: dict[str, Any]) -> None:
        """Show one event."""

    def tick(self) -> None:
        """Update what changes with time alone; called often."""

    def close(self) -> None:
        """Finish; nothing is called after this."""


class Follower:
    """Shows the events that one attempt appends to events.jsonl while the context is open."""

    def __init__(self, path: Path, displays: Sequence[Display]) -> None:
        """Recall the events that are already in `path`: they belong to earlier attempts."""
        self._displays = list(displays)
        self._tail = EventTail(path)
        for event in self._tail.new_events():
            for display in displays:
                display.recall(event)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="display", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(LAST_WORD_S)

    def _follow(self) -> None:
        while not self._ended.wait(POLL_S):
            self._poll()
        self._poll()
        self._each(lambda display: display.close())

    def _poll(self) -> None:
        events = self._tail.read()

        def show(display: Display) -> None:
            for event in events:
                display.apply(event)
            display.tick()

        self._each(show)

    def _each(self, act: Callable[[Display], None]) -> None:
        """Call `act` for every display; a display that fails is dropped."""
        for display in list(self._displays):
            try:
                act(display)
            except Exception:  # this thread supervises the displays: a fault in one must not stop the run
                self._displays.remove(display)
                traceback.print_exc()
                name = type(display).__name__
                print(
                    f"{name} failed; the run continues: see it with distillctl inspect run",
                    file=sys.stderr,
                    flush=True,
                )
