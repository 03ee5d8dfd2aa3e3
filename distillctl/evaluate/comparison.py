"""Comparing a model with its baselines on the same prompts: differences, tests, and the gap it closes."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.grading.significance import PairedDifference, paired_difference
from distillctl.grading.summary import GradedResponse, by_prompt, num_right


def difference(
    model: Sequence[GradedResponse], baseline: Sequence[GradedResponse]
) -> PairedDifference | None:
    """The paired difference; None if no graded prompt is common to both."""
    return paired_difference(_shares(model), _shares(baseline))


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
