"""The columns of a source: those that would change what a prompt means, and those that are not used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillctl.data.values import bad_row, has_text, is_filled
from distillctl.errors import ConfigError

_MEANING = re.compile(
    r"(?:input|question|problem|prompt|query|context|decoded|pil|raw)?(?:image|img|video|audio|speech)s?"
    r"(?:path|url|uri|file|filename|filepath|name|byte|base64|data|list|frame|array|input|value)?s?"
    r"|multimodal(?:data|inputs?)|pixelvalues(?:images|videos)?|(?:available)?(?:tools|functions)"
    r"|(?:tools?|functions?)(?:list|definitions|schemas)|toolcalls?|toolcallid|functioncalls?"
)
"""Columns of rows, and keys of messages and their parts: text alone is another prompt without them. As all
names here, small and without digits and the marks between words."""
_EARLIER = re.compile(r"(?:chat|messages?|conversation|dialog(?:ue)?)?history")
"""Fields with the turns before a text or a chat (LLaMA-Factory)."""
_PARTS = ("instruction", "input", "context")
"""Fields that are one prompt together (Alpaca, Dolly, SQuAD)."""
_SYSTEM = re.compile(r"sys(?:tem)?(?:prompt|message|msg|instruction)s?|system")
"""Fields with the system message of a text or a chat beside them (OpenOrca, LLaMA-Factory's ShareGPT)."""
_MESSAGE_KEYS = ("role", "content", "from", "value")


def may_change_prompt(name: object) -> bool:
    """Whether a column of this name has to be looked at, though it is not one that is read."""
    return isinstance(name, str) and (
        _is_meaning(name) or _is_part(name) or _is_earlier(name) or _is_system(name)
    )


def refuse_other_media(row: Mapping[str, Any], where: str, used: Collection[str] = ()) -> None:
    """Raise ConfigError for images, sounds, videos or tools in a row, a message or a part of one.

    `used`: columns that are read.
    """
    names = [name for name in row if _is_meaning(name) and name not in used and is_filled(row[name])]
    if names:
        raise bad_row(
            f"{where}: {_listed(names)} cannot be read, and the text means something else without",
            "only text is trained on: leave such rows out, or remove what their text does not need",
        )


def require_whole_prompt(row: Mapping[str, Any], where: str, used: Sequence[str]) -> None:
    """Raise ConfigError where the prompt, the column `used[0]`, leaves a part of it to other columns.

    For a text that is what stands in the fields of Alpaca's kind, unless the text repeats it; for any prompt,
    in one with earlier turns, and without a system message in one for that. `used`: columns that are read.
    """
    prompt = row[used[0]]
    text = prompt if isinstance(prompt, str) else None
    left = [
        name
        for name in row
        if name not in used
        and is_filled(row[name])
        and (_is_earlier(name) or (_is_part(name) and text is not None) or _is_system(name))
        and not (_has_system(prompt) and _is_system(name))
        and not (text is not None and isinstance(row[name], str) and row[name].strip() in text)
    ]
    if left:
        into = "a chat that begins with the role `system`" if _is_system(left[0]) else "one field"
        into = "a chat with these turns" if _is_earlier(left[0]) else into
        raise bad_row(
            f"{where}: `{used[0]}` is only a part of the prompt: {_listed(left)} would be left out",
            f"write all of it into {into}, or remove {_listed(left)} where the prompt does not need it",
        )


def unused_keys(value: object) -> list[str]:
    """Keys with text in the messages of a prompt that are not read, each once."""
    messages = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    return list(
        dict.fromkeys(
            key for one in messages for key in one if key not in _MESSAGE_KEYS and has_text(one[key])
        )
    )


def _small(name: str) -> str:
    return re.sub(r"[\W_\d]", "", name.lower())


def _is_meaning(name: str) -> bool:
    return bool(_MEANING.fullmatch(_small(name)))


def _is_part(name: str) -> bool:
    return _small(name) in _PARTS


def _is_earlier(name: str) -> bool:
    return bool(_EARLIER.fullmatch(_small(name)))


def _is_system(name: str) -> bool:
    return bool(_SYSTEM.fullmatch(_small(name)))


def _has_system(chat: object) -> bool:
    messages = chat if isinstance(chat, list) else []
    return any(isinstance(one, dict) and "system" in (one.get("role"), one.get("from")) for one in messages)


@dataclass(slots=True)
class ColumnTally:
    """What the columns of a source hold, counted row by row."""

    used: tuple[str, ...]
    """Columns that are read."""
    filled: Counter[str] = field(default_factory=Counter)
    """Rows with anything in a column, for every column that is in any row."""
    unused: dict[str, None] = field(default_factory=dict)
    """Other columns with text in any row, and other keys of messages as `messages[].name`."""

    def add(self, row: Mapping[str, Any], also: Collection[str] = ()) -> None:
        """Take in one row, of which columns in `also` are read too."""
        self.used = tuple(dict.fromkeys((*self.used, *also)))
        for name, value in row.items():
            self.filled[name] += is_filled(value)
            if name in self.used:
                self.unused |= dict.fromkeys(f"{name}[].{key}" for key in unused_keys(value))
            elif has_text(value):
                self.unused |= {name: None}

    def require(self, name: str, option: str) -> None:
        """Raise ConfigError when none of the rows has anything in the column that `option` names."""
        if name not in self.filled:
            present = _listed(list(self.filled))
            raise ConfigError(
                f"{option} {name}: no row that was read has such a field", f"correct it: they have {present}"
            )
        if not self.filled[name]:
            present = _listed([other for other, num_rows in self.filled.items() if num_rows])
            raise ConfigError(
                f"{option} {name}: that field is empty in all rows that were read",
                f"leave the option out, or name a field with answers: there is something in {present}",
            )


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
