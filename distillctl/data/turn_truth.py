"""The ground truth that an assistant's whole turn holds."""

from __future__ import annotations

from contextlib import suppress

from distillctl.data.answers import require_answer
from distillctl.errors import ConfigError
from distillctl.grading.final_answer import marked_phrase
from distillctl.grading.reading import parse_number, phrase_number


def truth_in_turn(turn: str, kind: str) -> str | None:
    """The ground truth of type `kind` in an assistant's turn, or None.

    A number is marked as the answer (`####`, a box, `answer is`) or stands alone; a choice names its letter;
    text and expressions are the turn itself; no turn is a regular expression.
    """
    text = turn.strip()
    if kind == "numeric":
        phrase = marked_phrase(turn)
        if phrase is None and parse_number(text) is not None:
            phrase = text
        read = None if phrase is None else phrase_number(phrase)
        return None if read is None or read.value is None else read.text
    with suppress(ConfigError):
        require_answer(text, kind, "")
        return None if kind == "regex" else text
    return None
