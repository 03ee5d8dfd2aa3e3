"""A number, or other text; verl's style `rule`.

A ground truth is read like a response: `#### 12`, `x = 12` and a worked solution that ends in 12 all mean 12.
"""

from __future__ import annotations

from distillctl.answers.final_answer import after_thinking, fold, marked_phrase, read_answer
from distillctl.answers.plain import plain
from distillctl.answers.truths import number_in_turn, read_truth
from distillctl.grading.answer_types import AnswerType, Verdict, each
from distillctl.grading.scorers import normalised, same_answer_key


def _compare(response: str, truth: str) -> Verdict:
    expected = read_truth(truth)
    if expected.value is not None:
        answer = read_answer(response)
        same = answer is not None and answer.value == expected.value
        return Verdict(same, None if answer is None else answer.text)
    extracted = _words(response)
    text = marked_phrase(truth) or plain(truth)
    return Verdict(extracted is not None and fold(extracted) == fold(text), extracted)


def _words(response: str) -> str | None:
    """The final answer of a response whose ground truth is not a number.

    It is the phrase that is marked as the answer, else the whole response if it is one line, else the last
    number.
    """
    rest = after_thinking(response)
    if rest is None:
        return None
    phrase = marked_phrase(rest)
    if phrase is None and rest.strip() and "\n" not in rest.strip():
        return rest.strip()
    return phrase or normalised(rest)


def _truth(answer: str) -> str:
    """The number that an answer states, or the whole answer if it states none."""
    read = read_truth(answer)
    return answer.strip() if read.value is None else read.text


def _truth_in_turn(turn: str) -> str | None:
    """A number that is marked as the answer (`####`, a box, `answer is`) or stands alone."""
    number = number_in_turn(turn)
    return None if number is None else number.text


TYPE = AnswerType(
    compare=each(_compare), truth=_truth, truth_in_turn=_truth_in_turn, answer_key=same_answer_key
)
