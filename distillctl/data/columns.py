"""The columns of a source: those that would change what a prompt means, and those that are not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
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
_MESSAGE_KEYS = ("role", "content", "from", "value")


def changes_meaning(name: object) -> bool:
    """Whether a column of this name must be empty."""
    return isinstance(name, str) and name.lower() in _MEANING


def refuse_other_media(row: Mapping[str, Any], where: str, used: Collection[str] = ()) -> None:
    """Raise ConfigError for images, sounds, videos or tools in a row, a message or a part of one.

    `used`: columns that are read.
    """
    names = [name for name in row if changes_meaning(name) and name not in used and is_filled(row[name])]
    if names:
        raise bad_row(
            f"{where}: {_listed(names)} cannot be read, and the text means something else without",
            "only text is trained on: leave such rows out, or remove what their text does not need",
        )


def require_whole_prompt(row: Mapping[str, Any], where: str, prompt_field: str, answer_field: str) -> None:
    """Raise ConfigError where the text of `prompt_field` is only a part of the prompt."""
    others = [name for name in row if name.lower() in _PARTS and name not in (prompt_field, answer_field)]
    filled = [name for name in others if is_filled(row[name])]
    if filled and isinstance(row[prompt_field], str):
        raise bad_row(
            f"{where}: `{prompt_field}` is only a part of the prompt: {_listed(filled)} would be left out",
            f"write both into one field of the source, and name it with --prompt-field; or remove "
            f"{_listed(filled)} where the prompt does not need it",
        )


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
