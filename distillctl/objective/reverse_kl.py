"""Exact full-vocabulary reverse KL, computed chunk by chunk from hidden states.

The loss per response token n, for student q and teacher p (Agarwal et al. 2023, arXiv 2306.13649, with the
gradient not propagated through the distribution of prefixes):

    L_n = kl_loss_coef * KL(q_n || p_n) - entropy_coeff * H(q_n)

Logits exist for `chunk_size` rows at a time; the gradient is computed in the forward pass, so that each
chunk costs four matrix products with a head (student logits, teacher logits, and the student's gradients
with respect to its hidden states and its head) and none of it is kept.

Dimensions: N response tokens, C rows of one chunk, H student's hidden size, G teacher's, V shared vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """Weights of the terms and how they are computed; see `LossConfig`."""

    kl_loss_coef: float
    entropy_coeff: float
    temperature: float
    chunk_size: int
    vocab_size: int
    """Size V of the vocabulary both models share; both heads are cut to it before the softmax."""


class TokenStats(NamedTuple):
    """Detached float32 values per response token, in nats."""

    kl_N: Tensor
    """KL(student || teacher), exact."""
    forward_kl_N: Tensor
    """KL(teacher || student), exact."""
    student_logp_N: Tensor
    """log q of the sampled token."""
    teacher_logp_N: Tensor
    """log p of the sampled token."""
    student_entropy_N: Tensor
    teacher_entropy_N: Tensor


def chunk_statistics(
    student_logits_CV: Tensor, teacher_logits_CV: Tensor, target_ids_C: Tensor, objective: Objective
) -> tuple[TokenStats, Tensor]:
    """Statistics of one chunk and dL/d(student logits) [C, V], float32.

    Both logits are divided by the temperature first. With z = logits / temperature:
    dKL/dz = q (log q - log p - KL) and dH/dz = -q (log q + H).
    """
    log_q_CV = (student_logits_CV.float() / objective.temperature).log_softmax(-1)
    log_p_CV = (teacher_logits_CV.float() / objective.temperature).log_softmax(-1)
    q_CV, p_CV = log_q_CV.exp(), log_p_CV.exp()
    difference_CV = log_q_CV - log_p_CV
    kl_C1 = (q_CV * difference_CV).sum(-1, keepdim=True)
    entropy_C1 = -(q_CV * log_q_CV).sum(-1, keepdim=True)
    stats = TokenStats(
        kl_N=kl_C1.squeeze(-1),
        forward_kl_N=-(p_CV * difference_CV).sum(-1),
        student_logp_N=log_q_CV.gather(-1, target_ids_C[:, None]).squeeze(-1),
        teacher_logp_N=log_p_CV.gather(-1, target_ids_C[:, None]).squeeze(-1),
        student_entropy_N=entropy_C1.squeeze(-1),
        teacher_entropy_N=-(p_CV * log_p_CV).sum(-1),
    )
    slope_CV = objective.kl_loss_coef * (difference_CV - kl_C1)
    if objective.entropy_coeff:
        slope_CV = slope_CV + objective.entropy_coeff * (log_q_CV + entropy_C1)
    return stats, q_CV * slope_CV / objective.temperature


class _ChunkedLoss(torch.autograd.Function):
    """Sum of L_n over all rows, with the gradient prepared in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        head_VH: Tensor,
        teacher_hidden_NG: Tensor,
        teacher_head_VG: Tensor,
        target_ids_N: Tensor,
        objective: Objective,
    ) -> tuple[Tensor, ...]:
        size = objective.vocab_size
        head, teacher_head = head_VH[:size], teacher_head_VG[:size]
        grad_hidden_NH = torch.empty_like(hidden_NH)
        grad_head_VH = torch.zeros_like(head_VH, dtype=torch.float32)
        chunks = []
        for start in range(0, len(hidden_NH), objective.chunk_size):
            span = slice(start, start + objective.chunk_size)
            hidden_CH = hidden_NH[span]
            stats, grad_CV = chunk_statistics(
                hidden_CH @ head.T,
                teacher_hidden_NG[span] @ teacher_head.T,
                target_ids_N[span],
                objective,
            )
            grad_CV = grad_CV.to(hidden_NH.dtype)
            grad_hidden_NH[span] = grad_CV @ head
            grad_head_VH[:size] += grad_CV.T @ hidden_CH
            chunks.append(stats)
        ctx.save_for_backward(grad_hidden_NH, grad_head_VH.to(head_VH.dtype))
        stats = TokenStats(*(torch.cat(values) for values in zip(*chunks, strict=True)))
        ctx.mark_non_differentiable(*stats)
        per_token_N = objective.kl_loss_coef * stats.kl_N - objective.entropy_coeff * stats.student_entropy_N
        return per_token_N.sum(), *stats

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NH, grad_head_VH = ctx.saved_tensors
        scale = grads[0]
        return grad_hidden_NH * scale, grad_head_VH * scale, None, None, None, None


def reverse_kl_loss(
    hidden_NH: Tensor,
    head_VH: Tensor,
    teacher_hidden_NG: Tensor,
    teacher_head_VG: Tensor,
    target_ids_N: Tensor,
    objective: Objective,
) -> tuple[Tensor, TokenStats]:
    """Sum of the loss over N >= 1 response tokens (float32 scalar), and the statistics of each token.

    Gradients flow to `hidden_NH` and `head_VH`; the teacher's tensors and the statistics get none. Heads may
    have more rows than `objective.vocab_size` (padding); those rows take no part and get zero gradient.
    """
    loss, *stats = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]  # torch has no types for it
        hidden_NH, head_VH, teacher_hidden_NG, teacher_head_VG, target_ids_N, objective
    )
    return loss, TokenStats(*stats)
