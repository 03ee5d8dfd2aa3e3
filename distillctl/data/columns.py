"""The columns of a source: those that would change what a prompt means, and those that are not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillctl.data.values import bad_row, has_text, is_filled
from distillctl.errors import ConfigError

_MEANING = frozenset(
    {
        "image", "images", "image_url", "video", "videos", "video_url", "audio", "audios", "input_audio",
        "multi_modal_data", "pixel_values", "tools", "tool_call", "tool_calls", "tool_call_id", "functions",
        "function_call",
    }
)  # fmt: skip
"""Columns of rows, and keys of messages and their parts: text alone is another prompt without them."""
_PARTS = ("instruction", "input", "context")
"""Fields that are one prompt together (Alpaca, Dolly, SQuAD)."""
_SYSTEM = ("system", "system_prompt")
"""Fields with the system message of a text or a chat beside them (OpenOrca, LLaMA-Factory's ShareGPT)."""
_MESSAGE_KEYS = ("role", "content", "from", "value")


def may_change_prompt(name: object) -> bool:
    """Whether a column of this name has to be looked at, though it is not one that is read."""
    return isinstance(name, str) and name.lower() in _MEANING.union(_PARTS, _SYSTEM)


def refuse_other_media(row: Mapping[str, Any], where: str, used: Collection[str] = ()) -> None:
    """Raise ConfigError for images, sounds, videos or tools in a row, a message or a part of one.

    `used`: columns that are read.
    """
    names = [name for name in row if name.lower() in _MEANING and name not in used and is_filled(row[name])]
    if names:
        raise bad_row(
            f"{where}: {_listed(names)} cannot be read, and the text means something else without",
            "only text is trained on: leave such rows out, or remove what their text does not need",
        )


def require_whole_prompt(row: Mapping[str, Any], where: str, used: Sequence[str]) -> None:
    """Raise ConfigError where the prompt, the column `used[0]`, leaves a part of it to other columns.

    For a text that is what stands in the fields of Alpaca's kind; for any prompt without a system message,
    what stands in a field for one. `used`: columns that are read.
    """
    prompt = row[used[0]]
    parts = (*_PARTS, *_SYSTEM) if isinstance(prompt, str) else () if _has_system(prompt) else _SYSTEM
    left = [name for name in row if name.lower() in parts and name not in used and is_filled(row[name])]
    if left:
        into = "one field" if left[0].lower() in _PARTS else "a chat that begins with the role `system`"
        raise bad_row(
            f"{where}: `{used[0]}` is only a part of the prompt: {_listed(left)} would be left out",
            f"write all of it into {into}, or remove {_listed(left)} where the prompt does not need it",
        )


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

    def add(self, row: Mapping[str, Any]) -> None:
        """Take in one row."""
        for name, value in row.items():
            self.filled[name] += is_filled(value)
            if name not in self.used:
                self.unused |= {name: None} if has_text(value) else {}
                continue
            messages = value if isinstance(value, list) else []
            for message in (one for one in messages if isinstance(one, dict)):
                keys = [key for key in message if key not in _MESSAGE_KEYS and has_text(message[key])]
                self.unused |= dict.fromkeys(f"{name}[].{key}" for key in keys)

    def require(self, name: str, option: str) -> None:
        """Raise ConfigError when none of the rows has the column that `option` names."""
        if name not in self.filled:
            present = _listed(list(self.filled))
            raise ConfigError(
                f"{option} {name}: no row that was read has such a field", f"correct it: they have {present}"
            )


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
