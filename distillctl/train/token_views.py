"""Rollouts token by token, for people to look at: KL, and what both models would rather have written.

Dimensions: T response tokens of one rollout, K alternatives, N tokens of all rollouts looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from distillctl.objective.alternatives import Alternatives
from distillctl.samples import MicroBatch, Rollout
from distillctl.train.batch import micro_batches

if TYPE_CHECKING:
    from distillctl.train.loop import Trainer

NUM_VIEWED = 64
"""Rollouts of a step, or answers of an evaluation, that are looked at: their cost does not grow with the
batch."""
NUM_ALTERNATIVES = 5


@dataclass(frozen=True, slots=True)
class TokenView:
    """One rollout. Ids are int32, -1 where a served teacher lists fewer; log-probabilities float32, nats."""

    kl: np.ndarray
    """float32 [T], nats: reverse KL under the weights of the moment, at temperature 1."""
    student_ids: np.ndarray
    """[T, K], most likely first; so are the teacher's."""
    student_logp: np.ndarray
    teacher_ids: np.ndarray
    teacher_logp: np.ndarray


def token_views(trainer: Trainer, rollouts: Sequence[Rollout]) -> list[TokenView]:
    """Views of the first `NUM_VIEWED` rollouts. Collective; trains nothing and draws no random numbers."""
    rollouts = list(rollouts[:NUM_VIEWED])
    if not rollouts:
        return []
    offsets = np.cumsum([0, *(len(rollout.response_ids) for rollout in rollouts)])
    count = min(NUM_ALTERNATIVES, trainer.objective.vocab_size)
    table_NX = torch.zeros(int(offsets[-1]), 1 + 4 * count, dtype=torch.float64)  # holds ids exactly
    for name, teacher in trainer.teachers.items():
        members = [i for i, rollout in enumerate(rollouts) if rollout.prompt.teacher == name]
        batches = micro_batches(rollouts, members, trainer.config, trainer.ranks, 1.0)
        for scored in teacher.score([_listing(trainer, batch) for batch in batches]):
            with trainer.teacher_view(name, scored) as view:
                found = trainer.student.alternatives(scored.batch, view, trainer.objective.vocab_size, count)
            _store(table_NX, found, scored.batch, offsets)
    table = trainer.ranks.sum(table_NX).numpy()
    return [_view(part, count) for part in np.split(table, offsets[1:-1])]


def _listing(trainer: Trainer, batch: MicroBatch) -> MicroBatch:
    """A served teacher that is asked for chosen tokens needs a list, which greedy answers lack."""
    if trainer.asks_for_student_tokens and batch.topk_ids_NK is None:
        return replace(batch, topk_ids_NK=batch.target_ids_N[:, None])
    return batch


def _store(table_NX: torch.Tensor, found: Alternatives, batch: MicroBatch, offsets: np.ndarray) -> None:
    """Put a micro-batch's tokens at their place in the table of all rollouts."""
    columns_NX = torch.cat([found.kl_N[:, None], *(part.double() for part in found[1:])], -1).cpu()
    start = 0
    for member in batch.members:
        low, high = int(offsets[member]), int(offsets[member + 1])
        table_NX[low:high] = columns_NX[start : start + high - low]
        start += high - low


def _view(table_TX: np.ndarray, count: int) -> TokenView:
    parts = np.split(table_TX, [1, 1 + count, 1 + 2 * count, 1 + 3 * count], axis=1)
    kl_T1, student_ids, student_logp, teacher_ids, teacher_logp = parts
    return TokenView(
        kl_T1[:, 0].astype(np.float32), student_ids.astype(np.int32), student_logp.astype(np.float32),
        teacher_ids.astype(np.int32), teacher_logp.astype(np.float32),
    )  # fmt: skip
