r"""Answers that are not numbers: what `reward_model.style` of a row says about its ground truth.

| style | ground truth | right is |
|---|---|---|
| `rule`, `numeric` | a number, or text | the final answer has its value (`grading.grade`) |
| `exact` | text | the final answer is that text; case, spacing and punctuation around it do not count |
| `choice` | a letter | the letter that the response chooses |
| `regex` | a pattern | the response's last 10,000 characters contain a match |
| `latex` | an expression | math-verify finds it equal to the response's (extra `math`) |

The final answer is what follows the last `####`, else the last `\boxed{}`, else, of `exact`, the last line.
"""

from __future__ import annotations

import re

from distillctl.evaluate.grading import Grade, final_phrase, fold, grade, verl_flexible, verl_strict

REGEX_CHARS = 10_000
"""End of a response that a pattern is searched in: Python's `re` has no time limit."""

_CHOICE_HINT = re.compile(r"answer\s*(?:is|:|=)?\s*:?\s*\**\(?([A-Z])\b\)?", re.IGNORECASE)
_CHOICE_START = re.compile(r"\W*([A-Z])\b(?![\w'])", re.IGNORECASE)
_CHOICE_ALONE = re.compile(r"(?:^|\s)(?:\(([A-Z])\)|\**([A-Z])\**[.):]?(?=\s*$))", re.MULTILINE)


def grade_typed(text: str, ground_truth: str, kind: str) -> Grade:
    """Grade a response whose ground truth is of type `kind`, all but `latex`. verl's scorers stand beside."""
    if kind == "numeric":
        return grade(text, ground_truth)
    extracted, same = _VERDICTS[kind](text, ground_truth)
    strict = verl_strict(text)
    return Grade(
        strict == ground_truth, verl_flexible(text) == ground_truth, same, strict is not None, extracted
    )


def _exact(text: str, truth: str) -> tuple[str | None, bool]:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    extracted = final_phrase(text) or (lines[-1].strip() if lines else None)
    return extracted, extracted is not None and fold(extracted) == fold(truth)


def _choice(text: str, truth: str) -> tuple[str | None, bool]:
    letter = chosen_letter(text)
    expected = _CHOICE_START.match(truth)
    return letter, letter is not None and expected is not None and letter == expected[1].upper()


def _regex(text: str, truth: str) -> tuple[str | None, bool]:
    match = re.search(truth, text[-REGEX_CHARS:])
    return (match[0], True) if match else (None, False)


def chosen_letter(text: str) -> str | None:
    r"""The letter that a response chooses: at the start of the final answer (`#### (B)`, `\boxed{B}`), else
    of the last `answer is B`, else the last one that stands alone, `(B)` or at the end of a line."""
    phrase = final_phrase(text)
    start = phrase and _CHOICE_START.match(phrase)
    if start:
        return start[1].upper()
    hints = _CHOICE_HINT.findall(text)
    if hints:
        return str(hints[-1]).upper()
    alone = _CHOICE_ALONE.findall(text)
    return "".join(alone[-1]).upper() if alone else None


_VERDICTS = {"exact": _exact, "choice": _choice, "regex": _regex}
