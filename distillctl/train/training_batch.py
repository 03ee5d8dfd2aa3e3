"""Micro-batches for the update: rollouts with their teacher's scores, or reference answers.

Dimensions: N response tokens, S statistics, H the student's hidden size, V its padded vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from distillctl.data_types import MicroBatch
from distillctl.objective.alternatives import Alternatives, loss_and_alternatives
from distillctl.objective.chunked import CROSS_ENTROPY_STATS, chunked_loss, cross_entropy, stat_names
from distillctl.objective.inputs import Objective
from distillctl.objective.teacher_scores import TeacherScores


class TokenStats(NamedTuple):
    """Statistics and alternatives of the N tokens of a micro-batch."""

    stats_SN: Tensor
    """Statistics, in the order of `TrainingBatch.stat_names`; not weighted."""
    alternatives: Alternatives | None = None
    """Alternatives of the tokens that need them."""


class TrainingBatch(Protocol):
    """A micro-batch that knows its loss."""

    @property
    def micro_batch(self) -> MicroBatch:
        """The tokens."""

    @property
    def stat_names(self) -> tuple[str, ...]:
        """Metrics that the rows of its statistics are of."""

    @property
    def kl_names(self) -> tuple[str, ...]:
        """Further metrics, besides `kl/reverse`, that include this batch's reverse KL."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Metrics besides `actor/loss` for which the mean of its losses counts."""

    def loss(self, hidden_NH: Tensor, head_VH: Tensor) -> tuple[Tensor, ...]:
        """The weighted sum of the tokens' losses (a scalar), then the fields of `TokenStats` as a flat tuple.

        Computed from the student's last hidden states and the weight of its LM head.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """A micro-batch of rollouts with a teacher's scores."""

    micro_batch: MicroBatch
    scores: TeacherScores
    objective: Objective
    kl_names: tuple[str, ...] = ()
    detailed_rows: Tensor | None = None
    """int64: the tokens, out of N, that need alternatives; None when no token does."""
    num_alternatives: int = 0

    @property
    def stat_names(self) -> tuple[str, ...]:
        """Metrics that the rows of its statistics are of."""
        rewarded = self.micro_batch.tokens.advantages_N is not None
        return stat_names(self.objective, self.scores, rewarded=rewarded)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """None: its parts are among the statistics."""
        return ()

    def loss(self, hidden_NH: Tensor, head_VH: Tensor) -> tuple[Tensor, ...]:
        """The distillation objective."""
        inputs = (hidden_NH, head_VH, self.scores, self.micro_batch.tokens, self.objective)
        if self.detailed_rows is None:
            return chunked_loss(*inputs)
        return loss_and_alternatives(*inputs, self.detailed_rows, self.num_alternatives)


@dataclass(frozen=True, slots=True)
class ReferenceBatch:
    """A micro-batch of reference answers. No teacher scores them."""

    micro_batch: MicroBatch
    objective: Objective
    """Its vocabulary, temperature and chunk size apply to the cross-entropy."""

    @property
    def stat_names(self) -> tuple[str, ...]:
        """Metrics that the rows of its statistics are of."""
        return CROSS_ENTROPY_STATS

    @property
    def kl_names(self) -> tuple[str, ...]:
        """Empty: there is no KL without a teacher."""
        return ()

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The mean cross-entropy has a metric of its own."""
        return ("actor/sft_loss",)

    def loss(self, hidden_NH: Tensor, head_VH: Tensor) -> tuple[Tensor, ...]:
        """The cross-entropy."""
        return cross_entropy(hidden_NH, head_VH, self.micro_batch.tokens, self.objective)
