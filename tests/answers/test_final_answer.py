"""Where the final answer stands: the order of its marks, and think blocks in every answer type."""

import pytest

from distillctl.answers.final_answer import after_thinking, marked_phrase
from distillctl.answers.truths import read_truth
from distillctl.grading.scorers import grade, normalised

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
    assert grade(f"<think>hm</think>{answer}", truth, kind).normalised
    assert not grade(f"<think>{answer}</think>I cannot say", truth, kind).normalised
    assert not grade(f"<think>hm {answer}", truth, kind).normalised


@pytest.mark.parametrize("kind", ["numeric", "exact"])
def test_blanks_after_commas_do_not_matter_in_a_text_truth(kind):
    for answer, truth in (("#### (3,4)", "(3, 4)"), ("#### red, blue", "red,blue")):
        assert grade(answer, truth, kind).normalised
    assert not grade("#### (3,5)", "(3, 4)", kind).normalised


def test_a_marked_phrase_may_be_words():
    assert marked_phrase("The answer is: Paris.\nIt has 20 districts.") == "Paris"
    assert marked_phrase("Paris") is None


@pytest.mark.parametrize(
    ("truth", "number"),
    [
        ("He has 3 apples. He buys 4 more. He has 7 apples.", 7),
        ("First 3, then 4. So 7.", 7),
        ("She sold 48/2 = 24 clips in May. Altogether 72.", 72),
        ("3 dollars.", 3),
        ("2020-01-05", None),
    ],
)
def test_a_truth_of_several_sentences_on_one_line_is_read_like_a_response(truth, number):
    assert read_truth(truth).value == number
