"""Generalised Jensen-Shannon divergence with beta = `loss.beta`:

    beta KL(p || m) + (1 - beta) KL(q || m)    with m = beta p + (1 - beta) q
    slope (1 - beta) q (log q - log m)

Agarwal et al. 2023, arXiv 2306.13649. The formula tends to 0 at both ends of beta. So beta = 0 stands for the
forward KL and beta = 1 for the reverse KL, as in TRL and Liger. Student q, teacher p; dimensions: C tokens, V
outcomes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distillctl.objective.divergences import forward_kl, reverse_kl
from distillctl.objective.inputs import Objective


def value_and_slope(
    log_q_CV: Tensor, q_CV: Tensor, log_p_CV: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Value [C] in nats and slope [C, V]."""
    beta = objective.beta
    if beta == 0.0:
        return forward_kl.value_and_slope(log_q_CV, q_CV, log_p_CV, objective)
    if beta == 1.0:
        return reverse_kl.value_and_slope(log_q_CV, q_CV, log_p_CV, objective)
    log_m_CV = torch.logaddexp(log_p_CV + math.log(beta), log_q_CV + math.log1p(-beta))
    teacher_C = log_p_CV.exp().mul_(log_p_CV - log_m_CV).sum(-1)
    slope_CV = (log_q_CV - log_m_CV).mul_(q_CV).mul_(1.0 - beta)
    return beta * teacher_C + slope_CV.sum(-1), slope_CV
