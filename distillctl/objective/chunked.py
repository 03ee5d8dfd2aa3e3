"""The loss of many tokens, chunk by chunk from hidden states, with the gradient made in the forward pass.

The loss of token n, for student q and teacher p (Agarwal et al. 2023, arXiv 2306.13649, with the gradient not
propagated through the distribution of prefixes):

    L_n = kl_loss_coef * D(q_n, p_n) - entropy_coeff * H(q_n) + clipped policy gradient of a task reward

and without a teacher it is the cross-entropy -log q of the token (reference answers).

Logits exist for `chunk_size` tokens at a time. Each chunk costs four matrix products with a head (student
logits, teacher logits, and the student's gradients with respect to hidden states and head); none is kept.

Dimensions: N response tokens, C of one chunk, H student's hidden size, V shared vocabulary, S statistics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distillctl.objective.divergence import log_probs
from distillctl.objective.estimators import k3
from distillctl.objective.inputs import Dense, Objective, Teacher, Tokens, TopK
from distillctl.objective.matmul import add_head_gradient, hidden_gradient
from distillctl.objective.policy import clipped_surrogate
from distillctl.objective.terms import Chunk, Stats, chunk_stats, distillation_term

_STATS = ("actor/loss", "actor/kl_loss", "kl/reverse", "kl/forward", "teacher/entropy", "kl/k1", "kl/k3",
          "actor/entropy", "rollout/mismatch_kl")  # fmt: skip
_COVERAGE = ("topk/student_mass", "topk/teacher_mass", "topk/overlap")


def stat_names(objective: Objective, teacher: Teacher, *, rewarded: bool) -> tuple[str, ...]:
    """Names of the rows of the statistics that `chunked_loss` returns."""
    if teacher is None:
        return ("actor/loss",)
    names = [*_STATS]
    if objective.kind == "topk" or (objective.kind == "student_topk" and isinstance(teacher, Dense)):
        names += _COVERAGE
    if objective.policy_gradient or rewarded:
        names.append("actor/pg_clipfrac")
    if rewarded:
        names.append("actor/pg_loss")
    return tuple(names)


def chunked_loss(
    hidden_NH: Tensor, head_VH: Tensor, teacher: Teacher, tokens: Tokens, objective: Objective
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the loss over N tokens (a scalar), and statistics [S, N] named by `stat_names`.

    Gradients flow to `hidden_NH` and `head_VH` only; statistics are not weighted. Heads may have more rows
    than `objective.vocab_size` (padding); those take no part and get zero gradient. Softmax and sums are
    float32 for 16-bit inputs.
    """
    loss, stats_SN = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]  # torch has no types for it
        hidden_NH, head_VH, teacher, tokens, objective
    )
    return loss, stats_SN


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, head_VH: Tensor, teacher: Teacher, tokens: Tokens, objective: Objective
    ) -> tuple[Tensor, Tensor]:
        names = stat_names(objective, teacher, rewarded=tokens.advantages_N is not None)
        dtype = torch.promote_types(hidden_NH.dtype, torch.float32)
        grad_hidden_NH = torch.empty_like(hidden_NH)
        grad_head_VH = torch.zeros_like(head_VH, dtype=dtype)
        stats_SN = torch.empty(len(names), len(hidden_NH), dtype=dtype, device=hidden_NH.device)
        head, grad_head = head_VH[: objective.vocab_size], grad_head_VH[: objective.vocab_size]
        for start in range(0, len(hidden_NH), objective.chunk_size):
            span = slice(start, start + objective.chunk_size)
            view = _teacher_view(teacher, span, objective)
            stats, grad_hidden_NH[span] = _chunk_gradients(
                hidden_NH[span], head, grad_head, view, tokens[span], objective
            )
            del view  # the largest tensor here: free it before the next chunk makes its own
            stats_SN[:, span] = torch.stack([stats[name] for name in names])
        ctx.grads = grad_hidden_NH, grad_head_VH.to(head_VH.dtype)
        ctx.mark_non_differentiable(stats_SN)
        return stats_SN[0] @ tokens.weights_N.to(dtype), stats_SN

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NH, grad_head_VH = ctx.grads
        ctx.grads = None  # a head's gradient is large, and backward runs once
        return grad_hidden_NH.mul_(grads[0]), grad_head_VH.mul_(grads[0]), None, None, None


