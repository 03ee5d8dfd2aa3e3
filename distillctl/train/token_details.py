"""Details of rollouts token by token, for people to read: KL, and the most likely tokens of both models.

Dimensions: T response tokens of one rollout, K alternatives, N tokens of a micro-batch, X columns of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distillctl.data_types import MicroBatch, Rollout
from distillctl.objective.alternatives import Alternatives
from distillctl.train.distributed import Distributed
from distillctl.train.token_table import TokenTable

NUM_DETAILED = 64
"""Rollouts of a step, or responses of an evaluation, that get details. Their cost does not grow with the
batch."""
NUM_ALTERNATIVES = 5
"""Most alternatives of each model at each token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDetails:
    """The tokens of one rollout.

    Ids are int32; log-probabilities are float32, in nats. A token that was not measured, because it is not
    trained on, has ids of -1 and values of NaN. Ids are also -1 where the teacher lists fewer than K tokens.
    """

    kl: np.ndarray
    """float32 [T], nats: reverse KL under the current weights, at temperature 1."""
    student_ids: np.ndarray
    """[T, K], most likely first, like all fields below."""
    student_logp: np.ndarray
    teacher_ids: np.ndarray
    teacher_logp: np.ndarray


class DetailTable:
    """Collects details of the first rollouts of a batch, micro-batch by micro-batch. May have no rollouts."""

    def __init__(self, rollouts: Sequence[Rollout], vocab_size: int) -> None:
        self.num_alternatives = min(NUM_ALTERNATIVES, vocab_size)
        self._table = TokenTable(rollouts, 1 + 4 * self.num_alternatives, torch.float64)  # holds ids exactly

    def wanted(self, batch: MicroBatch) -> Tensor | None:
        """int64: the tokens of a micro-batch, out of N, that need alternatives; None for an empty table."""
        return self._table.tokens_with_rows(batch).to(batch.rows_N.device) if len(self._table) else None

    def add(self, batch: MicroBatch, found: Alternatives) -> None:
        """Store the alternatives of the tokens that were wanted."""
        kl_N1 = found.kl_N[:, None].double()
        self._table.put(batch, torch.cat([kl_N1, *(part.double() for part in found[1:])], -1))

    def collect(self, distributed: Distributed) -> list[TokenDetails]:
        """The details of each rollout, joined over all ranks. Collective."""
        return [_details(values_TX, self.num_alternatives) for values_TX in self._table.collect(distributed)]


def _details(values_TX: np.ndarray, count: int) -> TokenDetails:
    kl_T1, *columns = np.split(values_TX, range(1, 1 + 4 * count, count), axis=1)
    student_ids, student_logp, teacher_ids, teacher_logp = columns
    return TokenDetails(
        kl=kl_T1[:, 0].astype(np.float32),
        student_ids=np.nan_to_num(student_ids, nan=-1).astype(np.int32),
        student_logp=student_logp.astype(np.float32),
        teacher_ids=np.nan_to_num(teacher_ids, nan=-1).astype(np.int32),
        teacher_logp=teacher_logp.astype(np.float32),
    )
