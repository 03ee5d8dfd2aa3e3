"""Whether prompts can be short enough, before anything is started. Neither torch nor transformers.

Exactly it is known only when the student's chat template is rendered, in the ranks (`prompts.render`). Here
the user messages alone are encoded: a rendered prompt holds them and more, so it is longer, but for tokens
that merge across their ends. With room for those the estimate never refuses a prompt that fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from distillctl.data.read import PromptRow
from distillctl.errors import ConfigError

_MERGED_SHARE, _MERGED_TOKENS = 0.1, 4
"""How much shorter a message may become inside a template."""


def require_usable(
    rows: Sequence[PromptRow], tokenizer_file: Path, max_prompt_length: int, num_needed: int, key: str
) -> None:
    """Raise ConfigError unless `num_needed` of the rows may have at most `max_prompt_length` tokens.

    `key` names the setting that the rows come from. Rows are looked at only until there are enough.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()  # a tokenizer.json may bring its own limit
    tokenizer.no_padding()
    shortest = []

    def is_usable(row: PromptRow) -> bool:
        shortest.append(_fewest_tokens(row, tokenizer, max_prompt_length))
        return shortest[-1] <= max_prompt_length

    found = sum(1 for _ in islice(filter(is_usable, rows), num_needed))
    if found >= num_needed:
        return
    hint = f"raise data.max_prompt_length: the shortest prompt has at least {min(shortest, default=0)} tokens"
    many = f"at most {found} of {len(rows)} prompts have" if found else f"none of {len(rows)} prompts has"
    needed = f", and {num_needed} are needed (data.train_batch_size)" if found else ""
    if found:
        hint = "raise data.max_prompt_length or lower data.train_batch_size"
    raise ConfigError(
        f"{key}: {many} no more than data.max_prompt_length={max_prompt_length} tokens{needed}", hint
    )


def _fewest_tokens(row: PromptRow, tokenizer: object, enough: int) -> int:
    """A lower bound of the tokens of a prompt."""
    num_tokens = 0
    for message in row.messages:
        if message["role"] == "user":  # templates may leave others out, or thoughts of theirs
            encoded = tokenizer.encode(message["content"].strip(), add_special_tokens=False)  # type: ignore[attr-defined]
            num_tokens += max(0, int(len(encoded.ids) * (1 - _MERGED_SHARE)) - _MERGED_TOKENS)
    return num_tokens
