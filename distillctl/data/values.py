"""Checks of single values of a row, and the errors that name its place."""

from __future__ import annotations

import math
from numbers import Number

from distillctl.errors import ConfigError
from distillctl.terminal.stream import inline

MAX_ROW_BYTES = 16 << 20
"""Of one row's JSON, or of one text. No prompt is that long; a file without line breaks is."""
_EMPTY = ("", "[]", "{}", "null", b"")


def require_text(value: object, where: str, name: str) -> str:
    """`value` when it is text that can be encoded and is not blank, else a ConfigError."""
    if value is None:
        raise bad_row(f"{where}: `{name}` is missing or null")
    if not isinstance(value, str):
        raise bad_row(f"{where}: `{name}` must be text, got {kind_of(value)}")
    if not value.strip():
        raise bad_row(f"{where}: `{name}` is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise bad_row(f"{where}: `{name}` is not valid Unicode ({error.reason})") from error
    if len(value) > MAX_ROW_BYTES:
        raise too_long(f"{where}: `{name}`")
    return value


def is_filled(value: object) -> bool:
    """Whether there is anything in a value: not so for nulls, blank text, and what holds nothing else."""
    return any(part not in _EMPTY and part is not False for part in _leaves(value))


def has_text(value: object) -> bool:
    """Whether a value is text that is not blank, or holds such text."""
    return any(isinstance(part, str) and part not in _EMPTY for part in _leaves(value))


def _leaves(value: object) -> list[object]:
    """What a value holds in the end, texts without the blanks around them; no nulls (NaN is pandas's)."""
    found, waiting = [], [value]
    while waiting:  # no recursion: a file decides how deep it is
        part = waiting.pop()
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
        elif part is not None and not (isinstance(part, float) and math.isnan(part)):
            found.append(part.strip() if isinstance(part, str) else part)
    return found


def bad_row(message: str, hint: str = "correct that row, or leave it out") -> ConfigError:
    """The error for one row."""
    return ConfigError(message, hint)


def no_column(where: str, column: str, present: object) -> ConfigError:
    """The error for a row or a file without the column of the prompt; `present`: those it has."""
    names = ", ".join(f"`{inline(name)}`" for name in present) if isinstance(present, dict | list) else ""
    hint = "`distillctl prep jsonl --prompt-field FIELD` turns other layouts into prompts"
    return ConfigError(f"{where}: no `{column}` column (it has: {names or 'none'})", hint)


def too_long(what: str) -> ConfigError:
    """The error for a line or a text beyond MAX_ROW_BYTES."""
    hint = "put every row on a line of its own, or leave that row out"
    return ConfigError(f"{what} is longer than {MAX_ROW_BYTES >> 20} MiB", hint)


def kind_of(value: object) -> str:
    """JSON's name for the type of a value."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}
    return names.get(type(value), "a number" if isinstance(value, Number) else type(value).__name__)
