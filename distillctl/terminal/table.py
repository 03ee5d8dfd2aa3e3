"""Plain text for people: tables, numbers, durations, and untrusted text on one line."""

from __future__ import annotations

import io
import math
import time

from distillctl.terminal.stream import inline, output_look


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table as wide as the terminal, or 160 columns in a pipe; cells are made safe by `inline`."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        grid.add_column(Text(inline(column)), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(inline(cell)) for cell in row))
    out = io.StringIO()
    _, width = output_look()
    # The environment is empty because FORCE_COLOR would put escape codes into a pipe.
    console = Console(file=out, width=width, force_terminal=False, color_system=None, _environ={})
    console.print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def number(value: float | None) -> str:
    """Four significant digits; `-` for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def one_line(text: str) -> str:
    """`text` on one line, without control characters; data and models may contain both."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def clock(t: float | None) -> str:
    """Local date and time at `t` seconds since the epoch; `-` for None."""
    return "-" if t is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(t))


def duration(seconds: float) -> str:
    """A duration as `42s`, `3m05s` or `6h34m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
