"""What a teacher says about the response tokens, in the form that the loss takes.

Dimensions: N response tokens, C of one chunk, G the teacher's hidden size, K listed tokens, V its (padded)
vocabulary or, after the softmax, the shared one.
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
    """log p of every token of the shared vocabulary; None where the teacher only lists some."""
    listed: TopK | None = None
    """The listed tokens; None where the whole distribution is known."""


@dataclass(frozen=True, slots=True)
class Dense:
    """The teacher's whole distribution at N tokens, as its last hidden states and its LM head."""

    hidden_NG: Tensor
    """After the final norm, in the teacher's dtype."""
    head_VG: Tensor
    """Weight of the LM head. Of a sharded teacher it is whole only within `gather()`."""
    gather: Callable[[], AbstractContextManager[object]] = nullcontext
    """Makes a context within which `head_VG` is whole. Collective where the teacher is sharded."""

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
    """int64: the tokens listed, each at most once per row; -1 fills up short rows. K may be 0. They are the
    teacher's K most likely ones, or the student's for `student_topk`."""
    logp_NK: Tensor
    """log p of each; any value where the id is -1."""

    def __getitem__(self, rows: slice | Tensor) -> TopK:
        return TopK(self.target_logp_N[rows], self.ids_NK[rows], self.logp_NK[rows])

    @property
    def listed(self) -> TopK:
        """Itself."""
        return self

    def gather(self) -> AbstractContextManager[object]:
        """Nothing has to be gathered."""
        return nullcontext()

    def chunk(
        self, span: slice, target_ids_C: Tensor, *, vocab_size: int, temperature: float
    ) -> TeacherChunk:
        """The rows of `span`. Their vocabulary and temperature are those that the server was asked with."""
        rows = self[span]
        return TeacherChunk(rows.target_logp_N, listed=rows)


TeacherScores = Dense | TopK
