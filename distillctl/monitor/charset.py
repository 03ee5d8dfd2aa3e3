"""What a terminal can show, and text for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True, slots=True)
class Look:
    """A terminal's character set, and what Ctrl-C does there."""

    ascii_only: bool = False
    following: bool = False
    """The run belongs to another terminal: Ctrl-C ends the view, not the run."""

    def pick(self, unicode: str, ascii_: str) -> str:
        """A sign that the terminal has."""
        return ascii_ if self.ascii_only else unicode

    @property
    def dot(self) -> str:
        """Stands between parts of a line."""
        return self.pick(" · ", " - ")


def styled(content: str, style: str = "") -> Text:
    """A line that begins with `content`; what is appended to it has its own style."""
    from rich.text import Text

    return Text().append(content, style)


def fitted(line: Text, columns: int, look: Look) -> Text:
    """`line`, no wider than `columns`, of characters that the terminal has and none that it would obey."""
    if not line.plain.isprintable():  # of the same length: colours lie at positions
        line.plain = "".join(char if char.isprintable() else " " for char in line.plain)
    if look.ascii_only:
        line.plain = line.plain.encode("ascii", "replace").decode()
    line.truncate(max(columns, 1), overflow="crop" if look.ascii_only else "ellipsis")
    line.no_wrap = True
    return line
