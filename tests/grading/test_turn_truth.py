"""The ground truth in the assistant's turn that a chat ends with."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.answers.latex_answer import final_expression
from distillctl.grading.answer_types import ANSWER_TYPES, load
from distillctl.grading.scorers import grade


@pytest.mark.parametrize(
    ("turn", "kind", "truth"),
    [
        ("5+13=18\n#### 18", "numeric", "18"),
        ("So it costs $1,018 in all.\nThe answer is $1,018.", "numeric", "1018"),
        (r"Half of it: \boxed{\frac{1}{2}}.", "numeric", "1/2"),
        ("18", "numeric", "18"),
        ("I have 3 dogs and 2 cats.", "numeric", None),
        ("Paris is the capital.", "numeric", None),
        ("**5**", "numeric", "5"),
        (r"\(5\)", "numeric", "5"),
        ("`5`", "numeric", "5"),
        ("x=5", "numeric", "5"),
        ("2+3=5", "numeric", "5"),
        ("5 km", "numeric", "5"),
        ("<think>2+3 is 6, no</think>5", "numeric", "5"),
        ("<think>#### 5", "numeric", None),
        ("5 years ago there were more cats.", "numeric", None),
        ("5\nI hope it helps.", "numeric", None),
        ("2024-01-05", "numeric", None),
        ("#### 2024-01-05", "numeric", None),
        ("1/2/2024", "numeric", None),
        ("6-7 days", "numeric", None),
        ("The answer is 6\u20137 days.", "numeric", None),
        ("3-2", "numeric", None),
        ("555-1234", "numeric", None),
        ("1 million", "numeric", None),
        ("x=5, y=6", "numeric", None),
        ("x = 1, x = 2", "numeric", None),
        ("a = 3, b = 4, c = 5", "numeric", None),
        ("a=1; b=2", "numeric", None),
        ("$x_1 = 1$ and $x_2 = 2$", "numeric", None),
        ("x = 2 + 3 = 5", "numeric", "5"),
        ("2x = 10, x = 5", "numeric", "5"),
        ("1. Paris", "numeric", None),
        ("2. The Eiffel Tower", "numeric", None),
        ("7-Eleven", "numeric", None),
        ("#### 1. Paris", "numeric", None),
        ("#### 3 Tips for Success\nEat well.", "numeric", None),
        ("## Plan\n#### 2 weeks before\nBook.\n#### 1 week before\nPack.", "numeric", None),
        ("#### 18 dollars\nShe sells 9 eggs.", "numeric", "18"),
        ("(B) Paris", "choice", "B"),
        ("I think the answer is B.", "choice", "B"),
        ("A is wrong. The answer is D.", "choice", "D"),
        ("A triangle has three sides, so the answer is C.", "choice", "C"),
        ("C) Vitamin A is correct", "choice", "C"),
        ("<think>A? no</think>B", "choice", "B"),
        ("I don't know", "choice", None),
        ("A good question", "choice", None),
        ("A or B", "choice", None),
        ("Paris", "exact", "Paris"),
        ("<think>Lyon?</think>\n\nParis", "exact", "Paris"),
        ("It has a tower.\nParis", "exact", "Paris"),
        ("It has a tower.\n#### Paris\nBye", "exact", "Paris"),
        ("...", "exact", None),
        (r"\sqrt{2}", "latex", r"\sqrt{2}"),
        (r"so \boxed{x^2+1}", "latex", "x^2+1"),
        (r"<think>3</think>It is $\frac{1}{2}$.", "latex", r"It is $\frac{1}{2}$."),
        ("**5**", "latex", "5"),
        ("*5*", "latex", "5"),
        ("__5__", "latex", "5"),
        ("`5`", "latex", "5"),
        (r"The answer is **\frac{1}{2}**.", "latex", r"\frac{1}{2}"),
        ("I don't know", "latex", None),
        ("[a-z]+", "regex", None),
    ],
)
def test_only_what_is_stated_as_the_answer_is_the_truth(turn, kind, truth):
    assert load(kind).truth_in_turn(turn) == truth


PIECES = [
    "<think>", "</think>", "5", "-3/4", "6-7", "1/2/2024", "1,000", " million", "dollars", "x = ", "x^2", "+",
    "**", "`", "$", "\\(", "\\)", "#### ", "\\boxed{", "}", "\\frac{1}{2}", "The answer is ", "Answer: ", "A",
    "(B)", "C) Paris", "D.", " or ", " and ", " is wrong", " is correct", "not ", "I choose ", "Paris", "...",
    ". ", " ", "\n", "\n\n",
]  # fmt: skip


@pytest.mark.parametrize("kind", ANSWER_TYPES)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_a_truth_is_what_grading_finds_in_the_same_turn(kind, turn):
    truth = load(kind).truth_in_turn(turn)
    if truth is None:
        return
    if kind == "latex":
        assert final_expression(truth) == final_expression(turn)
        return
    verdict = grade(turn, truth, kind)
    assert verdict.normalised
    assert verdict.extracted == truth
