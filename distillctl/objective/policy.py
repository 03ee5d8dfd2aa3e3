"""The clipped policy gradient, for per-token distillation advantages and for task rewards.

Dimensions: C tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distillctl.objective.estimators import MAX_LOG_RATIO


class Surrogate(NamedTuple):
    """The PPO loss of C tokens."""

    value_C: Tensor
    slope_C: Tensor
    """Derivative with respect to log q of the sampled token."""
    clipped_C: Tensor
    """1.0 for a token that is clipped and has no gradient, else 0.0."""


def clipped_surrogate(log_ratio_C: Tensor, advantage_C: Tensor, clip_ratio: float) -> Surrogate:
    """-min(r A, clip(r, 1 - clip_ratio, 1 + clip_ratio) A) (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    `log_ratio_C` is log r: the token's log-probability under the current weights, minus the log-probability
    with which it was sampled. `clip_ratio` is the PPO clip range.
    """
    ratio_C = log_ratio_C.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    unclipped_C = ratio_C * advantage_C
    bounded_C = ratio_C.clamp(1.0 - clip_ratio, 1.0 + clip_ratio) * advantage_C
    clipped_C = bounded_C < unclipped_C
    slope_C = torch.where(clipped_C, 0.0, -unclipped_C)
    return Surrogate(-torch.minimum(unclipped_C, bounded_C), slope_C, clipped_C.to(ratio_C.dtype))
