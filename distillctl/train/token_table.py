"""Values of single response tokens, collected from the micro-batches of all ranks.

Dimensions: T response tokens of one rollout, N tokens of a micro-batch or of all rollouts, X columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distillctl.data_types import MicroBatch, Rollout
from distillctl.train.distributed import Distributed


class TokenTable:
    """A row for each response token of some rollouts. May have no rollouts.

    `rollouts` are the first rollouts of the batch. `MicroBatch.members` has indices into the whole batch; its
    other rollouts have no rows.
    """

    def __init__(self, rollouts: Sequence[Rollout], num_columns: int, dtype: torch.dtype) -> None:
        self._num_rollouts = len(rollouts)
        self._offsets = np.cumsum([0, *(len(rollout.response_ids) for rollout in rollouts)])
        self._values_NX = torch.zeros(int(self._offsets[-1]), 1 + num_columns, dtype=dtype)
        """The first column is 1 for a token that was measured. Its values follow."""

    def __len__(self) -> int:
        """Number of rollouts with rows."""
        return self._num_rollouts

    def tokens_with_rows(self, batch: MicroBatch) -> Tensor:
        """int64: the indices of the micro-batch's tokens, out of N, that have a row here."""
        return (self._rows(batch) >= 0).nonzero().squeeze(-1)

    def put(self, batch: MicroBatch, values_NX: Tensor) -> None:
        """Store the values of `tokens_with_rows(batch)`, in that order."""
        rows_N = self._rows(batch)
        values_NX = values_NX.to("cpu", self._values_NX.dtype)
        measured_N1 = torch.ones_like(values_NX[:, :1])
        self._values_NX[rows_N[rows_N >= 0]] = torch.cat([measured_N1, values_NX], -1)

    def _rows(self, batch: MicroBatch) -> Tensor:
        """int64: the row of each of the micro-batch's N tokens; -1 for a token without a row."""
        rows = [torch.full((end - start,), -1) for start, end in batch.spans]
        for i, member in enumerate(batch.members):  # a filler has no members
            if member < self._num_rollouts:
                rows[i] = int(self._offsets[member]) + torch.arange(len(rows[i]))
        return torch.cat(rows)

    def collect(self, distributed: Distributed) -> list[np.ndarray]:
        """The values [T, X] of each rollout, from all ranks; NaN for unmeasured tokens. Collective."""
        if not self._num_rollouts:
            return []
        values_NX = distributed.sum(self._values_NX).numpy()
        values_NX = np.where(values_NX[:, :1], values_NX[:, 1:], np.nan).astype(values_NX.dtype)
        return np.split(values_NX, self._offsets[1:-1])
