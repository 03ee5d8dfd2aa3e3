"""What stderr can show: whether it is a terminal for live drawing, and rich's console for one."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 160
"""Width of text for a pipe."""


def is_screen(out: TextIO) -> bool:
    """Whether `out` is a terminal that takes live drawing; CI and dumb terminals get plain lines.

    `isatty` decides, not rich's own guess, which FORCE_COLOR can turn on for pipes.
    """
    dumb = os.environ.get("TERM", "") in ("", "dumb", "unknown")
    return out.isatty() and not dumb and not os.environ.get("CI")


def has_unicode(out: TextIO) -> bool:
    """Whether `out` takes more than ASCII."""
    return "utf" in (out.encoding or "").lower()


def output_look() -> tuple[bool, int]:
    """Whether stdout takes colour, and its columns (160 in a pipe)."""
    out = sys.stdout
    dumb = os.environ.get("TERM", "") in ("", "dumb", "unknown") or bool(os.environ.get("NO_COLOR"))
    return out.isatty() and not dumb, shutil.get_terminal_size().columns if out.isatty() else PIPE_COLUMNS


def printable(text: str) -> str:
    """`text` with everything that a terminal would obey or hide written out, as in `\\x1b[2J`.

    Names, ids and messages may come from files and servers: escape and other control characters (C0, DEL,
    C1), what turns the direction of writing, zero-width and unassigned characters, halves of surrogate pairs.
    Line breaks and blanks of all kinds stay; a tab becomes a blank.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _written_out(char) for char in text)


def inline(text: object) -> str:
    """`printable` text for the inside of a line: line breaks are written out too, as in `a\\nb`."""
    return printable(str(text)).replace("\n", "\\n")


def _written_out(char: str) -> str:
    if char == "\t":
        return " "
    if unicodedata.category(char) == "Zs":
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Painted(str):
    """Text with our own colour codes between parts that were made `printable`."""


def console(out: TextIO) -> Console:
    """A console for `out`, which is known to be a terminal; its size is asked for at every frame."""
    from rich.console import Console

    # COLUMNS and LINES would freeze the size.
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return Console(file=out, force_terminal=True, legacy_windows=False, highlight=False, _environ=environment)
