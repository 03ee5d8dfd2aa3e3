"""A letter: the one that a response chooses."""

from __future__ import annotations

from distillctl.answers.choice import chosen_letter
from distillctl.grading.answer_types import AnswerType, Verdict, each


def _compare(response: str, truth: str) -> Verdict:
    letter = chosen_letter(response)
    return Verdict(letter is not None and letter == chosen_letter(truth), letter)


def _fault(truth: str) -> str | None:
    return "of type choice names no letter" if chosen_letter(truth) is None else None


TYPE = AnswerType(compare=each(_compare), fault=_fault, truth_in_turn=chosen_letter)
