"""Evaluating a model: its answers through a rollout engine, graded and counted."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distillctl.evaluate.grading import Grade, grade
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.samples import Prompt, Rollout
from distillctl.significance import wilson_interval


@dataclass(frozen=True, slots=True)
class Answer:
    """One graded answer. `grade` is None when the data has no ground truth."""

    rollout: Rollout
    text: str
    grade: Grade | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Shares over all graded answers. `acc` is the normalised accuracy."""

    num_prompts: int
    num_graded: int
    acc: float
    acc_low: float
    """Lower end of the 95 % Wilson interval of `acc`; `acc_high` the upper."""
    acc_high: float
    verl_strict: float
    verl_flexible: float
    format_rate: float
    """Share with an answer in the `#### N` format, by verl's strict pattern."""
    truncation_rate: float
    """Share of all answers cut at the token limit."""
    response_length: float
    """Mean, tokens."""
    tokens_per_s: float
    """Generated tokens per second of the rollout engine."""


def grade_rollouts(rollouts: Sequence[Rollout], tokenizer: Any) -> list[Answer]:
    """Decode (special tokens left out) and grade each rollout against its prompt's ground truth."""
    texts = tokenizer.batch_decode(
        [rollout.response_ids.tolist() for rollout in rollouts], skip_special_tokens=True
    )
    return [
        Answer(rollout, text, None if (truth := rollout.prompt.ground_truth) is None else grade(text, truth))
        for rollout, text in zip(rollouts, texts, strict=True)
    ]


def answers(
    client: RolloutClient, prompts: list[Prompt], tokenizer: Any, sampling: Sampling
) -> tuple[list[Answer], float]:
    """One graded answer to every prompt, from the engine's current weights, and the seconds it took."""
    start = time.perf_counter()
    rollouts = client.generate(prompts, 1, sampling, run_seed=0, step=0)
    seconds = time.perf_counter() - start
    return grade_rollouts(rollouts, tokenizer), seconds


def summarise(answers: Sequence[Answer], seconds: float) -> Evaluation:
    """Counts over `answers`, which took `seconds` to generate."""
    grades = [answer.grade for answer in answers if answer.grade is not None]
    lengths = [len(answer.rollout.response_ids) for answer in answers]
    cut = sum(answer.rollout.finish_reason == "length" for answer in answers)

    def share(name: str) -> float:
        return sum(getattr(g, name) for g in grades) / len(grades) if grades else math.nan

    low, high = wilson_interval(sum(g.normalised for g in grades), len(grades))
    return Evaluation(
        num_prompts=len({answer.rollout.prompt.prompt_id for answer in answers}),
        num_graded=len(grades),
        acc=share("normalised"),
        acc_low=low,
        acc_high=high,
        verl_strict=share("strict"),
        verl_flexible=share("flexible"),
        format_rate=share("has_format"),
        truncation_rate=cut / len(answers),
        response_length=sum(lengths) / len(answers),
        tokens_per_s=sum(lengths) / seconds,
    )
