"""Verdicts on responses: verl's two scorers, bit for bit, and a tolerant one of our own.

In: a decoded response and its ground truth. Out: a `Grade`.
`verl_strict` and `verl_flexible` follow `verl/utils/reward_score/gsm8k.py`, quirks included, which makes
accuracies comparable with published ones. The tolerant scorer belongs to the answer type and reads a response
the way a person does (`distillctl.answers`). It compares numbers as exact fractions, never as floats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from distillctl.answers import reading
from distillctl.answers.final_answer import fold, read_answer
from distillctl.answers.plain import plain
from distillctl.grading import answer_types
from distillctl.grading.answer_types import DEFAULT, Verdict

_CLIP_CHARS = 300  # verl's _SOLUTION_CLIP_CHARS
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(\-?[0-9\.\,]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """Verdicts of the three scorers on one response."""

    strict: bool
    """verl-strict: the text after the last `#### ` equals the ground truth character by character."""
    flexible: bool
    """verl-flexible: the last run of digits, dots and commas equals the ground truth."""
    normalised: bool
    """The final answer equals the ground truth by the rules of its answer type."""
    has_format: bool
    """verl-strict found a final answer, right or wrong."""
    extracted: str | None
    """The final answer that `normalised` compared."""


def grade(text: str, ground_truth: str, answer_type: str = DEFAULT) -> Grade:
    """Grade a decoded response (without special tokens) against its ground truth."""
    (found,) = grade_all([(text, ground_truth)], answer_type)
    return found


def grade_all(pairs: Sequence[tuple[str, str]], answer_type: str) -> list[Grade]:
    """Grade pairs of a decoded response and its ground truth. All pairs have the same answer type."""
    verdicts = answer_types.load(answer_type).compare(pairs)
    return [_grade(*pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]


def _grade(text: str, ground_truth: str, verdict: Verdict) -> Grade:
    strict = verl_strict(text)
    return Grade(
        strict=strict == ground_truth,
        flexible=verl_flexible(text) == ground_truth,
        normalised=verdict.same,
        has_format=strict is not None,
        extracted=verdict.extracted,
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
