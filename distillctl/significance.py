"""How sure a difference is: intervals of shares and tests of paired answers. Pure functions, no packages."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a binomial proportion (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = successes / total, Z_95**2
    centre = share + z2 / (2 * total)
    spread = Z_95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    scale = 1 + z2 / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of a difference between paired verdicts (McNemar 1947, Psychometrika 12, in its exact
    form): the binomial test of the pairs that only one of the two got right against a fair coin.

    1.0 without any such pair.
    """
    discordant, smaller = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, k) for k in range(smaller + 1))
    p_value: float = 2 * tail / 2**discordant
    return min(1.0, p_value)
