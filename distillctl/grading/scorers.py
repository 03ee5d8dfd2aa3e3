"""Verdicts on responses: verl's two scorers, bit for bit, and a tolerant one of our own.

In: a decoded response and its ground truth. Out: a `Grade`. Pure functions, standard library only.
`verl_strict` and `verl_flexible` follow `verl/utils/reward_score/gsm8k.py`, quirks included, which makes
accuracies comparable with published ones. `normalised` reads a response the way a person does
(`distillctl.answers`). Numbers are compared as exact fractions, never as floats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from distillctl.answers import reading
from distillctl.answers.final_answer import after_thinking, fold, marked_phrase, read_answer
from distillctl.answers.plain import plain
from distillctl.answers.truths import read_truth

_CLIP_CHARS = 300  # verl's _SOLUTION_CLIP_CHARS
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(\-?[0-9\.\,]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """Verdicts of the three scorers on one response."""

    strict: bool
    """verl-strict: the text after the last `#### ` equals the ground truth character by character."""
    flexible: bool
    """verl-flexible: the last run of digits, dots and commas equals it."""
    normalised: bool
    """The final answer has the value of the ground truth, or its text if the ground truth is not a number."""
    has_format: bool
    """verl-strict found a final answer, right or wrong."""
    extracted: str | None
    """The final answer that `normalised` compared."""


def grade(text: str, ground_truth: str) -> Grade:
    """Grade a decoded response (without special tokens) against its ground truth.

    The ground truth is read like a response: `#### 12`, `x = 12` and a worked solution are all 12.
    """
    strict = verl_strict(text)
    truth = read_truth(ground_truth)
    if truth.value is not None:
        answer = read_answer(text)
        extracted = None if answer is None else answer.text
        same = answer is not None and answer.value == truth.value
    else:
        extracted = _words(text)
        expected = marked_phrase(ground_truth) or plain(ground_truth)
        same = extracted is not None and fold(extracted) == fold(expected)
    return Grade(
        strict=strict == ground_truth,
        flexible=verl_flexible(text) == ground_truth,
        normalised=same,
        has_format=strict is not None,
        extracted=extracted,
    )


def verl_strict(text: str) -> str | None:
    """The last `#### NUMBER` of the last 300 characters without commas, or None (verl's default)."""
    answers: list[str] = _STRICT.findall(text[-_CLIP_CHARS:])
    return answers[-1].replace(",", "") if answers else None


def verl_flexible(text: str) -> str | None:
    """The last run of digits, dots and commas in the last 300 characters that is not a single dot.

    If there are only single dots, verl's loop returns one of them, and so do we.
    """
    runs: list[str] = _FLEXIBLE.findall(text[-_CLIP_CHARS:])
    return next((run for run in reversed(runs) if run != "."), runs[0] if runs else None)


def normalised(text: str) -> str | None:
    """The final answer of a response (`final_answer.read_answer`); None if it has none.

    It is a plain number such as `-1234.5` or `3/4`, or else the words or the expression in its place.
    """
    answer = read_answer(text)
    return None if answer is None else answer.text


def parse_number(text: str) -> Fraction | None:
    """The exact value of a text that is one number or computation, perhaps with a unit, else None."""
    return reading.parse_number(plain(text))


def same_answer_key(extracted: str) -> Fraction | str:
    """A key that equal final answers share: the value of a number, else the folded text."""
    value = parse_number(extracted)
    return fold(extracted) if value is None else value


def _words(text: str) -> str | None:
    """The final answer of a response whose ground truth is not a number.

    It is what is marked as the answer, else the whole response if it is one line, else the last number.
    """
    rest = after_thinking(text)
    if rest is None:
        return None
    phrase = marked_phrase(rest)
    if phrase is None and rest.strip() and "\n" not in rest.strip():
        return rest.strip()
    return phrase or normalised(rest)
