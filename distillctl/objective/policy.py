"""The clipped policy gradient, for per-token distillation advantages and for task rewards."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from distillctl.objective.estimators import MAX_LOG_RATIO


class Surrogate(NamedTuple):
    """Of C tokens."""

    value_C: Tensor
    slope_C: Tensor
    """Derivative with respect to log q of the sampled token."""
    clipped_C: Tensor
    """1.0 where the clip took the gradient away."""


def clipped_surrogate(log_ratio_C: Tensor, advantage_C: Tensor, clip_ratio: float) -> Surrogate:
    """-min(r A, clip(r, 1 - clip_ratio, 1 + clip_ratio) A) (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    `log_ratio_C` = log r: log q now, minus the log-probability with which the token was sampled.
    """
    ratio_C = log_ratio_C.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    free_C = ratio_C * advantage_C
    held_C = ratio_C.clamp(1.0 - clip_ratio, 1.0 + clip_ratio) * advantage_C
    clipped_C = held_C < free_C
    slope_C = torch.where(clipped_C, 0.0, -free_C)
    return Surrogate(-torch.minimum(free_C, held_C), slope_C, clipped_C.to(ratio_C.dtype))
