"""Shading tokens by their reverse KL: the steps of the scale, their colours, and the shaded text."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

STEPS = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Lower bounds of the shades in nats; a token below the first has no shade."""
STYLES = ("", "black on color(230)", "black on color(223)", "black on color(216)", "black on color(209)",
          "white on color(160)")  # fmt: skip
"""Style of each shade, from none to the highest: 256-colour codes readable on dark and light terminals."""
MARKED = 4
"""Lowest shade that is marked where there is no colour."""


def shade(kl: float | None) -> int:
    """Index into `STYLES` for a token's reverse KL in nats; 0 if it was not measured."""
    return 0 if kl is None or math.isnan(kl) else bisect_right(STEPS, kl)


def shaded(
    pieces: Sequence[str], kl: Sequence[float | None], *, newline: str = "⏎", marked: bool = False
) -> Text:
    """The tokens of a response, shaded. Line breaks show as `newline`, other control characters as spaces.

    With `marked`, tokens of the highest shades are put in «».
    """
    from rich.text import Text

    text = Text()
    for piece, value in zip(pieces, kl, strict=True):
        lines = ("".join(c if c.isprintable() else " " for c in line) for line in piece.split("\n"))
        visible = newline.join(lines)
        if marked and shade(value) >= MARKED:
            body = visible.rstrip("\n")
            visible = f"«{body}»{visible[len(body) :]}"
        text.append(visible, style=STYLES[shade(value)])
    return text


def legend(*, color: bool) -> Text:
    """A line that explains the shades in nats."""
    from rich.text import Text

    if not color:
        return Text(f"«token»: reverse KL of at least {STEPS[MARKED - 1]:g} nats")
    text = Text("reverse KL in nats: ")
    for step, style in zip(STEPS, STYLES[1:], strict=True):
        text.append(f" {step:g}+ ", style=style)
    return text
