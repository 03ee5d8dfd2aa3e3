"""Where the final answer stands: the order of its marks, and think blocks in every answer type."""

import pytest

from distillctl.evaluate.answer_types import grade_typed
from distillctl.evaluate.grading import normalised
from distillctl.grading.final_answer import after_thinking, marked_phrase

MARKS = [r"\boxed{1}", "#### 2", "The answer is 3.", "**4** in all", "then 5"]


@pytest.mark.parametrize("first", range(len(MARKS)))
def test_the_best_mark_wins_wherever_it_stands(first):
    marks = MARKS[first:]
    assert normalised("\n".join(marks)) == str(first + 1)
    if first > 0:  # a box after the hashes, an answer before the last number
        assert normalised("\n".join(reversed(marks))) == str(first + 1)


@pytest.mark.parametrize("mark", MARKS)
def test_of_equal_marks_the_last_wins(mark):
    other = mark.translate(str.maketrans("12345", "66666"))
    assert normalised(f"{other}\n{mark}") == normalised(mark)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("no block", "no block"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<THINKING>a</THINKING>b", "b"),
        ("<think>a", None),
        ("<think>a</think>b<think>c", None),
    ],
)
def test_only_what_follows_the_last_think_block_counts(text, rest):
    assert after_thinking(text) == rest


@pytest.mark.parametrize(
    ("kind", "answer", "truth"),
    [
        ("numeric", "#### 4", "4"),
        ("exact", "#### Paris", "Paris"),
        ("choice", "(B)", "B"),
        ("regex", "OK", "OK"),
    ],
)
def test_a_thought_is_no_answer(kind, answer, truth):
    assert grade_typed(f"<think>hm</think>{answer}", truth, kind).normalised
    assert not grade_typed(f"<think>{answer}</think>I cannot say", truth, kind).normalised
    assert not grade_typed(f"<think>hm {answer}", truth, kind).normalised


def test_a_marked_phrase_may_be_words():
    assert marked_phrase("The answer is: Paris.\nIt has 20 districts.") == "Paris"
    assert marked_phrase("Paris") is None
