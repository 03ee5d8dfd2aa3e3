"""The distillation term of the loss: value, slope and metrics of a chunk of tokens.

The kinds `topk`, `student_topk` and `sampled` are here; the divergences over the whole vocabulary are in
`divergences`.

Dimensions: C tokens of a chunk, V shared vocabulary, K listed tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from distillctl.objective.buckets import coarsen, overlap, spread, with_tail
from distillctl.objective.divergences import divergence
from distillctl.objective.estimators import estimate, k3
from distillctl.objective.inputs import Objective, ValueAndSlope
from distillctl.objective.policy import clipped_surrogate
from distillctl.objective.teacher_scores import TopK

Stats = dict[str, Tensor]
"""Values [C] by the name of the metric. `run/metrics.py` has the units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The log-probabilities of both models at C tokens.

    The student's distribution is whole. The teacher's is either whole or a list of tokens.
    """

    log_q_CV: Tensor
    q_CV: Tensor
    log_p_CV: Tensor | None
    listed: TopK | None
    target_C1: Tensor
    logq_C: Tensor
    """log q of the sampled token."""
    logp_C: Tensor
    """log p of the sampled token."""
    log_ratio_C: Tensor
    """log q minus the log-probability with which the engine sampled the token."""

    def importance(self, max_ratio: float | None) -> Tensor:
        """Importance weight [C] of the sampled token under the current weights, truncated at `max_ratio`.

        It is 1 when `max_ratio` is None.
        """
        if max_ratio is None:
            return torch.ones_like(self.log_ratio_C)
        return self.log_ratio_C.clamp(max=math.log(max_ratio)).exp()

    def one_hot(self, slope_C: Tensor) -> Tensor:
        """Slope [C, V] of a value that depends on the sampled token only."""
        return torch.zeros_like(self.log_q_CV).scatter_(-1, self.target_C1, slope_C[:, None])


class Term(NamedTuple):
    """A term of the loss: its value, its slope, and the metrics that only it has."""

    value_C: Tensor
    slope_CV: Tensor
    stats: Stats


def distillation_term(chunk: Chunk, objective: Objective) -> Term:
    """The term D of the objective, after `max_clamp` and before its coefficient."""
    match objective.kind:
        case "topk":
            term = _topk(chunk, objective)
        case "student_topk":
            term = _student_topk(chunk, objective)
        case "sampled" if objective.policy_gradient:
            term = _policy_gradient(chunk, objective)
        case "sampled":
            value_C, slope_C = estimate(objective.estimator, chunk.logq_C - chunk.logp_C)
            weight_C = chunk.importance(objective.max_ratio)
            term = Term(weight_C * value_C, chunk.one_hot(weight_C * slope_C), {})
        case None:
            assert objective.custom is not None
            term = _whole(objective.custom, chunk, objective)
        case kind:
            term = _whole(divergence(kind), chunk, objective)
    if objective.max_clamp is None or objective.policy_gradient:
        return term
    bound = objective.max_clamp
    outside_C = term.value_C.abs() > bound
    slope_CV = term.slope_CV.masked_fill_(outside_C[:, None], 0.0)
    return Term(term.value_C.clamp(-bound, bound), slope_CV, term.stats)


def _whole(value_and_slope: ValueAndSlope, chunk: Chunk, objective: Objective) -> Term:
    """A divergence over the whole vocabulary."""
    assert chunk.log_p_CV is not None, "a divergence needs the whole distribution of the teacher"
    return Term(*value_and_slope(chunk.log_q_CV, chunk.q_CV, chunk.log_p_CV, objective), {})


def _policy_gradient(chunk: Chunk, objective: Objective) -> Term:
    """A policy gradient. The advantage of each token is -(log q - log p), and no gradient flows through it.

    Source: "On-Policy Distillation", Thinking Machines Lab, 2025.
    """
    advantage_C = chunk.logp_C - chunk.logq_C
    if objective.max_clamp is not None:
        advantage_C = advantage_C.clamp(-objective.max_clamp, objective.max_clamp)
    surrogate = clipped_surrogate(chunk.log_ratio_C, advantage_C, objective.clip_ratio)
    stats = {"actor/pg_clipfrac": surrogate.clipped_C}
    return Term(surrogate.value_C, chunk.one_hot(surrogate.slope_C), stats)


def _topk(chunk: Chunk, objective: Objective) -> Term:
    """A divergence over the teacher's K most likely tokens and one bucket for all others."""
    if chunk.listed is None:
        assert chunk.log_p_CV is not None
        ids_CK = chunk.log_p_CV.topk(min(objective.topk, objective.vocab_size)).indices
        log_p_CB = coarsen(chunk.log_p_CV, ids_CK)
    else:
        ids_CK = chunk.listed.ids_NK
        log_p_CB = with_tail(chunk.listed.logp_NK, ids_CK, objective.vocab_size)
    log_q_CB = coarsen(chunk.log_q_CV, ids_CK)
    value_and_slope = divergence(objective.topk_divergence)
    value_C, slope_CB = value_and_slope(log_q_CB, log_q_CB.exp(), log_p_CB, objective)
    slope_CV = spread(slope_CB, chunk.log_q_CV, log_q_CB, ids_CK)
    own_ids_CK = chunk.log_q_CV.topk(ids_CK.shape[-1]).indices
    return Term(value_C, slope_CV, _coverage(log_q_CB, log_p_CB, own_ids_CK, ids_CK, objective))


