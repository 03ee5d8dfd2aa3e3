"""Divergences between two distributions, exact, with their slopes.

For student q and teacher p (Agarwal et al. 2023, arXiv 2306.13649, eq. 1 to 3), d = log q - log p:

    reverse KL    KL(q || p) = sum q d                              slope  q d
    forward KL    KL(p || q) = -sum p d                             slope -p
    JSD_beta      beta KL(p || m) + (1 - beta) KL(q || m)           slope (1 - beta) q (log q - log m)
                  with m = beta p + (1 - beta) q

The formula of JSD tends to 0 at both ends; there beta = 0 means the forward and beta = 1 the reverse KL, as
in TRL and Liger. Dimensions: C tokens, V outcomes (the vocabulary, or a few buckets of it).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distillctl.objective.matmul import logits

LOG_FLOOR = -1e4
"""Log-probability that stands for none at all. A token that one model rules out gives a large finite loss
instead of an infinite one, and one that both rule out gives none. exp(-104) is already 0 in float32."""


def log_probs(hidden_CH: Tensor, head_VH: Tensor, temperature: float) -> Tensor:
    """log softmax(hidden head^T / temperature) [C, V] in at least float32, never below `LOG_FLOOR`."""
    logits_CV = logits(hidden_CH, head_VH)
    if temperature != 1.0:
        logits_CV /= temperature
    return logits_CV.log_softmax(-1).clamp_(min=LOG_FLOOR)


def divergence(
    kind: str, beta: float, log_q_CV: Tensor, q_CV: Tensor, log_p_CV: Tensor
) -> tuple[Tensor, Tensor]:
    """Value [C] in nats and slope [C, V] of `reverse_kl`, `forward_kl` or `jsd` (with `beta`)."""
    if kind == "jsd" and beta in (0.0, 1.0):
        kind = "reverse_kl" if beta else "forward_kl"
    if kind == "reverse_kl":
        slope_CV = (log_q_CV - log_p_CV).mul_(q_CV)
        return slope_CV.sum(-1), slope_CV
    if kind == "forward_kl":
        p_CV = log_p_CV.exp()
        value_C = (log_p_CV - log_q_CV).mul_(p_CV).sum(-1)
        return value_C, p_CV.neg_()
    assert kind == "jsd", kind
    log_m_CV = torch.logaddexp(log_p_CV + math.log(beta), log_q_CV + math.log1p(-beta))
    teacher_C = log_p_CV.exp().mul_(log_p_CV - log_m_CV).sum(-1)
    slope_CV = (log_q_CV - log_m_CV).mul_(q_CV).mul_(1.0 - beta)
    return beta * teacher_C + slope_CV.sum(-1), slope_CV
