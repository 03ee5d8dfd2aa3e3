"""The loss of many tokens, chunk by chunk from hidden states. The forward pass also makes the gradient.

The loss of token n, for student q and teacher p (Agarwal et al. 2023, arXiv 2306.13649; as there, the
gradient is not propagated through the distribution of prefixes):

    L_n = kl_loss_coef * D(q_n, p_n) - entropy_coeff * H(q_n) + clipped policy gradient of a task reward

No teacher scores reference answers. Their loss is the cross-entropy -log q of the token (`cross_entropy`).

Logits exist for `chunk_size` tokens at a time. Each chunk costs four matrix products with an LM head (student
logits, teacher logits, and the student's gradients with respect to hidden states and LM head). No logits are
kept for the backward pass.

Dimensions: N response tokens, C of one chunk, H student's hidden size, V shared vocabulary, S statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distillctl.objective.estimators import k3
from distillctl.objective.inputs import Objective, Tokens
from distillctl.objective.log_probs import log_probs
from distillctl.objective.matmul import add_head_gradient, hidden_gradient
from distillctl.objective.policy import clipped_surrogate
from distillctl.objective.teacher_scores import TeacherChunk, TeacherScores
from distillctl.objective.terms import Chunk, Stats, chunk_stats, distillation_term

_STATS = ("actor/loss", "actor/kl_loss", "kl/reverse", "kl/forward", "teacher/entropy", "kl/k1", "kl/k3",
          "actor/entropy", "rollout/mismatch_kl")  # fmt: skip
_COVERAGE = ("topk/student_mass", "topk/teacher_mass", "topk/overlap")
CROSS_ENTROPY_STATS = ("actor/loss",)
"""Names of the rows of the statistics that `cross_entropy` returns."""

ChunkLosses = Callable[[slice, Tensor], tuple[Stats, Tensor]]
"""Takes a span of C of the N tokens, and the student's log-probabilities [C, V] at them. Gives their
statistics, and the gradient [C, V] of their weighted loss with respect to the student's logits."""


def stat_names(objective: Objective, teacher: TeacherScores, *, rewarded: bool) -> tuple[str, ...]:
    """Names of the rows of the statistics that `chunked_loss` returns."""
    names = [*_STATS]
    if objective.kind == "topk" or (objective.kind == "student_topk" and teacher.listed is None):
        names += _COVERAGE
    if objective.policy_gradient or rewarded:
        names.append("actor/pg_clipfrac")
    if rewarded:
        names.append("actor/pg_loss")
    return tuple(names)


def chunked_loss(
    hidden_NH: Tensor, head_VH: Tensor, teacher: TeacherScores, tokens: Tokens, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the loss over N tokens (a scalar), and statistics [S, N] named by `stat_names`.

    Gradients flow to `hidden_NH` and `head_VH` only. Statistics are not weighted. LM heads may have more rows
    than `objective.vocab_size` (padding); these rows are ignored and get zero gradient. Softmax and sums are
    float32 for 16-bit inputs. Collective for a sharded teacher, whose LM head is gathered.
    """
    names = stat_names(objective, teacher, rewarded=tokens.advantages_N is not None)
    losses = partial(_distillation, teacher=teacher, tokens=tokens, objective=objective)
    with teacher.gather():
        return _apply(hidden_NH, head_VH, losses, names, tokens.weights_N, objective)


def cross_entropy(
    hidden_NH: Tensor, head_VH: Tensor, tokens: Tokens, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Weighted sum of -log q of N reference tokens, and statistics [S, N] named by `CROSS_ENTROPY_STATS`.

    Takes temperature, vocabulary and chunk size from `objective`. Heads, dtypes and gradients are as in
    `chunked_loss`.
    """
    losses = partial(_cross_entropy, tokens=tokens, objective=objective)
    return _apply(hidden_NH, head_VH, losses, CROSS_ENTROPY_STATS, tokens.weights_N, objective)


def _apply(
    hidden_NH: Tensor,
    head_VH: Tensor,
    losses: ChunkLosses,
    names: tuple[str, ...],
    weights_N: Tensor,
    objective: Objective,
) -> tuple[Tensor, Tensor]:
    loss, stats_SN = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]  # torch has no types for it
        hidden_NH, head_VH, losses, names, weights_N, objective
    )
    return loss, stats_SN


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        head_VH: Tensor,
        losses: ChunkLosses,
        names: tuple[str, ...],
        weights_N: Tensor,
        objective: Objective,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        grad_hidden_NH = torch.empty_like(hidden_NH)
        grad_head_VH = torch.zeros_like(head_VH, dtype=dtype)
        stats_SN = torch.empty(len(names), len(hidden_NH), dtype=dtype, device=hidden_NH.device)
        head = head_VH[: objective.vocab_size]
        grad_head = grad_head_VH[: objective.vocab_size]
        for start in range(0, len(hidden_NH), objective.chunk_size):
            span = slice(start, start + objective.chunk_size)
            log_q_CV = log_probs(hidden_NH[span], head, objective.temperature)
            stats, grad_CV = losses(span, log_q_CV)
            add_head_gradient(grad_head, grad_CV, hidden_NH[span])
            grad_hidden_NH[span] = hidden_gradient(grad_CV, head)
            stats_SN[:, span] = torch.stack([stats[name] for name in names])
            del log_q_CV, grad_CV, stats  # the largest tensors: free them before the next chunk makes its own
        ctx.grads = grad_hidden_NH, grad_head_VH.to(head_VH.dtype)
        ctx.mark_non_differentiable(stats_SN)
        return stats_SN[0] @ weights_N.to(dtype), stats_SN

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NH, grad_head_VH = ctx.grads
        ctx.grads = None  # a head's gradient is large, and backward runs once
        return grad_hidden_NH.mul_(grads[0]), grad_head_VH.mul_(grads[0]), None, None, None, None


