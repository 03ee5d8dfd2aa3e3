"""Rollouts token by token, for people to look at: KL, and what both models would rather have written.

Dimensions: T response tokens of one rollout, K alternatives, N tokens of a micro-batch or of all rollouts,
X columns of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distillctl.data_types import MicroBatch, Rollout
from distillctl.objective.alternatives import Alternatives
from distillctl.train.distributed import Ranks
from distillctl.train.metrics import Item

NUM_VIEWED = 64
"""Rollouts of a step, or answers of an evaluation, that are looked at: their cost does not grow with the
batch."""
NUM_ALTERNATIVES = 5
"""Of each model and token, at most."""


@dataclass(frozen=True, slots=True)
class TokenView:
    """One rollout. Ids are int32, -1 where nobody looked (tokens that are not trained on) or a served teacher
    lists fewer; log-probabilities float32, nats."""

    kl: np.ndarray
    """float32 [T], nats: reverse KL under the weights of the moment, at temperature 1; NaN where nobody
    looked."""
    student_ids: np.ndarray
    """[T, K], most likely first; so are the teacher's."""
    student_logp: np.ndarray
    teacher_ids: np.ndarray
    teacher_logp: np.ndarray


class TokenTable:
    """What is found out of each token of some rollouts (or of none), micro-batch by micro-batch.

    `rollouts` are the first of those that the micro-batches' members number; the others are left out.
    """

    def __init__(self, rollouts: Sequence[Rollout], vocab_size: int) -> None:
        self.count = min(NUM_ALTERNATIVES, vocab_size)
        """Alternatives of each model."""
        self._num_rollouts = len(rollouts)
        self._offsets = np.cumsum([0, *(len(rollout.response_ids) for rollout in rollouts)])
        self._values_NX = torch.zeros(int(self._offsets[-1]), 2 + 4 * self.count, dtype=torch.float64)
        """1 where somebody looked, the KL, and the alternatives; float64 holds ids exactly."""

    def wanted(self, item: Item) -> tuple[Tensor, int] | None:
        """Which of a micro-batch's N tokens there is a place for (int64), and how many alternatives of each.

        None where nobody looks: in a table of no rollouts, or without a teacher.
        """
        if item.teacher is None or not self._num_rollouts:
            return None
        places_N = self._places(item.batch)
        return (places_N >= 0).nonzero().squeeze(-1).to(item.batch.rows_N.device), self.count

    def add(self, batch: MicroBatch, found: Alternatives | None) -> None:
        """Put what was found of the tokens that were wanted at its place."""
        if found is None:
            return
        places_N, seen_N = self._places(batch), torch.ones_like(found.kl_N)
        columns_NX = torch.cat([torch.stack([seen_N, found.kl_N], -1), *(p.double() for p in found[1:])], -1)
        self._values_NX[places_N[places_N >= 0]] = columns_NX.cpu()

    def _places(self, batch: MicroBatch) -> Tensor:
        """int64: the table's row of each of the micro-batch's N tokens, -1 where it has none."""
        places = [torch.full((end - start,), -1) for start, end in batch.spans]
        for i, member in enumerate(batch.members):  # a filler has none
            if member < self._num_rollouts:
                places[i] = int(self._offsets[member]) + torch.arange(len(places[i]))
        return torch.cat(places)

    def views(self, ranks: Ranks) -> list[TokenView]:
        """One of each rollout, from what all ranks have found; collective."""
        if not self._num_rollouts:
            return []
        values = ranks.sum(self._values_NX).numpy()
        return [_view(part, self.count) for part in np.split(values, self._offsets[1:-1])]


def _view(values_TX: np.ndarray, count: int) -> TokenView:
    seen_T1, kl_T1, *parts = np.split(values_TX, [1, *range(2, 2 + 4 * count, count)], axis=1)
    student_ids, student_logp, teacher_ids, teacher_logp = parts
    kl_T1 = np.where(seen_T1, kl_T1, np.nan)
    return TokenView(
        kl_T1[:, 0].astype(np.float32),
        np.where(seen_T1, student_ids, -1).astype(np.int32), student_logp.astype(np.float32),
        np.where(seen_T1, teacher_ids, -1).astype(np.int32), teacher_logp.astype(np.float32),
    )  # fmt: skip
