"""A teacher's scores of the response tokens, in the form that the loss takes.

Dimensions: N response tokens, C of one chunk, G the teacher's hidden size, K listed tokens, V the teacher's
(padded) vocabulary or, after the softmax, the shared one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from distillctl.objective.log_probs import log_probs


class TeacherChunk(NamedTuple):
    """The teacher's log-probabilities at C tokens: either all of them or a list."""

    logp_C: Tensor
    """log p of the sampled token, nats."""
    log_p_CV: Tensor | None = None
    """log p of every token of the shared vocabulary; None when the teacher only lists some tokens."""
    listed: TopK | None = None
    """The listed tokens; None when the whole distribution is known."""


@dataclass(frozen=True, slots=True)
class Dense:
    """The teacher's whole distribution at N tokens, as its last hidden states and its LM head."""

    hidden_NG: Tensor
    """The hidden states after the final norm, in the teacher's dtype."""
    head_VG: Tensor
    """Weight of the LM head. A sharded teacher's head is whole only within `gather()`."""
    gather: Callable[[], AbstractContextManager[object]] = nullcontext
    """Makes a context within which `head_VG` is whole. Collective for a sharded teacher."""

    def __getitem__(self, rows: slice | Tensor) -> Dense:
        return Dense(self.hidden_NG[rows], self.head_VG, self.gather)

    @property
    def listed(self) -> None:
        """No list: the whole distribution is known."""
        return None

    def chunk(
        self, span: slice, target_ids_C: Tensor, *, vocab_size: int, temperature: float
    ) -> TeacherChunk:
        """Log-probabilities over the first `vocab_size` tokens at `temperature`; call within `gather()`."""
        log_p_CV = log_probs(self.hidden_NG[span], self.head_VG[:vocab_size], temperature)
        return TeacherChunk(log_p_CV.gather(-1, target_ids_C[:, None]).squeeze(-1), log_p_CV=log_p_CV)


@dataclass(frozen=True, slots=True)
class TopK:
    """Some of the teacher's log-probabilities at N tokens (nats, temperature 1, float32)."""

    target_logp_N: Tensor
    """log p of the sampled token."""
    ids_NK: Tensor
    """int64: the listed tokens, each at most once per row; -1 pads short rows. K may be 0. They are the
    teacher's K most likely tokens, or the student's for `student_topk`."""
    logp_NK: Tensor
    """log p of each listed token; any value where the id is -1."""

    def __getitem__(self, rows: slice | Tensor) -> TopK:
        return TopK(self.target_logp_N[rows], self.ids_NK[rows], self.logp_NK[rows])

    @property
    def listed(self) -> TopK:
        """This list itself."""
        return self

    def gather(self) -> AbstractContextManager[object]:
        """A context that does nothing: there is nothing to gather."""
        return nullcontext()

    def chunk(
        self, span: slice, target_ids_C: Tensor, *, vocab_size: int, temperature: float
    ) -> TeacherChunk:
        """The rows of `span`. The request to the server fixed vocabulary and temperature, so the arguments
        `vocab_size` and `temperature` have no effect."""
        rows = self[span]
        return TeacherChunk(rows.target_logp_N, listed=rows)


TeacherScores = Dense | TopK
