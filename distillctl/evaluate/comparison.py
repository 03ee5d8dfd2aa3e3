"""Comparing a model with its baselines on the same prompts: differences, tests, and the gap it closes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillctl.grading.significance import mcnemar_exact, paired_interval, sign_flip_test
from distillctl.grading.summary import GradedResponse, by_prompt, num_right


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Difference of a model's accuracy from a baseline's, over the prompts that both responded to."""

    baseline: str
    num_prompts: int
    difference: float
    low: float
    """Lower end of the 95 % interval over prompts (`significance.paired_interval`); `high` is the upper."""
    high: float
    p_value: float
    """By McNemar's exact test for one response per prompt, otherwise by a sign-flip test over prompts."""
    num_gained: int
    """Prompts on which the model is right more often than the baseline."""
    num_lost: int


def difference(
    name: str, model: Sequence[GradedResponse], baseline: Sequence[GradedResponse]
) -> Difference | None:
    """The paired difference; None if no graded prompt is common to both."""
    ours = _shares(model)
    theirs = _shares(baseline)
    common = [prompt for prompt in ours if prompt in theirs]
    if not common:
        return None
    pairs = [ours[prompt] - theirs[prompt] for prompt in common]
    gained = sum(pair > 0 for pair in pairs)
    lost = sum(pair < 0 for pair in pairs)
    single = all(abs(pair) in (0.0, 1.0) for pair in pairs)
    p_value = mcnemar_exact(lost, gained) if single else sign_flip_test(pairs)
    low, high = paired_interval(pairs)
    return Difference(
        baseline=name,
        num_prompts=len(common),
        difference=sum(pairs) / len(pairs),
        low=low,
        high=high,
        p_value=p_value,
        num_gained=gained,
        num_lost=lost,
    )


def gap_closed(before: float, after: float, teacher: float) -> float | None:
    """Share of the gap between the earlier student and the teacher that the model closes.

    The arguments are the accuracies of the student before training, the model, and the teacher. None if the
    teacher is not better than the student before training.
    """
    return (after - before) / (teacher - before) if teacher > before else None


def _shares(responses: Sequence[GradedResponse]) -> dict[str, float]:
    """Share of right responses by prompt id."""
    groups = [group for group in by_prompt(responses) if group[0].grade is not None]
    return {group[0].rollout.prompt.prompt_id: num_right(group) / len(group) for group in groups}
