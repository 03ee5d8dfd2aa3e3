"""A regular expression that must match somewhere in the end of a response."""

from __future__ import annotations

import re

from distillctl.answers.final_answer import after_thinking
from distillctl.grading.answer_types import AnswerType, Verdict, each

MAX_CHARS = 10_000
"""Number of characters at the end of a response that are searched, because `re` has no time limit."""


def _compare(response: str, truth: str) -> Verdict:
    match = re.search(truth, (after_thinking(response) or "")[-MAX_CHARS:])
    return Verdict(same=match is not None, extracted=match and match[0])


def _fault(truth: str) -> str | None:
    try:
        re.compile(truth)
    except re.error as error:
        return f"is not a regular expression: {error}"
    return None


TYPE = AnswerType(compare=each(_compare), fault=_fault)