def _student_topk(chunk: Chunk, objective: Objective) -> Term:
    """Reverse KL, exact on the set S of the student's K most likely tokens and estimated on the rest.

    The estimate comes from the sampled token y:

        sum over S of sg(q d) log q + [y not in S] sg(d) log q(y),    d = log q - log p, sg = stop-gradient

    For any S, the expected gradient is that of the full reverse KL.
    """
    stats: Stats = {}
    if chunk.listed is None:
        assert chunk.log_p_CV is not None
        ids_CK = chunk.log_q_CV.topk(min(objective.topk, objective.vocab_size)).indices
        logp_CK = chunk.log_p_CV.gather(-1, ids_CK)
        teacher_ids_CK = chunk.log_p_CV.topk(ids_CK.shape[-1]).indices
        log_p_CB = with_tail(logp_CK, ids_CK, objective.vocab_size)
        stats = _coverage(coarsen(chunk.log_q_CV, ids_CK), log_p_CB, ids_CK, teacher_ids_CK, objective)
    else:
        ids_CK = chunk.listed.ids_NK
        logp_CK = chunk.listed.logp_NK
    missing_CK = ids_CK < 0
    logq_CK = chunk.log_q_CV.gather(-1, ids_CK.clamp_min(0))
    exact_CK = (logq_CK.exp() * (logq_CK - logp_CK)).masked_fill(missing_CK, 0.0)
    outside_C = ~(ids_CK == chunk.target_C1).any(-1)
    weight_C = chunk.importance(objective.max_ratio)
    sampled_C = torch.where(outside_C, weight_C * (chunk.logq_C - chunk.logp_C), 0.0)
    slope_CV = chunk.one_hot(sampled_C).scatter_add_(-1, ids_CK.clamp_min(0), exact_CK)
    return Term(exact_CK.sum(-1) + sampled_C, slope_CV, stats)


def _coverage(
    log_q_CB: Tensor, log_p_CB: Tensor, own_ids_CK: Tensor, teacher_ids_CK: Tensor, objective: Objective
) -> Stats:
    return {
        "topk/student_mass": log_q_CB[:, :-1].exp().sum(-1),
        "topk/teacher_mass": log_p_CB[:, :-1].exp().sum(-1),
        "topk/overlap": overlap(own_ids_CK, teacher_ids_CK, objective.vocab_size),
    }


def chunk_stats(chunk: Chunk) -> Stats:
    """The metrics that every objective reports. They are exact when the teacher's distribution is whole.

    For a teacher that lists tokens, the KL and entropy of the teacher are computed over the buckets {sampled
    token, listed tokens, rest}. These values are lower bounds.
    """
    if chunk.log_p_CV is not None:
        log_q_CB = chunk.log_q_CV
        q_CB = chunk.q_CV
        log_p_CB = chunk.log_p_CV
    else:
        assert chunk.listed is not None
        ids_CK = chunk.listed.ids_NK
        others_CK = ids_CK.masked_fill(ids_CK == chunk.target_C1, -1)
        ids_CX = torch.cat([chunk.target_C1, others_CK], -1)
        logp_CX = torch.cat([chunk.logp_C[:, None], chunk.listed.logp_NK], -1)
        log_q_CB = coarsen(chunk.log_q_CV, ids_CX)
        log_p_CB = with_tail(logp_CX, ids_CX, chunk.log_q_CV.shape[-1])
        q_CB = log_q_CB.exp()
    d_C = chunk.logq_C - chunk.logp_C
    p_CB = log_p_CB.exp()
    difference_CB = log_q_CB - log_p_CB
    return {
        "kl/reverse": torch.linalg.vecdot(q_CB, difference_CB),
        "kl/forward": -torch.linalg.vecdot(p_CB, difference_CB),
        "kl/k1": d_C,
        "kl/k3": k3(d_C),
        "actor/entropy": -torch.linalg.vecdot(chunk.q_CV, chunk.log_q_CV),
        "teacher/entropy": -torch.linalg.vecdot(p_CB, log_p_CB),
    }
