"""Text: the final answer that a response marks, else its last line."""

from __future__ import annotations

from distillctl.answers.final_answer import after_thinking, fold, marked_phrase
from distillctl.answers.plain import plain
from distillctl.answers.text_answer import final_text
from distillctl.grading.answer_types import AnswerType, Verdict, each


def _compare(response: str, truth: str) -> Verdict:
    extracted = final_text(response)
    stated = after_thinking(truth) or truth
    expected = {_folded(one) for one in (stated, marked_phrase(truth) or stated)}
    found = {_folded(one) for one in (extracted, after_thinking(response)) if one}
    return Verdict(extracted is not None and not found.isdisjoint(expected), extracted)


def _truth_in_turn(turn: str) -> str | None:
    """The marked final answer, else the last line."""
    text = final_text(turn)
    return text if text and _folded(text) else None


def _folded(text: str) -> str:
    """A text as `_compare` compares it."""
    return fold(plain(text))


TYPE = AnswerType(compare=each(_compare), truth_in_turn=_truth_in_turn, answer_key=_folded)
