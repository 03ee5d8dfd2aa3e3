"""Reverse KL: KL(q || p) = sum q (log q - log p), with slope q (log q - log p).

Agarwal et al. 2023, arXiv 2306.13649. Student q, teacher p; dimensions: C tokens, V outcomes.
"""

from __future__ import annotations

from torch import Tensor

from distillctl.objective.inputs import Objective


def value_and_slope(
    log_q_CV: Tensor, q_CV: Tensor, log_p_CV: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Value [C] in nats and slope [C, V]."""
    slope_CV = (log_q_CV - log_p_CV).mul_(q_CV)
    return slope_CV.sum(-1), slope_CV
