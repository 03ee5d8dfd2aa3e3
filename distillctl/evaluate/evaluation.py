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

Z_95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


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


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of a binomial proportion (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = successes / total, Z_95**2
    centre = share + z2 / (2 * total)
    spread = Z_95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    scale = 1 + z2 / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


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
