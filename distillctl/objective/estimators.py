"""Metrics from per-token statistics, each a mean over the response tokens of the global batch.

Estimators of KL(student || teacher) from one sampled token (J. Schulman, "Approximating KL divergence",
2020), with d = log q - log p on the sampled token: k1 = d, k3 = exp(-d) - 1 + d. Both have the reverse KL as
their mean; they are logged, never minimised here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distillctl.objective.reverse_kl import TokenStats

MAX_LOG_RATIO = 20.0
"""Bound on |d| before exponentiating, as verl's k3 has it (e^20 is 5e8)."""


def k3(log_ratio_N: Tensor) -> Tensor:
    """exp(-d) - 1 + d for d = `log_ratio_N`, never negative."""
    bounded = log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(-bounded) + bounded


def token_sums(stats: TokenStats, rollout_logp_N: Tensor) -> dict[str, Tensor]:
    """Sums over the tokens of a micro-batch, keyed by metric name (float64 scalars).

    `rollout/mismatch_kl` is k3 between the engine's log-probability of a sampled token and the trainer's: an
    estimate of KL(engine || trainer), zero when both have the same weights and arithmetic.
    """
    d_N = stats.student_logp_N - stats.teacher_logp_N
    values = {
        "kl/reverse": stats.kl_N,
        "kl/forward": stats.forward_kl_N,
        "kl/k1": d_N,
        "kl/k3": k3(d_N),
        "actor/entropy": stats.student_entropy_N,
        "teacher/entropy": stats.teacher_entropy_N,
        "rollout/mismatch_kl": k3(rollout_logp_N - stats.student_logp_N),
    }
    return {name: value.sum(dtype=torch.float64) for name, value in values.items()}
