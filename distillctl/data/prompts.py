"""From rows to prompts, and the order in which training meets them.

`render` turns data rows into token ids with the student's chat template; `PromptStream` cuts
batches from them. A batch is a pure function of (seed, step), so a resumed run needs no cursor but
its step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from distillctl.data.read import PromptRow
from distillctl.errors import ConfigError
from distillctl.samples import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(
    rows: Sequence[PromptRow], tokenizer: PreTrainedTokenizerBase, max_prompt_length: int
) -> tuple[list[Prompt], int]:
    """Prompts of at most `max_prompt_length` tokens in row order, and how many rows were longer.

    A prompt ends where the assistant's answer begins. Raises ConfigError when the tokenizer has no
    chat template, the template refuses a row, or no row is short enough.
    """
    if not tokenizer.chat_template:
        name = tokenizer.name_or_path or "the tokenizer"
        hint = "take an instruction-tuned model, or add a chat template to the tokenizer"
        raise ConfigError(f"{name}: has no chat template, so prompts cannot be rendered", hint)
    rendered = [(row, _token_ids(row, tokenizer)) for row in rows]
    prompts = [
        Prompt(
            prompt_id=f"{row.split}/{row.index}",
            token_ids=ids,
            text=row.question,
            ground_truth=row.ground_truth,
        )
        for row, ids in rendered
        if len(ids) <= max_prompt_length
    ]
    if not prompts:
        shortest = min((len(ids) for _, ids in rendered), default=0)
        message = f"none of {len(rows)} prompts has at most {max_prompt_length} tokens"
        hint = f"raise data.max_prompt_length: the shortest prompt has {shortest} tokens"
        raise ConfigError(message, hint)
    return prompts, len(rendered) - len(prompts)


def _token_ids(row: PromptRow, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    from jinja2 import TemplateError

    try:
        # transformers 5 returns a BatchEncoding unless told not to.
        ids = tokenizer.apply_chat_template(
            row.messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        message = f"{row.split}/{row.index}: the chat template refuses the messages: {error}"
        raise ConfigError(message, "change the roles of the row, or choose another model") from error
    return [int(token) for token in ids]


class PromptStream:
    """Batches cut from an endless row of epochs, each a shuffle of its own of all prompts.

    A batch may straddle two epochs, so every epoch shows each prompt exactly once whatever the
    batch size, and a prompt can stand twice in such a batch.
    """

    def __init__(self, prompts: Sequence[Prompt], batch_size: int, seed: int) -> None:
        """Raises ConfigError when a batch would be larger than the data."""
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
        if missing:
            order = np.concatenate([order, self._order(epoch + 1)[:missing]])
        return [self._prompts[i] for i in order]

    def num_steps(self, epochs: int) -> int:
        """Whole batches in `epochs` passes over the data, at least one."""
        return max(1, epochs * len(self._prompts) // self._batch_size)

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._prompts))
