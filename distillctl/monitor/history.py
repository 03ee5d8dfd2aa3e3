"""The history of one metric in constant memory, for the curves on a screen."""

from __future__ import annotations

import math
from array import array

CAPACITY = 4096
"""Most buckets per metric; when they are full, neighbours are merged in pairs."""
EMA_DECAY = 0.9
"""Weight of the earlier average at each bucket of the moving average."""
EMA_BUCKETS = 64
"""Buckets that the moving average covers; earlier ones would weigh 0.9**64, a thousandth."""


class History:
    """Means over buckets of `width` neighbouring steps; NaN where no step had a value."""

    def __init__(self) -> None:
        self.width = 1
        """Steps per bucket."""
        self.last: float = math.nan
        """Newest value; NaN if the newest step had none."""
        self.num_missing = 0
        """Steps whose value was missing or not finite."""
        self._sums = array("d")
        self._counts = array("L")

    def add(self, step: int, value: float | None) -> None:
        """Take in the value at `step` (from 1); None, NaN and infinities count as missing."""
        if step < 1:
            return
        self.last = math.nan if value is None else float(value)
        while (step - 1) // self.width >= CAPACITY:
            self._merge()
        index = (step - 1) // self.width
        while len(self._sums) <= index:
            self._sums.append(0.0)
            self._counts.append(0)
        if math.isfinite(self.last):
            self._sums[index] += self.last
            self._counts[index] += 1
        else:
            self.num_missing += 1

    def truncate(self, step: int) -> None:
        """Forget the buckets that begin after `step`, because a later attempt repeats those steps."""
        keep = -(-max(step, 0) // self.width)
        del self._sums[keep:], self._counts[keep:]

    def means(self) -> list[float]:
        """Mean of each bucket, from the first step on."""
        return [
            total / count if count else math.nan
            for total, count in zip(self._sums, self._counts, strict=True)
        ]

    def ema(self) -> float:
        """Exponential moving average of the bucket means; NaN if there are none."""
        average = math.nan
        for value in self.means()[-EMA_BUCKETS:]:
            if math.isfinite(value):
                average = value if math.isnan(average) else EMA_DECAY * average + (1 - EMA_DECAY) * value
        return average

    def _merge(self) -> None:
        for values in (self._sums, self._counts):
            if len(values) % 2:
                values.append(0)
        pairs = range(0, len(self._sums), 2)
        self._sums = array("d", [self._sums[i] + self._sums[i + 1] for i in pairs])
        self._counts = array("L", [self._counts[i] + self._counts[i + 1] for i in pairs])
        self.width *= 2