def _chunk_gradients(
    hidden_CH: Tensor,
    head_VH: Tensor,
    grad_head_VH: Tensor,
    teacher: Tensor | TopK | None,
    tokens: Tokens,
    objective: Objective,
) -> tuple[Stats, Tensor]:
    """Statistics and the gradient [C, H] of the hidden states; adds that of the head to `grad_head_VH`."""
    log_q_CV = log_probs(hidden_CH, head_VH, objective.temperature)
    stats, grad_CV = token_losses(log_q_CV, teacher, tokens, objective)
    add_head_gradient(grad_head_VH, grad_CV, hidden_CH)
    return stats, hidden_gradient(grad_CV, head_VH)


def _teacher_view(teacher: Teacher, span: slice, objective: Objective) -> Tensor | TopK | None:
    """Some tokens of the teacher: log-probabilities of one at hand, the list of a served one."""
    if isinstance(teacher, Dense):
        head_VG = teacher.head_VG[: objective.vocab_size]
        return log_probs(teacher.hidden_NG[span], head_VG, objective.temperature)
    return None if teacher is None else teacher[span]


def token_losses(
    log_q_CV: Tensor, teacher: Tensor | TopK | None, tokens: Tokens, objective: Objective
) -> tuple[Stats, Tensor]:
    """Statistics of C tokens and the gradient [C, V] of their weighted loss with respect to the student's
    logits. `teacher`: its log-probabilities [C, V], what a served one lists, or None."""
    target_C1 = tokens.target_ids_N[:, None]
    logq_C, q_CV = log_q_CV.gather(-1, target_C1).squeeze(-1), log_q_CV.exp()
    if teacher is None:
        slope_CV = torch.zeros_like(log_q_CV).scatter_(-1, target_C1, -1.0)
        return {"actor/loss": -logq_C}, _logit_gradient(slope_CV, q_CV, tokens, objective)
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
    log_q_CV: Tensor, q_CV: Tensor, logq_C: Tensor, teacher: Tensor | TopK, tokens: Tokens
) -> Chunk:
    """What both models say about C tokens, from the student's log-probabilities and the teacher's view."""
    target_C1 = tokens.target_ids_N[:, None]
    log_ratio_C = logq_C - tokens.rollout_logp_N
    if isinstance(teacher, TopK):
        logp_C = teacher.target_logp_N
        return Chunk(log_q_CV, q_CV, None, teacher, target_C1, logq_C, logp_C, log_ratio_C)
    logp_C = teacher.gather(-1, target_C1).squeeze(-1)
    return Chunk(log_q_CV, q_CV, teacher, None, target_C1, logq_C, logp_C, log_ratio_C)


def _sampling_log_probs(chunk: Chunk, objective: Objective) -> Tensor:
    """log r [C, V] of the distribution that is sampled from: q at the temperature of the rollouts."""
    if objective.rollout_temperature == objective.temperature:
        return chunk.log_q_CV
    return (chunk.log_q_CV * _temperature_ratio(objective)).log_softmax(-1)


def _temperature_ratio(objective: Objective) -> float:
    """log r is log q times this, but for a constant."""
    return objective.temperature / objective.rollout_temperature


def _add_sampled_slope(
    slope_CV: Tensor, slope_C: Tensor, log_r_CV: Tensor, chunk: Chunk, objective: Objective
) -> None:
    """Add to the slope with respect to log q one [C] with respect to log r of the sampled token."""
    scaled_C1 = slope_C[:, None] * _temperature_ratio(objective)
    slope_CV.scatter_add_(-1, chunk.target_C1, scaled_C1)
    if log_r_CV is not chunk.log_q_CV:  # else a multiple of q, which changes nothing
        slope_CV.sub_(log_r_CV.exp().mul_(scaled_C1))


def _logit_gradient(slope_CV: Tensor, q_CV: Tensor, tokens: Tokens, objective: Objective) -> Tensor:
    """weight * (u - q sum(u)) / temperature; consumes the slope u."""
    slope_CV.addcmul_(q_CV, slope_CV.sum(-1, keepdim=True), value=-1.0)
    return slope_CV.mul_((tokens.weights_N / objective.temperature).to(slope_CV.dtype)[:, None])
