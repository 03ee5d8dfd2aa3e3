"""Answer types: the kinds of ground truth, as `reward_model.style` of a row names them."""

from __future__ import annotations

import re

from distillctl.answers.choice import chosen_letter
from distillctl.errors import ConfigError

ANSWER_TYPES = ("numeric", "exact", "choice", "regex", "latex")
"""Values of `reward_model.style`; verl's `rule` counts as `numeric`."""


def answer_type(style: object) -> str:
    """The answer type of a row from its `reward_model.style`; `rule` and unknown styles are numeric."""
    return style if isinstance(style, str) and style in ANSWER_TYPES else "numeric"


def require_answer(truth: str, kind: str, where: str) -> None:
    """Raise ConfigError unless a ground truth is valid for its answer type `kind`."""
    hint = "correct that row, or leave it out"
    if kind == "choice" and chosen_letter(truth) is None:
        message = f"{where}: `ground_truth` of type choice names no letter"
        raise ConfigError(message, hint)
    if kind == "regex":
        try:
            re.compile(truth)
        except re.error as error:
            message = f"{where}: `ground_truth` is not a regular expression: {error}"
            raise ConfigError(message, hint) from None
