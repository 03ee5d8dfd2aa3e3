"""What stdout and stderr can show: live drawing, colour, Unicode, and text that is safe to print."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PIPE_COLUMNS = 160
"""Columns of text that goes to a pipe."""


def is_screen(out: TextIO) -> bool:
    """Whether `out` is a terminal that can draw live; CI and dumb terminals get plain lines.

    This asks `isatty`, not rich: FORCE_COLOR makes rich take pipes for terminals.
    """
    dumb = os.environ.get("TERM", "") in ("", "dumb", "unknown")
    return out.isatty() and not dumb and not os.environ.get("CI")


def has_unicode(out: TextIO) -> bool:
    """Whether `out` can show more than ASCII."""
    return "utf" in (out.encoding or "").lower()


def output_look() -> tuple[bool, int]:
    """Whether stdout shows colour, and its number of columns (160 in a pipe)."""
    out = sys.stdout
    dumb = os.environ.get("TERM", "") in ("", "dumb", "unknown") or bool(os.environ.get("NO_COLOR"))
    return out.isatty() and not dumb, shutil.get_terminal_size().columns if out.isatty() else PIPE_COLUMNS


def printable(text: str) -> str:
    """`text` with every character that a terminal would obey or hide escaped, as in `\\x1b[2J`.

    Names, ids and messages may come from files and servers. Escaped are control characters (C0, DEL, C1),
    characters that change the direction of writing, zero-width and unassigned characters, and halves of
    surrogate pairs. Line breaks and spaces of all kinds stay; a tab becomes a space.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _written_out(char) for char in text)


def inline(text: object) -> str:
    """`printable` text for use within a line: line breaks are escaped too, as in `a\\nb`."""
    return printable(str(text)).replace("\n", "\\n")


def _written_out(char: str) -> str:
    if char == "\t":
        return " "
    if unicodedata.category(char) == "Zs":
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Painted(str):
    """Text that holds our own colour codes; the parts between them went through `printable`."""


def console(out: TextIO) -> Console:
    """A rich console for `out`, which must be a terminal. It reads the terminal's size at every frame."""
    from rich.console import Console

    # rich takes COLUMNS and LINES for the size, even after the terminal was resized.
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return Console(file=out, force_terminal=True, legacy_windows=False, highlight=False, _environ=environment)
