"""From rows to prompts, and the order in which training uses them.

`render` turns data rows into token ids with the student's chat template. `PromptStream` cuts batches from the
prompts. A batch is a pure function of (seed, step), so a resumed run needs only its step to continue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from distillctl.data.encode import ChatEncoder, require_references
from distillctl.data.read import PromptRow
from distillctl.data_types import DEFAULT_TEACHER, Prompt
from distillctl.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(
    rows: Sequence[PromptRow],
    tokenizer: PreTrainedTokenizerBase,
    max_prompt_length: int,
    *,
    routes: Mapping[str, str] | None = None,
    max_reference_length: int | None = None,
) -> tuple[list[Prompt], int]:
    """Prompts of at most `max_prompt_length` tokens in row order, and the number of longer rows.

    A prompt ends where the assistant's answer begins. `routes` maps a row's `route` to the name of its
    teacher; other rows keep the teacher `default`. `max_reference_length` asks for `reference_ids` of at most
    that many tokens (`ChatEncoder.reference_ids`). Raises ConfigError when the tokenizer has no chat
    template, the template refuses a row, or no row is short enough; with `max_reference_length`, also when no
    prompt has a reference answer or no token can end one.
    """
    encoder = ChatEncoder(tokenizer)
    rendered = [(row, encoder.prompt_ids(row)) for row in rows]
    kept = [(row, ids) for row, ids in rendered if len(ids) <= max_prompt_length]
    if not kept:
        shortest = min((len(ids) for _, ids in rendered), default=0)
        message = f"none of {len(rows)} prompts has at most {max_prompt_length} tokens"
        hint = f"raise data.max_prompt_length: the shortest prompt has {shortest} tokens"
        raise ConfigError(message, hint)
    references: list[list[int] | None] = [None] * len(kept)
    if max_reference_length is not None:
        require_references([row for row, _ in kept])
        references = [encoder.reference_ids(row, max_reference_length) for row, _ in kept]
    prompts = [
        _prompt(row, ids, reference, routes or {})
        for (row, ids), reference in zip(kept, references, strict=True)
    ]
    return prompts, len(rendered) - len(kept)


def unused_teachers(prompts: Iterable[Prompt], names: Iterable[str]) -> list[str]:
    """The teachers among `names` that no prompt uses, in the order of `names`."""
    used = {prompt.teacher for prompt in prompts}
    return [name for name in names if name not in used]


def _prompt(row: PromptRow, ids: list[int], reference: list[int] | None, routes: Mapping[str, str]) -> Prompt:
    return Prompt(
        prompt_id=row.prompt_id,
        token_ids=ids,
        text=row.question,
        ground_truth=row.ground_truth,
        teacher=DEFAULT_TEACHER if row.route is None else routes.get(row.route, DEFAULT_TEACHER),
        reference_ids=reference,
        data_source=row.data_source,
        extra_info=row.extra_info,
        answer_type=row.answer_type,
    )


class PromptStream:
    """Batches cut from an endless sequence of epochs. Each epoch is a new shuffle of all prompts.

    Every epoch contains each prompt exactly once, whatever the batch size, because a batch may straddle two
    epochs. A prompt can appear twice in such a batch: as two objects, each with its own group of responses.
    """

    def __init__(self, prompts: Sequence[Prompt], batch_size: int, seed: int) -> None:
        """Raises ConfigError when `batch_size` exceeds the number of prompts."""
        if batch_size > len(prompts):
            message = f"data.train_batch_size is {batch_size}, but there are {len(prompts)} prompts"
            raise ConfigError(message, "lower data.train_batch_size or prepare more data")
        self._prompts = list(prompts)
        self._batch_size = batch_size
        self._seed = seed

    def batch(self, step: int) -> list[Prompt]:
        """The prompts of optimizer step `step`, which counts from 1; the same on every call."""
        if step < 1:
            raise ValueError(f"steps count from 1, got {step}")
        start = (step - 1) * self._batch_size
        epoch, offset = divmod(start, len(self._prompts))
        order = self._order(epoch)[offset : offset + self._batch_size]
        missing = self._batch_size - len(order)
        again = self._order(epoch + 1)[:missing] if missing else order[:0]
        return [self._prompts[i] for i in order] + [replace(self._prompts[i]) for i in again]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts))
