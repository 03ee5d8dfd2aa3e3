"""The most likely tokens of both models at each position, for people to read. No gradients.

Dimensions: N response tokens, C of one chunk, H the student's hidden size, V shared vocabulary, K
alternatives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distillctl.objective.chunked import chunked_loss, make_chunk
from distillctl.objective.inputs import Objective, Tokens
from distillctl.objective.log_probs import log_probs
from distillctl.objective.teacher_scores import TeacherChunk, TeacherScores
from distillctl.objective.terms import chunk_stats

CHUNK = 128
"""Tokens whose logits exist at the same time."""


class Alternatives(NamedTuple):
    """The most likely tokens at N positions, at temperature 1, in order of falling probability."""

    kl_N: Tensor
    """float32, nats: reverse KL, as exact as the metric `kl/reverse`."""
    student_ids_NK: Tensor
    """int64."""
    student_logp_NK: Tensor
    """float32, nats."""
    teacher_ids_NK: Tensor
    """int64; -1 where the teacher lists fewer than K tokens."""
    teacher_logp_NK: Tensor


@torch.no_grad()
def alternatives(
    hidden_NH: Tensor,
    head_VH: Tensor,
    teacher: TeacherScores,
    target_ids_N: Tensor,
    vocab_size: int,
    count: int,
) -> Alternatives:
    """The `count` most likely tokens of student and teacher within the shared vocabulary.

    A teacher that lists tokens has only the tokens that it was asked for. Collective for a sharded teacher.
    """
    chunks = []
    with teacher.gather():
        for start in range(0, max(len(hidden_NH), 1), CHUNK):  # no tokens make one empty chunk
            span = slice(start, start + CHUNK)
            targets_C = target_ids_N[span]
            known = teacher.chunk(span, targets_C, vocab_size=vocab_size, temperature=1.0)
            chunks.append(_chunk(hidden_NH[span], head_VH[:vocab_size], known, targets_C, count))
    return Alternatives(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


def loss_and_alternatives(
    hidden_NH: Tensor,
    head_VH: Tensor,
    teacher: TeacherScores,
    tokens: Tokens,
    objective: Objective,
    rows: Tensor,
    count: int,
) -> tuple[Tensor, ...]:
    """`chunked_loss`, and the `Alternatives` of the tokens `rows` from the same hidden states."""
    loss, stats_SN = chunked_loss(hidden_NH, head_VH, teacher, tokens, objective)
    found = alternatives(
        hidden_NH[rows], head_VH, teacher[rows], tokens.target_ids_N[rows], objective.vocab_size, count
    )
    return loss, stats_SN, *found


def _chunk(
    hidden_CH: Tensor, head_VH: Tensor, teacher: TeacherChunk, target_ids_C: Tensor, count: int
) -> Alternatives:
    log_q_CV = log_probs(hidden_CH, head_VH, 1.0)
    logq_C = log_q_CV.gather(-1, target_ids_C[:, None]).squeeze(-1)
    tokens = Tokens(target_ids_C, logq_C, logq_C)
    stats = chunk_stats(make_chunk(log_q_CV, log_q_CV.exp(), logq_C, teacher, tokens))
    student_logp_CK, student_ids_CK = log_q_CV.topk(count)
    logp_CK, ids_CK = _most_likely(teacher, count)
    values = (stats["kl/reverse"], student_ids_CK, student_logp_CK, ids_CK, logp_CK)
    return Alternatives(*(v.float() if v.is_floating_point() else v for v in values))


def _most_likely(teacher: TeacherChunk, count: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and ids [C, count] of the teacher's most likely tokens; -1 pads a short list."""
    if teacher.log_p_CV is not None:
        logp_CK, ids_CK = teacher.log_p_CV.topk(count)
        return logp_CK, ids_CK
    listed = teacher.listed
    assert listed is not None
    short = max(count - listed.ids_NK.shape[1], 0)
    ids_CX = F.pad(listed.ids_NK, (0, short), value=-1)
    logp_CX = F.pad(listed.logp_NK, (0, short)).masked_fill(ids_CX < 0, -torch.inf)
    logp_CK, order_CK = logp_CX.topk(count)
    ids_CK = ids_CX.gather(-1, order_CK)
    return logp_CK, ids_CK.masked_fill(logp_CK.isneginf(), -1)
