"""Token ids of prompts and reference answers, rendered with a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from distillctl.data.chat import Message
from distillctl.data.read import PromptRow
from distillctl.data.sets.gsm8k import without_calculator_marks
from distillctl.data.special_tokens import SpecialTokens
from distillctl.data.template import FAILURES, refusal
from distillctl.data.values import require_text
from distillctl.errors import ConfigError
from distillctl.models.tokenizer_files import no_chat_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "distillctlprobe"
"""A placeholder answer that no template contains, strips or splits."""


def reference_text(row: PromptRow) -> str | None:
    """The row's reference answer without GSM8K's calculator marks (`<<48/2=24>>`), or None."""
    if row.reference is None:
        return None
    text = without_calculator_marks(require_text(row.reference, row.prompt_id, "extra_info.answer"))
    return text if text.strip() else None


def require_references(rows: Sequence[PromptRow]) -> None:
    """Raise ConfigError when no row has a reference answer."""
    if all(reference_text(row) is None for row in rows):
        span = f"{rows[0].prompt_id} to {rows[-1].prompt_id}"
        hint = "put answers into `extra_info.answer`, as `distillctl prep` does, or set loss.sft_coef=0"
        raise ConfigError(f"none of {len(rows)} prompts ({span}) has a reference answer", hint)


@dataclass(frozen=True, slots=True)
class _TurnEnd:
    """What a template writes after an assistant's turn."""

    text: str
    """All text after the answer."""
    blanks: str
    """The blanks before the token that ends the turn."""
    token: str
    """The token that ends the turn; empty when the template writes none."""
    token_id: int
    """Id of that token; the tokenizer's end-of-sequence id when the template writes none."""


class ChatEncoder:
    """Encodes rows with the chat template of a tokenizer.

    Special tokens in the text of a row are encoded as text if the tokenizer can do that
    (`SpecialTokens.are_encodable_as_text`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises ConfigError for a tokenizer without a chat template."""
        if not tokenizer.chat_template:
            raise no_chat_template(f"{_name(tokenizer)}:")
        self._tokenizer = tokenizer

    def prompt_ids(self, row: PromptRow) -> list[int]:
        """Ids of the prompt, up to where the assistant's answer begins.

        Raises ConfigError when the template refuses the row.
        """
        messages, marks = self._hidden(row.messages)
        return self._ids(self._rendered(row, messages), marks)

    def reference_ids(self, row: PromptRow, max_length: int) -> list[int] | None:
        """Ids of the row's reference answer as it follows its prompt, then the token that ends the turn.

        Returns None for a row without a reference answer. The ending token is the first that the template
        writes after an assistant's turn, blanks aside, or else the tokenizer's end-of-sequence token. The ids
        are cut to `max_length`. A long answer loses its ending token too: the model should not stop at the
        cut. Raises ConfigError when neither the template nor the tokenizer has an ending token.
        """
        text = reference_text(row)
        if text is None:
            return None
        end = self._turn_end(row)
        if end.token and text.rstrip().endswith(end.token):  # the data ends its answers itself
            text = text.rstrip().removesuffix(end.token)
        messages, marks = self._hidden([*row.messages, {"role": "assistant", "content": text}])
        prompt = self._rendered(row, messages[:-1])
        whole = self._rendered(row, messages, answered=True)
        answer = messages[-1]["content"]
        if whole.startswith(prompt) and whole.endswith(end.text):
            answer = whole[len(prompt) : len(whole) - len(end.text)] + end.blanks
        before = self._ids(prompt, marks)
        together = self._ids(prompt + answer, marks)
        # A sampled response never merges with the last token of its prompt, so the reference must not either.
        ids = together[len(before) :] if together[: len(before)] == before else self._ids(answer, marks)
        return [*ids, end.token_id][:max_length]

    @cached_property
    def _special(self) -> SpecialTokens | None:
        return SpecialTokens.of(self._tokenizer)

    def _hidden(self, messages: list[Message]) -> tuple[list[Message], dict[str, str]]:
        """The messages with private characters in place of special tokens, and the token of each character.

        Most messages contain no special tokens and come back unchanged.
        """
        special = self._special
        if special is None or not special.first_in(m["content"] for m in messages):
            return messages, {}
        return special.hide(messages) if special.are_encodable_as_text else (messages, {})

    def _ids(self, rendered: str, marks: dict[str, str]) -> list[int]:
        if marks and self._special is not None:
            return self._special.encode(rendered, marks)
        encoded = self._tokenizer(rendered, add_special_tokens=False, verbose=False)
        return [int(token) for token in encoded["input_ids"]]

    def _rendered(self, row: PromptRow, messages: list[Message], *, answered: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            text: Any = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=not answered, tokenize=False
            )
        except (TemplateError, *FAILURES) as error:
            raise refusal(row, error) from error
        return str(text)

    def _turn_end(self, row: PromptRow) -> _TurnEnd:
        """What the template writes after an answer to the row."""
        probe = [*row.messages, {"role": "assistant", "content": _PROBE}]
        text = self._rendered(row, probe, answered=True).rpartition(_PROBE)[2]
        rest = text.lstrip()
        added = {token.content: i for i, token in self._tokenizer.added_tokens_decoder.items()}
        token = max((name for name in added if name and rest.startswith(name)), key=len, default="")
        if token:
            return _TurnEnd(text, text.removesuffix(rest), token, added[token])
        eos = self._tokenizer.eos_token_id
        if eos is None:
            message = "has no end-of-sequence token, and its chat template ends turns without a special token"
            hint = "set eos_token in its tokenizer_config.json, or train without references: loss.sft_coef=0"
            raise ConfigError(f"{_name(self._tokenizer)}: {message}", hint)
        return _TurnEnd(text, "", "", int(eos))


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "the tokenizer"
