"""Tokens shaded by their reverse KL: the steps of the scale, their colours, and a line of tokens."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

STEPS = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Nats from which a token gets each shade; below the first it has none."""
STYLES = ("", "black on color(230)", "black on color(223)", "black on color(216)", "black on color(209)",
          "white on color(160)")  # fmt: skip
"""One more than steps: of the 256 colours, readable on dark and light terminals."""


def shade(kl: float | None) -> int:
    """Index into `STYLES` of a token's reverse KL; 0 where it was not measured."""
    return 0 if kl is None or math.isnan(kl) else bisect_right(STEPS, kl)


def shaded(pieces: Sequence[str], kl: Sequence[float | None], *, ascii_only: bool = False) -> Text:
    """Tokens on one line; line breaks are shown as a sign, other control characters as spaces."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="ellipsis", end="")
    for piece, value in zip(pieces, kl, strict=True):
        visible = piece.replace("\n", "|" if ascii_only else "⏎")
        visible = "".join(char if char.isprintable() else " " for char in visible)
        if ascii_only:
            visible = visible.encode("ascii", "replace").decode()
        text.append(visible, style=STYLES[shade(value)])
    return text


def legend() -> Text:
    """What the shades mean, in nats."""
    from rich.text import Text

    text = Text("reverse KL in nats: ", no_wrap=True, end="")
    for step, style in zip(STEPS, STYLES[1:], strict=True):
        text.append(f" >= {step:g} ", style=style)
    return text
