"""The ground truth that an assistant's whole turn holds."""

from __future__ import annotations

import re
from contextlib import suppress

from distillctl.data.answers import require_answer
from distillctl.data.schema import gsm8k_ground_truth
from distillctl.errors import ConfigError

_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?")


def truth_in_turn(turn: str, kind: str) -> str | None:
    """The ground truth of type `kind` in an assistant's turn, or None.

    A number stands after GSM8K's `####` or alone; a choice begins with its letter; text and expressions are
    the turn itself; no turn is a regular expression.
    """
    text = turn.strip()
    if kind == "numeric":
        with suppress(ValueError):
            return gsm8k_ground_truth(turn)
        return text.replace(",", "") if _NUMBER.fullmatch(text) else None
    with suppress(ConfigError):
        require_answer(text, kind, "")
        return None if kind == "regex" else text
    return None
