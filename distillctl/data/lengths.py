"""Checks before anything starts whether prompts can be short enough. Imports neither torch nor transformers.

The exact length is known only when the ranks render the student's chat template (`prompts.render`). This
module encodes the user messages alone. A rendered prompt contains these messages plus template text, so it is
at least this long, give or take tokens that merge at the boundaries. The estimate leaves room for those
tokens, so it never refuses a prompt that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from distillctl.data.read import PromptRow
from distillctl.errors import ConfigError

CountTokens = Callable[[str], int]

_MERGED_SHARE = 0.1
_MERGED_TOKENS = 4
"""How much shorter a message may become inside a template: this share of its tokens, plus this number."""


def require_usable(
    rows: Sequence[PromptRow], count: CountTokens, max_prompt_length: int, num_needed: int, key: str
) -> None:
    """Raise ConfigError unless `num_needed` of the rows may have at most `max_prompt_length` tokens.

    `count` gives the number of tokens of a text; `key` names the setting that the rows come from. The check
    stops at the row that completes `num_needed`.
    """
    lengths: list[int] = []
    usable = 0
    for row in rows:
        lengths.append(fewest_tokens(row, count))
        usable += lengths[-1] <= max_prompt_length
        if usable >= num_needed:
            return
    limit = f"data.max_prompt_length={max_prompt_length}"
    if usable:
        raise ConfigError(
            f"{key}: at most {usable} of {len(rows)} prompts fit into {limit}, but "
            f"data.train_batch_size={num_needed}",
            "raise data.max_prompt_length or lower data.train_batch_size",
        )
    raise ConfigError(
        f"{key}: all {len(rows)} prompts are longer than {limit}",
        f"raise data.max_prompt_length: the shortest prompt has at least {min(lengths)}",
    )


def fewest_tokens(row: PromptRow, count: CountTokens) -> int:
    """A lower bound on the number of tokens of a prompt."""
    # Templates may strip blanks, and drop system messages and the thinking of earlier answers.
    users = (message["content"].strip() for message in row.messages if message["role"] == "user")
    return sum(max(0, int(count(text) * (1 - _MERGED_SHARE)) - _MERGED_TOKENS) for text in users)
