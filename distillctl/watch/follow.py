"""Handing the events of a growing file to a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from distillctl.events import EventTail


class Display(Protocol):
    """What an event goes to."""

    def apply(self, event: dict[str, Any]) -> None:
        """Show one event."""

    def tick(self) -> None:
        """Called often; for what time alone changes."""


class Follower:
    """Shows what one attempt appends to events.jsonl."""

    def __init__(self, path: Path, display: Display) -> None:
        """Events that are already in `path` belong to earlier attempts and are not shown."""
        self._display = display
        self._tail = EventTail(path)
        self._tail.read()

    def poll(self) -> None:
        """Show every event written since the last call."""
        for event in self._tail.read():
            self._display.apply(event)
        self._display.tick()
