"""Grading the responses of a model, and what the grades add up to."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from distillctl.data_types import Rollout
from distillctl.grading.answer_types import load
from distillctl.grading.scorers import Grade, grade_all
from distillctl.grading.significance import clustered_interval, pass_at_k, wilson_interval


@dataclass(frozen=True, slots=True)
class GradedResponse:
    """A response with its text and its grade, which is None if the data has no ground truth."""

    rollout: Rollout
    text: str
    grade: Grade | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Result of an evaluation. Shares are over all graded responses; `acc` is the normalised accuracy."""

    num_prompts: int
    num_graded: int
    num_samples: int
    """Responses to each prompt."""
    acc: float
    acc_low: float
    """Lower end of the 95 % interval of `acc`; `acc_high` is the upper end. For one response per prompt it is
    Wilson's interval, otherwise `significance.clustered_interval`."""
    acc_high: float
    verl_strict: float
    verl_flexible: float
    format_rate: float
    """Share of responses with a final answer in the form `#### N`, by verl's strict pattern."""
    truncation_rate: float
    """Share of all responses that were cut at the token limit."""
    response_length: float
    """Mean length of the responses in tokens."""
    tokens_per_s: float
    """Generated tokens per second of the rollout engine."""
    pass_at_k: float
    """Unbiased estimate of the share of prompts with at least one right response among `num_samples`; equals
    `acc` for one response."""
    maj_at_k: float
    """Share of prompts whose most frequent final answer is right; equals `acc` for one response."""


def decode(rollouts: Sequence[Rollout], tokenizer: Any) -> list[str]:
    """The texts of responses, without special tokens."""
    texts: list[str] = tokenizer.batch_decode(
        [rollout.response_ids.tolist() for rollout in rollouts], skip_special_tokens=True
    )
    return texts


def grade_rollouts(rollouts: Sequence[Rollout], tokenizer: Any) -> list[GradedResponse]:
    """Decode and grade each rollout."""
    return grade_texts(rollouts, decode(rollouts, tokenizer))


def grade_texts(rollouts: Sequence[Rollout], texts: Sequence[str]) -> list[GradedResponse]:
    """Grade the text of each rollout against its prompt's ground truth, by the prompt's answer type."""
    pairs: dict[str, dict[int, tuple[str, str]]] = {}
    for i, (rollout, text) in enumerate(zip(rollouts, texts, strict=True)):
        prompt = rollout.prompt
        if prompt.ground_truth is not None:
            pairs.setdefault(prompt.answer_type, {})[i] = (text, prompt.ground_truth)
    grades: dict[int, Grade] = {}
    for answer_type, of_type in pairs.items():  # all of a type at once: some are compared in other processes
        grades |= zip(of_type, grade_all(list(of_type.values()), answer_type), strict=True)
    return [GradedResponse(*pair, grades.get(i)) for i, pair in enumerate(zip(rollouts, texts, strict=True))]


def summarise(responses: Sequence[GradedResponse], seconds: float) -> Evaluation:
    """Summarise `responses`, which took `seconds` to generate. Each prompt must have the same number of them.

    A share is NaN if no response was graded, and a length is NaN if there are no responses.
    """
    grades = [response.grade for response in responses if response.grade is not None]
    lengths = [len(response.rollout.response_ids) for response in responses]
    cut = sum(response.rollout.finish_reason == "length" for response in responses)
    groups = by_prompt(responses)
    num_samples = max((len(group) for group in groups), default=0)

    def share(name: str) -> float:
        return sum(getattr(g, name) for g in grades) / len(grades) if grades else math.nan

    low, high = _interval(groups, num_samples)
    graded = [group for group in groups if group[0].grade is not None]
    return Evaluation(
        num_prompts=len(groups),
        num_graded=len(grades),
        num_samples=num_samples,
        acc=share("normalised"),
        acc_low=low,
        acc_high=high,
        verl_strict=share("strict"),
        verl_flexible=share("flexible"),
        format_rate=share("has_format"),
        truncation_rate=cut / len(responses) if responses else math.nan,
        response_length=sum(lengths) / len(responses) if responses else math.nan,
        tokens_per_s=sum(lengths) / seconds if seconds else math.nan,
        pass_at_k=_mean([pass_at_k(len(group), num_right(group), num_samples) for group in graded]),
        maj_at_k=_mean([float(majority_is_right(group)) for group in graded]),
    )


def by_prompt(responses: Sequence[GradedResponse]) -> list[list[GradedResponse]]:
    """The responses grouped by prompt, in the order in which the prompts first occur."""
    groups: dict[int, list[GradedResponse]] = {}
    for response in responses:
        groups.setdefault(response.rollout.group, []).append(response)
    return list(groups.values())


def num_right(group: Sequence[GradedResponse]) -> int:
    """The number of right responses."""
    return sum(response.grade is not None and response.grade.normalised for response in group)


def majority_is_right(group: Sequence[GradedResponse]) -> bool:
    """Whether the most frequent final answer is right; of equally frequent ones the earliest counts.

    All right final answers are one candidate, however they are written; so are wrong ones that are equal by
    the rules of the answer type.
    A response without a final answer has no vote.
    """
    votes: dict[tuple[str, Hashable], int] = {}
    for response in group:
        grade = response.grade
        if grade is not None and (grade.normalised or grade.extracted is not None):
            answer_key = load(response.rollout.prompt.answer_type).answer_key
            wrong = ("wrong", answer_key(str(grade.extracted)))
            key = ("right", "") if grade.normalised else wrong
            votes[key] = votes.get(key, 0) + 1
    return bool(votes) and max(votes, key=lambda key: votes[key])[0] == "right"


def _interval(groups: Sequence[Sequence[GradedResponse]], num_samples: int) -> tuple[float, float]:
    graded = [group for group in groups if group[0].grade is not None]
    if not graded:
        return math.nan, math.nan
    if num_samples == 1:
        return wilson_interval(sum(num_right(group) for group in graded), len(graded))
    return clustered_interval([num_right(group) / len(group) for group in graded])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
