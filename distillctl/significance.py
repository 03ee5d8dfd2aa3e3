"""How sure a difference is: intervals of shares and tests of paired answers. Pure functions, no packages."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def wilson_interval(successes: float, total: int) -> tuple[float, float]:
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
    tail = ways = 1  # of k = 0; each binomial coefficient comes from the one before
    for k in range(smaller):
        ways = ways * (discordant - k) // (k + 1)
        tail += ways
    p_value: float = 2 * tail / 2**discordant
    return min(1.0, p_value)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate that one of `k` answers is right, from `num_samples` >= k of which some are.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1), in whole numbers.
    """
    assert 1 <= k <= num_samples
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def clustered_interval(shares: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of one share per prompt, by the normal approximation with prompts as clusters
    (Miller 2024, arXiv 2411.00640, section 2.2); Wilson's over prompts where all shares are equal, for which
    the approximation would leave no doubt at all."""
    if len(set(shares)) < 2:
        return wilson_interval(sum(shares), len(shares))
    low, high = paired_interval(shares)
    return max(0.0, low), min(1.0, high)


def paired_interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of paired differences, one per prompt, by the normal approximation (Miller
    2024, arXiv 2411.00640, section 4.2); all of [-1, 1] for fewer than two."""
    count = len(differences)
    if count < 2:
        return -1.0, 1.0
    error = Z_95 * statistics.stdev(differences) / math.sqrt(count)
    mean = statistics.fmean(differences)
    return mean - error, mean + error


def sign_flip_test(differences: Sequence[float], num_draws: int = 10_000) -> float:
    """Two-sided p-value of a mean paired difference: how often random signs make one as large (Fisher 1935,
    The Design of Experiments, section 21), from seeded draws, the one seen counted among them."""
    values = [value for value in differences if value]
    if not values:
        return 1.0
    generator, seen, hits = random.Random(0), abs(sum(values)) * (1 - 1e-12), 0
    for _ in range(num_draws):
        signs = generator.getrandbits(len(values))
        total = sum(value if signs >> i & 1 else -value for i, value in enumerate(values))
        hits += abs(total) >= seen
    return (hits + 1) / (num_draws + 1)