def _distillation(
    span: slice, log_q_CV: Tensor, *, teacher: TeacherScores, tokens: Tokens, objective: Objective
) -> tuple[Stats, Tensor]:
    """`ChunkLosses` of the distillation objective."""
    chunk_tokens = tokens[span]
    known = teacher.chunk(
        span,
        chunk_tokens.target_ids_N,
        vocab_size=objective.vocab_size,
        temperature=objective.temperature,
    )
    return token_losses(log_q_CV, known, chunk_tokens, objective)


def _cross_entropy(
    span: slice, log_q_CV: Tensor, *, tokens: Tokens, objective: Objective
) -> tuple[Stats, Tensor]:
    """`ChunkLosses` of the cross-entropy."""
    chunk_tokens = tokens[span]
    target_C1 = chunk_tokens.target_ids_N[:, None]
    loss_C = -log_q_CV.gather(-1, target_C1).squeeze(-1)
    slope_CV = torch.zeros_like(log_q_CV).scatter_(-1, target_C1, -1.0)
    gradient_CV = _logit_gradient(slope_CV, log_q_CV.exp(), chunk_tokens, objective)
    return {"actor/loss": loss_C}, gradient_CV


def token_losses(
    log_q_CV: Tensor, teacher: TeacherChunk, tokens: Tokens, objective: Objective
) -> tuple[Stats, Tensor]:
    """Statistics of C tokens and the gradient [C, V] of their weighted loss with respect to the student's
    logits."""
    target_C1 = tokens.target_ids_N[:, None]
    logq_C = log_q_CV.gather(-1, target_C1).squeeze(-1)
    q_CV = log_q_CV.exp()
    chunk = make_chunk(log_q_CV, q_CV, logq_C, teacher, tokens)
    stats = chunk_stats(chunk)
    term = distillation_term(chunk, objective)
    stats |= {**term.stats, "actor/kl_loss": term.value_C}
    log_r_CV = _sampling_log_probs(chunk, objective)
    log_ratio_C = log_r_CV.gather(-1, target_C1).squeeze(-1) - tokens.rollout_logp_N
    stats["rollout/mismatch_kl"] = k3(-log_ratio_C)
    loss_C = objective.kl_loss_coef * term.value_C - objective.entropy_coeff * stats["actor/entropy"]
    slope_CV = term.slope_CV.mul_(objective.kl_loss_coef)
    if objective.entropy_coeff:
        slope_CV.addcmul_(q_CV, log_q_CV, value=objective.entropy_coeff)
    if tokens.advantages_N is not None:
        surrogate = clipped_surrogate(log_ratio_C, tokens.advantages_N, objective.clip_ratio)
        stats |= {"actor/pg_loss": surrogate.value_C, "actor/pg_clipfrac": surrogate.clipped_C}
        loss_C = loss_C + surrogate.value_C
        _add_sampled_slope(slope_CV, surrogate.slope_C, log_r_CV, chunk, objective)
    return {**stats, "actor/loss": loss_C}, _logit_gradient(slope_CV, q_CV, tokens, objective)


def make_chunk(
    log_q_CV: Tensor, q_CV: Tensor, logq_C: Tensor, teacher: TeacherChunk, tokens: Tokens
) -> Chunk:
    """The `Chunk` of C tokens, from the log-probabilities of both models."""
    target_C1 = tokens.target_ids_N[:, None]
    log_ratio_C = logq_C - tokens.rollout_logp_N
    return Chunk(
        log_q_CV=log_q_CV,
        q_CV=q_CV,
        log_p_CV=teacher.log_p_CV,
        listed=teacher.listed,
        target_C1=target_C1,
        logq_C=logq_C,
        logp_C=teacher.logp_C,
        log_ratio_C=log_ratio_C,
    )


def _sampling_log_probs(chunk: Chunk, objective: Objective) -> Tensor:
    """log r [C, V], where r is the distribution that rollouts sample from: q at their temperature."""
    if objective.rollout_temperature == objective.temperature:
        return chunk.log_q_CV
    return (chunk.log_q_CV * _temperature_ratio(objective)).log_softmax(-1)


def _temperature_ratio(objective: Objective) -> float:
    """The factor between log q and log r, up to a constant: log r = factor * log q + const."""
    return objective.temperature / objective.rollout_temperature


def _add_sampled_slope(
    slope_CV: Tensor, slope_C: Tensor, log_r_CV: Tensor, chunk: Chunk, objective: Objective
) -> None:
    """Convert a slope [C] with respect to log r of the sampled token, and add it to the slope [C, V]."""
    scaled_C1 = slope_C[:, None] * _temperature_ratio(objective)
    slope_CV.scatter_add_(-1, chunk.target_C1, scaled_C1)
    if log_r_CV is not chunk.log_q_CV:  # otherwise the term is a multiple of q, which changes nothing
        slope_CV.sub_(log_r_CV.exp().mul_(scaled_C1))


def _logit_gradient(slope_CV: Tensor, q_CV: Tensor, tokens: Tokens, objective: Objective) -> Tensor:
    """weight * (u - q sum(u)) / temperature. Overwrites the slope u."""
    slope_CV.addcmul_(q_CV, slope_CV.sum(-1, keepdim=True), value=-1.0)
    return slope_CV.mul_((tokens.weights_N / objective.temperature).to(slope_CV.dtype)[:, None])
