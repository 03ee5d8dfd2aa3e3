"""Intervals and counts of an evaluation."""

from dataclasses import replace

import numpy as np
import pytest

from distillctl.data_types import Prompt, Rollout
from distillctl.grading.scorers import grade
from distillctl.grading.summary import (
    GradedResponse,
    by_prompt,
    majority_is_right,
    summarise,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [
        # statsmodels.stats.proportion.proportion_confint(method="wilson"), 4 digits
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (131, 500, 0.2253, 0.3022),
    ],
)
def test_wilson_interval(successes, total, low, high):
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=1e-4)


def answer(text, truth, finish_reason="stop", length=3, prompt="test/0", answer_type="numeric"):
    ids, logp = np.zeros(length, np.int32), np.zeros(length, np.float32)
    rollout = Rollout(
        prompt=Prompt(prompt, [1], "", truth, answer_type=answer_type),
        group=int(prompt.split("/")[1]),
        sample=0,
        response_ids=ids,
        response_logprobs=logp,
        finish_reason=finish_reason,
        weight_version=0,
    )
    return GradedResponse(rollout, text, None if truth is None else grade(text, truth, answer_type))


def test_shares_are_over_graded_answers_and_lengths_over_all():
    answers = [
        answer("#### 4", "4"),
        answer("#### 4.", "4", prompt="test/1"),
        answer("no idea", "4", finish_reason="length", length=5, prompt="test/2"),
        answer("anything", None, prompt="test/3"),
    ]
    result = summarise(answers, seconds=2.0)
    assert (result.num_prompts, result.num_graded) == (4, 3)
    assert result.acc == pytest.approx(2 / 3)
    assert result.verl_strict == pytest.approx(1 / 3)
    assert result.format_rate == pytest.approx(2 / 3)
    assert result.truncation_rate == pytest.approx(1 / 4)
    assert result.response_length == pytest.approx(14 / 4)
    assert result.tokens_per_s == pytest.approx(7)


def test_prompts_of_two_files_with_the_same_id_are_two_prompts():
    first, second = answer("#### 4", "4"), answer("#### 5", "4")
    other = replace(second, rollout=replace(second.rollout, group=1))
    assert by_prompt([first, other, first]) == [[first, first], [other]]


@pytest.mark.parametrize(
    ("texts", "right"),
    [
        (["#### 12", "#### 12.0", "#### 4"], False),  # two of three say twelve, spelled in two ways
        (["#### 1/2", r"\boxed{\frac{1}{2}}", "#### 0.50", "#### 4", "#### 4"], False),
        (["#### 4", "#### 4.0", "#### 12"], True),
        (["#### 12", "#### 13", "#### 4", "#### 4.00"], True),
        (["no answer", "none", "#### 4"], True),
        (["nothing", "none"], False),
    ],
)
def test_a_majority_is_counted_by_value(texts, right):
    assert majority_is_right([answer(text, "4") for text in texts]) is right


def test_a_majority_of_texts_does_not_depend_on_case():
    texts = [r"\boxed{Rome}", "#### rome.", "#### Paris", "#### Bern"]
    for answer_type in ("numeric", "exact"):
        assert not majority_is_right([answer(text, "Paris", answer_type=answer_type) for text in texts])


@pytest.mark.parametrize(
    ("texts", "right"),
    [
        (["2024-03-09", "2024-04-08", "2024-03-10"], True),  # 2024 - 3 - 9 and 2024 - 4 - 8 are 2012 both
        (["2024-03-09", "2024-03-09.", "2024-03-10"], False),
        (["**2024-03-09**", "2024-03-09", "2024-03-10"], False),
        (["3.0", "3", "2024-03-10"], True),
    ],
)
def test_a_majority_of_texts_does_not_compute(texts, right):
    truth = "2024-03-10"
    group = [answer(text, truth, answer_type="exact") for text in [texts[-1], *texts[:-1]]]
    assert majority_is_right(group) is right


def test_a_majority_of_expressions_is_counted_by_value():
    right, *wrong = (answer(text, "4") for text in ["#### 4", "#### 12", "#### 12.0"])
    group = [
        replace(one, rollout=replace(one.rollout, prompt=replace(one.rollout.prompt, answer_type="latex")))
        for one in (right, *wrong)
    ]
    assert not majority_is_right(group)
