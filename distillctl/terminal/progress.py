"""Progress of one long task on stderr: a bar on a terminal, removed at the end; else a line every 30 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from distillctl.terminal.stream import console, is_screen, printable

HEARTBEAT_S = 30.0
"""Longest silence in a pipe: CI systems end jobs that print nothing for minutes."""
SHORT_S = 0.5
"""Tasks that finish sooner show no bar."""

_display = "auto"


def choose(display: str) -> None:
    """Set `--display` for this process: `auto`, `tui` (a bar), `plain` (lines) or `quiet`."""
    global _display  # one stderr, one choice
    _display = display


def note(text: str) -> None:
    """Print what affects the meaning of a result or explains a wait to stderr, even with `quiet`."""
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)


Item = TypeVar("Item")
Advance = Callable[[int], None]
"""Takes the amount that is done so far."""


@contextmanager
def task(label: str, total: int | None = None) -> Iterator[Advance]:
    """Show `label` and how much of `total` is done while the context is open.

    Yields a function that takes the amount done so far; call it often.
    """
    label = printable(label)
    if _display == "quiet":
        yield lambda done: None
    elif is_screen(sys.stderr) if _display == "auto" else _display == "tui" and sys.stderr.isatty():
        with _bar(label, total) as advance:
            yield advance
    else:
        yield _lines(label, total)


def track(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items` and count them on stderr."""
    with task(label, total) as advance:
        for done, item in enumerate(items, start=1):
            yield item
            advance(done)


def _lines(label: str, total: int | None) -> Advance:
    last = time.monotonic()

    def advance(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= HEARTBEAT_S:
            last = now
            of = "" if total is None else f"/{total}"
            print(f"{time.strftime('%H:%M:%S')} {label} {done}{of}", file=sys.stderr, flush=True)

    return advance


@contextmanager
def _bar(label: str, total: int | None) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    shown = columns if total is not None else columns[:1]
    bar = Progress(
        *shown,
        TimeElapsedColumn(),
        console=console(sys.stderr),
        transient=True,
        redirect_stdout=False,
    )
    begun = time.monotonic()
    number = bar.add_task(label, total=total)

    def advance(done: int) -> None:
        bar.update(number, completed=done)
        if not bar.live.is_started and time.monotonic() - begun >= SHORT_S:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()
