"""Special tokens in the text of data. For example, `<|im_end|>` in a scraped chat is text, not a turn's end.

Tokenizers turn the text of a special token into that token wherever it appears, also inside a message.
`SpecialTokens` finds such tokens by the ids of the encoded text and encodes them as text. The special tokens
that the chat template writes stay special. Needs `tokenizers`, not transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from distillctl.data.chat import Message
from distillctl.data.read import PromptRow

_PRIVATE_USE = range(0xF0000, 0xFFFFE)
"""Characters that stand for special tokens while a template is rendered: Unicode's supplementary private use
area A."""


class SpecialTokens:
    """The special tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: a `tokenizers.Tokenizer`. It is copied, because each call changes its settings."""
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special = {i: token for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._ids = {token.content: i for i, token in special.items()}
        self._names: dict[int, str] = {i: name for name, i in self._ids.items()}
        # A token that the tokenizer matches in normalised text can appear under another spelling.
        self._always_encode = any(token.normalized for token in special.values())
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if self._ids else None

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens | None:
        """The special tokens of a transformers tokenizer; None if it is not backed by `tokenizers`."""
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        return cls(backend) if isinstance(backend, Tokenizer) else None

    @cached_property
    def are_encodable_as_text(self) -> bool:
        """Whether text encoded piece by piece around special tokens gives the same ids as text encoded whole.

        It does not if the tokenizer puts a blank before each text (SentencePiece), or if a special token
        absorbs the blanks beside it.
        """
        left = "a b "
        right = "\n a"
        return all(
            self._encode(f"{left}{name}{right}")
            == [*self._encode(left, as_text=True), i, *self._encode(right, as_text=True)]
            for name, i in self._ids.items()
        )

    def first_in(self, texts: Iterable[str]) -> str | None:
        """The first special token among the encoded ids of the texts, or None."""
        for text in texts:
            if self._always_encode or any(name in text for name in self._ids):
                for i in self._encode(text):
                    if i in self._names:
                        return self._names[i]
        return None

    def hide(self, messages: Sequence[Message]) -> tuple[list[Message], dict[str, str]]:
        """The messages with a private character for each special token, and the token of each character."""
        assert self._pattern is not None
        text = "".join(message["content"] for message in messages)
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in text)
        marks = dict(zip(self._ids, free, strict=False))
        hidden = [
            {**m, "content": self._pattern.sub(lambda match: marks[match[0]], m["content"])} for m in messages
        ]
        return hidden, {mark: name for name, mark in marks.items()}

    def encode(self, rendered: str, marks: Mapping[str, str]) -> list[int]:
        """Ids of rendered text. The characters in `marks` stand for special tokens to encode as text."""
        assert self._pattern is not None
        restore = str.maketrans(dict(marks))
        ids: list[int] = []
        for part in self._pattern.split(rendered):
            if part in self._ids:
                ids.append(self._ids[part])
            else:
                ids += self._encode(part.translate(restore), as_text=True)
        return ids

    def _encode(self, text: str, *, as_text: bool = False) -> list[int]:
        self._tokenizer.encode_special_tokens = as_text
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def special_token_warning(rows: Sequence[PromptRow], tokens: SpecialTokens, key: str) -> str | None:
    """The warning about rows with special tokens in their text, or None if no row has any.

    `key` names the setting that the rows come from.
    """
    found = [
        name
        for row in rows
        if (name := tokens.first_in([*(m["content"] for m in row.messages), row.reference or ""]))
    ]
    if not found:
        return None
    fate = "are encoded as text"
    if not tokens.are_encodable_as_text:
        fate = "stay special tokens, because this tokenizer cannot encode them as text"
    return (
        f"{key}: the text of {len(found)} of {len(rows)} rows holds special tokens of the tokenizer, "
        f"such as {found[0]!r}; they {fate}"
    )
