"""The characters that a terminal can show, and text cut to fit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True, slots=True)
class Look:
    """A terminal's character set, and whether it shows a run that another terminal started."""

    ascii_only: bool = False
    following: bool = False
    """Whether the run belongs to another terminal: Ctrl-C then closes this screen but not the run."""

    def pick(self, unicode: str, ascii_: str) -> str:
        """`unicode`, or `ascii_` if the terminal shows only ASCII."""
        return ascii_ if self.ascii_only else unicode

    @property
    def dot(self) -> str:
        """Separator between the parts of a line."""
        return self.pick(" · ", " - ")


def styled(content: str, style: str = "") -> Text:
    """A line that begins with `content` in `style`; text that is appended to it has its own style."""
    from rich.text import Text

    return Text().append(content, style)


def fitted(line: Text, columns: int, look: Look) -> Text:
    """Cut `line` to `columns` and replace characters that the terminal cannot show or would obey."""
    if not line.plain.isprintable():  # the length must stay the same, because colours refer to positions
        line.plain = "".join(char if char.isprintable() else " " for char in line.plain)
    if look.ascii_only:
        line.plain = line.plain.encode("ascii", "replace").decode()
    line.truncate(max(columns, 1), overflow="crop" if look.ascii_only else "ellipsis")
    line.no_wrap = True
    return line
