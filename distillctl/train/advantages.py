"""Group-relative advantages: compare the rewards of a prompt's responses with each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EPSILON = 1e-6  # verl's value, added to the standard deviation


def group_advantages(rewards_R: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """float32 [R]: (r - mean) / (std + 1e-6) within each group. `groups` has each rollout's group number.

    GRPO's group-relative advantages (Shao et al. 2024, arXiv 2402.03300, section 4.1.2) with the sample
    standard deviation (ddof 1), as in verl. A group of equal rewards has advantages of 0. The same holds for
    a group of one rollout, for which verl takes the reward itself.
    """
    members: dict[int, list[int]] = {}
    for index, (key, _) in enumerate(zip(groups, rewards_R, strict=True)):
        members.setdefault(key, []).append(index)
    advantages_R = np.zeros(len(rewards_R), dtype=np.float32)
    for indices in members.values():
        group = np.asarray(rewards_R[indices], dtype=np.float64)
        # Compare instead of computing: in floating point, the mean of equal numbers may differ from them.
        if (group != group[0]).any():
            advantages_R[indices] = (group - group.mean()) / (group.std(ddof=1) + _EPSILON)
    return advantages_R
