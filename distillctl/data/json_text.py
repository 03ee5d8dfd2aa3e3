"""A strict JSON parser for rows, whose errors name the file and the line."""

from __future__ import annotations

import json
import re
from typing import Any

from distillctl.data.values import bad_row
from distillctl.errors import ConfigError
from distillctl.terminal.stream import inline

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape for half of a surrogate pair. Only both halves together are a character."""


class Repeated(Exception):
    """An object has a key twice. Python's parser would keep the last value and drop the others."""

    def __init__(self, key: str) -> None:
        self.key = key


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`, for `object_pairs_hook` of `json.loads`. Raises Repeated."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise Repeated(next(key for key in keys if keys.count(key) > 1))
    return found


def parse_json(data: bytes, path: str, first_line: int) -> Any:
    """The value of a JSON text that begins at `first_line` of a file. Raises ConfigError for invalid JSON."""
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique_keys)
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise bad_row(
            f"{path}:{first_line}: holds half of a surrogate pair, which is not valid Unicode"
        ) from None
    except Repeated as error:
        raise bad_row(f"{path}:{first_line}: `{inline(error.key)}` comes twice in one object") from None
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise ConfigError(f"{path}:{line}: not UTF-8", "save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        hint = "every line must be one JSON object" if path.endswith(".jsonl") else "correct the file"
        raise ConfigError(f"{path}:{line}: not JSON: {error.msg}", hint) from error
    except (ValueError, RecursionError) as error:  # an integer or nesting beyond Python's limits
        raise ConfigError(f"{path}:{first_line}: not readable JSON: {error}") from error
