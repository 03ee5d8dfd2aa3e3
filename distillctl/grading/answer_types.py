r"""Answers that are not numbers: what `reward_model.style` of a row says about its ground truth.

| style | ground truth | a response is right if |
|---|---|---|
| `rule`, `numeric` | a number, or text | the final answer has its value (`scorers.grade`) |
| `exact` | text | the final answer is that text; case, spacing and punctuation around it do not count |
| `choice` | a letter | it chooses that letter |
| `regex` | a pattern | its last 10,000 characters contain a match |
| `latex` | an expression | math-verify finds its expression equal (extra `math`) |

The final answer is what is marked as such (`final_answer.marked_phrase`), else, for `exact`, the last line.
Nothing before the end of the last think block counts.
"""

from __future__ import annotations

import re

from distillctl.answers.choice import chosen_letter
from distillctl.answers.final_answer import after_thinking, fold, marked_phrase
from distillctl.answers.plain import plain
from distillctl.answers.text_answer import final_text
from distillctl.grading.scorers import Grade, grade, verl_flexible, verl_strict

REGEX_CHARS = 10_000
"""Characters at the end of a response that are searched for a pattern: Python's `re` has no time limit."""


def grade_typed(text: str, ground_truth: str, kind: str) -> Grade:
    """Grade a response by its answer type `kind` (any but `latex`), and also by verl's two scorers."""
    if kind == "numeric":
        return grade(text, ground_truth)
    extracted, same = _VERDICTS[kind](text, ground_truth)
    strict = verl_strict(text)
    return Grade(
        strict=strict == ground_truth,
        flexible=verl_flexible(text) == ground_truth,
        normalised=same,
        has_format=strict is not None,
        extracted=extracted,
    )


def _exact(text: str, truth: str) -> tuple[str | None, bool]:
    extracted = final_text(text)
    stated = after_thinking(truth) or truth
    expected = {fold(plain(one)) for one in (stated, marked_phrase(truth) or stated)}
    found = {fold(plain(one)) for one in (extracted, after_thinking(text)) if one}
    return extracted, extracted is not None and not found.isdisjoint(expected)


def _choice(text: str, truth: str) -> tuple[str | None, bool]:
    letter = chosen_letter(text)
    return letter, letter is not None and letter == chosen_letter(truth)


def _regex(text: str, truth: str) -> tuple[str | None, bool]:
    match = re.search(truth, (after_thinking(text) or "")[-REGEX_CHARS:])
    return (match[0], True) if match else (None, False)


_VERDICTS = {"exact": _exact, "choice": _choice, "regex": _regex}
