"""Checks of single values of a row, and errors that name their place."""

from __future__ import annotations

import math
from numbers import Number

from distillctl.errors import ConfigError
from distillctl.terminal.stream import inline

MAX_ROW_BYTES = 16 << 20
"""Largest JSON of one row, and longest text. No prompt is that long, but a file without line breaks is."""
_EMPTY = ("", "[]", "{}", "null", b"")


def require_text(value: object, where: str, name: str) -> str:
    """`value` itself. Raises ConfigError unless it is text, not blank, valid Unicode and short enough."""
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
    """Whether a value holds anything but nulls, `false`, blank text and empty containers."""
    return any(part not in _EMPTY and part is not False for part in _leaves(value))


def has_text(value: object) -> bool:
    """Whether a value is, or contains, text that is not blank."""
    return any(isinstance(part, str) and part not in _EMPTY for part in _leaves(value))


def _leaves(value: object) -> list[object]:
    """The scalars in a value, without nulls (pandas writes null as NaN). Texts come without outer blanks."""
    found = []
    waiting = [value]
    while waiting:  # a loop, not recursion: the file decides how deep it nests
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
    """The error for a row or a file without the prompt's column. `present`: the columns that it has."""
    names = ", ".join(f"`{inline(name)}`" for name in present) if isinstance(present, dict | list) else ""
    hint = "`distillctl prep jsonl --prompt-field FIELD` turns other layouts into prompts"
    return ConfigError(f"{where}: no `{column}` column (it has: {names or 'none'})", hint)


def too_long(what: str) -> ConfigError:
    """The error for a line or a text longer than MAX_ROW_BYTES."""
    hint = "put every row on its own line, or leave that row out"
    return ConfigError(f"{what} is longer than {MAX_ROW_BYTES >> 20} MiB", hint)


def kind_of(value: object) -> str:
    """JSON's name for the type of a value."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}
    return names.get(type(value), "a number" if isinstance(value, Number) else type(value).__name__)
