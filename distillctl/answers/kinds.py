"""Answer types of prompts: what a ground truth is, by `reward_model.style` of its row."""

from __future__ import annotations

import re

from distillctl.answers.choice import chosen_letter
from distillctl.errors import ConfigError

ANSWER_TYPES = ("numeric", "exact", "choice", "regex", "latex")
"""What `reward_model.style` can say of a ground truth; verl's `rule` is `numeric` here."""


def answer_type(style: object) -> str:
    """The answer type of a row from its `reward_model.style`; `rule` and anything unknown are numeric."""
    return style if isinstance(style, str) and style in ANSWER_TYPES else "numeric"


def require_answer(truth: str, kind: str, where: str) -> None:
    """Raise ConfigError for a ground truth that is nothing of its answer type."""
    hint = "correct that row, or leave it out"
    if kind == "choice" and chosen_letter(truth) is None:
        message = f"{where}: `ground_truth` of type choice names no letter"
        raise ConfigError(message, hint)
    if kind == "regex":
        try:
            re.compile(truth)
        except re.error as error:
            raise ConfigError(f"{where}: `ground_truth` is no regular expression: {error}", hint) from None
