"""The values that travel down the training step.

`Prompt` comes from the prompt stream, `Rollout` from the rollout engine, and `MicroBatch` is what the models
take. All are frozen: a later stage makes a new value, never changes an old one.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch

    from distillctl.objective.inputs import Tokens

DEFAULT_TEACHER = "default"
"""Name of the configuration's `teacher` among all teachers; it scores what none of the others claims."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One rendered prompt: what the engine gets, and what grading needs."""

    prompt_id: str
    """`<split>/<row index>`, stable over epochs and resumes."""
    token_ids: list[int]
    """Rendered with the student's chat template, ending where the response begins."""
    text: str
    """The user's question as it stands in the data (not rendered)."""
    ground_truth: str | None
    """Expected final answer, or None when the data has none (it can be distilled, not scored)."""
    _: KW_ONLY
    teacher: str = DEFAULT_TEACHER
    """Name of the teacher that scores its rollouts."""
    reference_ids: list[int] | None = None
    """The data's own answer with the token that ends a turn; only where `loss.sft_coef` wants it."""
    data_source: str | None = None
    """`data_source` and `extra_info` of the row, for a reward function."""
    extra_info: Mapping[str, object] | None = None
    answer_type: str = "numeric"
    """How answers are compared with `ground_truth` (`grading.answer_types`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled response to `prompt`."""

    prompt: Prompt
    group: int
    """Number of the prompt among those that were sampled together. The responses to one prompt share it, and
    a prompt that the batch holds twice has two."""
    sample: int
    """Number of the response within its group, below `rollout.n`."""
    response_ids: np.ndarray
    """int32 [T], the end-of-sequence token included when the model wrote it."""
    response_logprobs: np.ndarray
    """float32 [T], nats: log-probability of each token when it was sampled (after temperature, top-p)."""
    finish_reason: str
    """`stop` (end-of-sequence token) or `length` (cut at `data.max_response_length`)."""
    weight_version: int
    """Optimizer steps done by the weights that wrote it."""
    topk_ids: np.ndarray | None = None
    """int32 [T, K]: the student's most likely tokens at each position; only where a served teacher is to
    score them (`loss.kind=student_topk`)."""

    num_trained: int | None = None
    """Response tokens that are trained on, the first so many; None for all of them."""
    token_weight: float = 1.0
    """Weight of each of these tokens in the loss of the global batch."""
    reward: float | None = None
    """Task reward, None without one; `advantage` is what it is worth beside those of its group."""
    advantage: float | None = None

    @property
    def length(self) -> int:
        """Prompt and response tokens together."""
        return len(self.prompt.token_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Sequences that go through a model together, on the training device, packed into one row.

    Dimensions: T tokens of all sequences, N their response tokens that are trained on.
    """

    input_ids_T: torch.Tensor
    """int64: prompt and response of one sequence after another."""
    rows_N: torch.Tensor
    """int64 positions in [T] whose next token is a response token."""
    tokens: Tokens
    """The response tokens that follow these rows, and how they count in the loss."""
    spans: tuple[tuple[int, int], ...]
    """Of each sequence: where its response begins, and where it ends with the part that is trained on."""
    members: tuple[int, ...]
    """Indices into the step's rollouts, in the order of N; empty for a filler."""
    topk_ids_NK: torch.Tensor | None = None
    """int64: `Rollout.topk_ids` at `rows_N`."""

    @property
    def weight(self) -> float:
        """1.0, or 0.0 for a filler that only keeps the collectives of the ranks aligned."""
        return 1.0 if self.members else 0.0

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence."""
        return tuple(end for _, end in self.spans)

    @property
    def inputs(self) -> tuple[torch.Tensor, tuple[int, ...], torch.Tensor]:
        """What a model takes: the row, the lengths of its sequences, the positions that are asked for."""
        return self.input_ids_T, self.lengths, self.rows_N

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of each sequence."""
        ids = iter(self.input_ids_T.tolist())
        return [list(islice(ids, length)) for length in self.lengths]
