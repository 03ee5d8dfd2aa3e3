"""Forward KL: KL(p || q) = sum p (log p - log q), with slope -p.

Agarwal et al. 2023, arXiv 2306.13649. Student q, teacher p; dimensions: C tokens, V outcomes.
"""

from __future__ import annotations

from torch import Tensor

from distillctl.objective.inputs import Objective


def value_and_slope(
    log_q_CV: Tensor, q_CV: Tensor, log_p_CV: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Value [C] in nats and slope [C, V]."""
    p_CV = log_p_CV.exp()
    value_C = (log_p_CV - log_q_CV).mul_(p_CV).sum(-1)
    return value_C, p_CV.neg_()
