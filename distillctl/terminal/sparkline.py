"""A curve as one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-~=+*#"
GAP = " "


def sparkline(
    values: Sequence[float],
    width: int,
    *,
    ascii_only: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> str:
    """One character per value, newest on the right; per mean of neighbours if there are more than `width`.

    The scale runs from the lowest to the highest value, unless `low` and `high` set it. Equal values are
    drawn at mid-height; NaN and infinities are gaps.
    """
    means = bucket_means([v if math.isfinite(v) else math.nan for v in values], max(width, 0))
    known = [value for value in means if not math.isnan(value)]
    if not known:
        return GAP * len(means)
    bottom = min(known) if low is None else low
    top = max(known) if high is None else high
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    return "".join(GAP if math.isnan(value) else _block(value, bottom, top, blocks) for value in means)


def _block(value: float, bottom: float, top: float, blocks: str) -> str:
    # Halves, because the difference of two finite values can overflow.
    span = top / 2 - bottom / 2
    if span <= 0:
        return blocks[len(blocks) // 2 - 1]
    share = min(max((value / 2 - bottom / 2) / span, 0.0), 1.0)
    return blocks[min(int(share * len(blocks)), len(blocks) - 1)]


def bucket_means(values: list[float], count: int) -> list[float]:
    """Average neighbours of `values` into at most `count` means. A mean skips NaN; it is NaN if all are."""
    if len(values) <= count:
        return list(values)
    if count < 1:
        return []
    bounds = [i * len(values) // count for i in range(count + 1)]
    means = []
    for low, high in pairwise(bounds):
        known = [value for value in values[low:high] if math.isfinite(value)]
        means.append(math.fsum(value / len(known) for value in known) if known else math.nan)
    return means
