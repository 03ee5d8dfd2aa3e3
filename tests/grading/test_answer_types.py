"""Answers that are not numbers: a table of responses for each type."""

import re
import sys

import pytest

from distillctl.answers.choice import chosen_letter
from distillctl.errors import ConfigError
from distillctl.grading import answer_types, types
from distillctl.grading.answer_types import answer_type, require_answer
from distillctl.grading.scorers import grade

CHOICES = [
    ("B", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("#### B", "B"),
    ("#### (b)", "B"),
    ("#### **C**", "C"),
    (r"\boxed{D}", "D"),
    (r"so \boxed{\text{A}} it is", "A"),
    ("The answer is (C).", "C"),
    ("The answer is: C", "C"),
    ("Answer: B", "B"),
    ("answer = d", "D"),
    ("**Answer:** B", "B"),
    ("I first thought the answer is A, but the answer is B.", "B"),
    ("A is wrong because... therefore (D)", "D"),
    ("Options (A) and (B) are out, (C) remains", "C"),
    ("It must be\nE.", "E"),
    ("#### B because A is too small", "B"),
    ("", None),
    ("I do not know", None),
    ("A cat sat there", None),
    ("#### 42", None),
]


@pytest.mark.parametrize(("text", "letter"), CHOICES)
def test_the_letter_that_is_chosen(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(
    ("truth", "right"), [("B", True), ("(B)", True), ("b", True), ("B) blue", True), ("C", False)]
)
def test_a_choice_is_compared_by_its_letter(truth, right):
    assert grade("The answer is (B).", truth, "choice").normalised is right


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("#### Paris", "paris", True),
        ("#### Paris.", "Paris", True),
        ("#### New  York", "new york", True),
        (r"It is \boxed{Paris}", "Paris", True),
        ("Let me think.\nParis", "Paris", True),
        ("#### The answer is Paris", "Paris", True),
        ("Paris is a city.\n#### Lyon", "Paris", False),
        ("#### Paris, France", "Paris", False),
        ("#### caf\u00e9", "cafe\u0301", True),
        ("#### cafe\u0301", "caf\u00e9", True),
        ("#### cafe", "caf\u00e9", False),
        ("The answer is:\n\n- Paris", "Paris", True),
        ("The answer is:\n1. Paris\n\nIt is a city.", "Paris", True),
        ("The answer is:\n\n- Paris\n- Lyon", "Paris", False),
        ("- Lyon\n- Paris", "Paris", False),
        ('{"answer": "Paris"}', "Paris", True),
        ('{"answer": "Lyon", "note": "not Paris"}', "Paris", False),
        ("<answer>\nNew York\n</answer> since it is large", "New York", True),
        ("Ответ: Париж", "Париж", True),
        ("La respuesta es París.", "París", True),
        ("答案:巴黎", "巴黎", True),
        ("", "Paris", False),
        ("Roses are red,\nviolets are blue.", "Roses are red,\nviolets are blue.", True),
        ("violets are blue.", "Roses are red,\nviolets are blue.", False),
        ("Paris", "<think>Lyon?</think>Paris", True),
    ],
)
def test_exact_texts(text, truth, right):
    assert grade(text, truth, "exact").normalised is right


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("the colour is grey", "gr[ae]y", True),
        ("the colour is green", "gr[ae]y", False),
        ("x" * 10_000 + "end", r"\Aend", False),
        ("far" + "x" * 10_000, "far", False),
        ("line\nOK\n", r"(?m)^OK$", True),
    ],
)
def test_patterns_are_searched_at_the_end_of_the_response(text, truth, right):
    verdict = grade(text, truth, "regex")
    assert verdict.normalised is right
    assert (verdict.extracted is not None) is right


def test_numbers_are_graded_as_ever():
    assert grade("#### 1,000", "1000", "numeric").normalised


@pytest.mark.parametrize(
    ("style", "expected"),
    [("rule", "numeric"), ("numeric", "numeric"), ("choice", "choice"), ("none", "numeric"), (3, "numeric")],
)
def test_the_type_of_a_row_is_its_style(style, expected):
    assert answer_type(style) == expected


def test_a_file_without_a_type_is_named(tmp_path, monkeypatch):
    path = tmp_path / "broken.py"
    path.write_text('"""Nothing."""\n')
    monkeypatch.setattr(types, "__path__", [*types.__path__, str(tmp_path)])
    monkeypatch.setattr(types, "broken", None, raising=False)
    monkeypatch.setattr(answer_types, "ANSWER_TYPES", (*answer_types.ANSWER_TYPES, "broken"))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: defines no TYPE$"):
        require_answer("7", "broken", "mine.jsonl:3")
    del sys.modules[f"{types.__name__}.broken"]


def test_verls_scorers_stand_beside_every_type():
    verdict = grade("#### 42", "42", "exact")
    assert (verdict.strict, verdict.flexible, verdict.normalised, verdict.has_format) == (True,) * 4
