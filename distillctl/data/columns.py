"""The columns of a source: which of them would change what a prompt means, and which are not used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Any

from distillctl.data.values import bad_row, has_text, is_filled
from distillctl.errors import ConfigError

_MEANING = re.compile(
    r"(?:input|question|problem|prompt|query|context|decoded|pil|raw)?(?:image|img|video|audio|speech)s?"
    r"(?:path|url|uri|file|filename|filepath|name|byte|base64|data|list|frame|array|input|value)?s?"
    r"|multimodal(?:data|inputs?)|pixelvalues(?:images|videos)?|(?:available)?(?:tools|functions)"
    r"|(?:tools?|functions?)(?:list|definitions|schemas)|toolcalls?|toolcallid|functioncalls?"
)
"""Columns of rows, and keys of messages and their parts, whose content changes what the text means. Like all
names here they are in lower case, without digits and without separators between words."""
_EARLIER = re.compile(r"(?:chat|messages?|conversation|dialog(?:ue)?)?history")
"""Fields with the turns that precede a text or a chat (LLaMA-Factory)."""
_PARTS = re.compile("instruction|input|context")
"""Fields that together make one prompt (Alpaca, Dolly, SQuAD)."""
_SYSTEM = re.compile(r"sys(?:tem)?(?:prompt|message|msg|instruction)s?|system")
"""Fields with the system message of a text or chat in another field (OpenOrca, LLaMA-Factory's ShareGPT)."""
_MESSAGE_KEYS = ("role", "content", "from", "value")


class _Role(Enum):
    """What a column's name says of its content."""

    MEANING = auto()
    EARLIER = auto()
    PART = auto()
    SYSTEM = auto()


_NAMES = {
    _Role.MEANING: _MEANING, _Role.EARLIER: _EARLIER, _Role.PART: _PARTS, _Role.SYSTEM: _SYSTEM
}  # fmt: skip
_INTO = {
    _Role.EARLIER: "a chat with these turns",
    _Role.PART: "one field",
    _Role.SYSTEM: "a chat that begins with the role `system`",
}
"""Where the user should put the content of such a column."""


def may_change_prompt(name: object) -> bool:
    """Whether a column of this name must be checked although it is not read."""
    return isinstance(name, str) and _role(name) is not None


def refuse_other_media(row: Mapping[str, Any], where: str, used: Collection[str] = ()) -> None:
    """Raise ConfigError for images, sounds, videos or tools in a row, a message or a part of a message.

    `used`: columns that are read.
    """
    names = [
        name for name in row if _role(name) is _Role.MEANING and name not in used and is_filled(row[name])
    ]
    if names:
        raise bad_row(
            f"{where}: {_listed(names)} cannot be read, and without it the text means something else",
            "distillctl trains on text only: leave such rows out, or remove what their text does not need",
        )


def require_whole_prompt(row: Mapping[str, Any], where: str, used: Sequence[str]) -> None:
    """Raise ConfigError when other columns hold a part of the prompt that the column `used[0]` lacks.

    For any prompt, such a part is a field of earlier turns, or, if the prompt has no system message, a field
    for one. For a prompt that is text, it is also a field like Alpaca's `input`; text that already contains
    the field's content lacks nothing. `used`: columns that are read.
    """
    left = {
        name: role
        for name in row
        if (role := _role(name)) is not None
        and name not in used
        and _is_left_out(row[name], role, row[used[0]])
    }
    if left:
        into = _INTO[next(iter(left.values()))]
        raise bad_row(
            f"{where}: `{used[0]}` is only a part of the prompt: {_listed(left)} would be left out",
            f"write the whole prompt into {into}, or remove {_listed(left)} if the prompt does not need it",
        )


def _is_left_out(value: object, role: _Role, prompt: object) -> bool:
    """Whether a column of that role holds a part of the prompt that `prompt` lacks."""
    if role is _Role.MEANING or (role is _Role.SYSTEM and _has_system(prompt)) or not is_filled(value):
        return False
    if isinstance(prompt, str):
        return not (isinstance(value, str) and value.strip() in prompt)
    return role is not _Role.PART


def unused_keys(value: object) -> list[str]:
    """Keys of a prompt's messages that hold text and are not read, each once."""
    messages = [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
    return list(
        dict.fromkeys(
            key for one in messages for key in one if key not in _MESSAGE_KEYS and has_text(one[key])
        )
    )


@lru_cache(maxsize=1024)  # rows have the same names again and again
def _role(name: str) -> _Role | None:
    small = re.sub(r"[\W_\d]", "", name.lower())
    return next((role for role, names in _NAMES.items() if names.fullmatch(small)), None)


def _has_system(chat: object) -> bool:
    messages = chat if isinstance(chat, list) else []
    return any(isinstance(one, dict) and "system" in (one.get("role"), one.get("from")) for one in messages)


@dataclass(slots=True)
class ColumnTally:
    """What the columns of a source hold, counted row by row."""

    used: tuple[str, ...]
    """Columns that are read."""
    required: Mapping[str, str] = field(default_factory=dict)
    """Columns that the user named, each with the option that named it."""
    filled: Counter[str] = field(default_factory=Counter)
    """For every column of any row, the number of rows in which it is not empty."""
    unused: dict[str, None] = field(default_factory=dict)
    """Columns that hold text and are not read, and such keys of messages as `messages[].name`."""

    def add(self, row: Mapping[str, Any], also: Collection[str] = ()) -> None:
        """Count one row. The columns in `also` are read too."""
        self.used = tuple(dict.fromkeys((*self.used, *also)))
        for name, value in row.items():
            self.filled[name] += is_filled(value)
            if name in self.used:
                self.unused |= dict.fromkeys(f"{name}[].{key}" for key in unused_keys(value))
            elif has_text(value):
                self.unused |= {name: None}

    def check(self) -> None:
        """Raise ConfigError when a column of `required` is missing or empty in all rows."""
        for name, option in self.required.items():
            if name not in self.filled:
                raise ConfigError(
                    f"{option} {name}: no row has such a field",
                    f"name one of the fields that the rows have: {_listed(list(self.filled))}",
                )
            if not self.filled[name]:
                present = _listed([other for other, num_rows in self.filled.items() if num_rows])
                raise ConfigError(
                    f"{option} {name}: that field is empty in all rows",
                    f"leave the option out, or name a field with answers; these are not empty: {present}",
                )


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
