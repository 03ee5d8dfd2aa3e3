"""A model against its baselines on the same prompts: differences, tests, and the gap that is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillctl.grading.significance import mcnemar_exact, paired_interval, sign_flip_test
from distillctl.grading.summary import Answer, by_prompt, num_right


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a model's accuracy from a baseline's, over the prompts that both answered."""

    baseline: str
    num_prompts: int
    difference: float
    low: float
    """95 % interval over prompts (`significance.paired_interval`)."""
    high: float
    p_value: float
    """McNemar's exact test for one answer to each prompt, else a sign-flip test over prompts."""
    num_gained: int
    """Prompts on which the model is right more often than the baseline."""
    num_lost: int


def difference(name: str, model: Sequence[Answer], baseline: Sequence[Answer]) -> Difference | None:
    """The paired difference; None without a common graded prompt."""
    ours, theirs = _shares(model), _shares(baseline)
    common = [prompt for prompt in ours if prompt in theirs]
    if not common:
        return None
    pairs = [ours[prompt] - theirs[prompt] for prompt in common]
    gained, lost = sum(pair > 0 for pair in pairs), sum(pair < 0 for pair in pairs)
    single = all(abs(pair) in (0.0, 1.0) for pair in pairs)
    p_value = mcnemar_exact(lost, gained) if single else sign_flip_test(pairs)
    low, high = paired_interval(pairs)
    return Difference(name, len(common), sum(pairs) / len(pairs), low, high, p_value, gained, lost)


def gap_closed(before: float, after: float, teacher: float) -> float | None:
    """Share of the way from the student before to the teacher; None where the teacher is not better."""
    return (after - before) / (teacher - before) if teacher > before else None


def _shares(answers: Sequence[Answer]) -> dict[str, float]:
    """Share of right answers by prompt id."""
    groups = [group for group in by_prompt(answers) if group[0].grade is not None]
    return {group[0].rollout.prompt.prompt_id: num_right(group) / len(group) for group in groups}
