"""`eval --score FILE.py[:NAME]`: the user's own scoring function in place of the normalised grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distillctl.errors import ConfigError
from distillctl.files.python_file import split_name
from distillctl.grading.custom import RewardFunction, load_reward, reward
from distillctl.grading.scorers import Grade
from distillctl.grading.summary import GradedResponse

RIGHT = 0.5
"""Lowest score of a right response."""


def load_scorer(spec: str) -> RewardFunction:
    """Load the function of `FILE.py:NAME`, or `compute_score` of `FILE.py`. We call it as verl calls scorers.

    The file is executed. Raises ConfigError if it cannot be used.
    """
    path, name = split_name(spec)
    try:
        return load_reward(path, name or "compute_score")
    except ConfigError as error:
        message = error.message.replace("reward.path", "--score").replace("reward.name", "--score")
        raise ConfigError(message, error.hint) from None


def rescore(responses: Sequence[GradedResponse], scorer: RewardFunction) -> list[GradedResponse]:
    """`responses` with the scorer's verdict as the normalised grade, even if they have no ground truth.

    The verdicts of verl's scorers stay. Raises RunFailed if the scorer does not return a finite number.
    """
    blank = Grade(strict=False, flexible=False, normalised=False, has_format=False, extracted=None)
    return [
        replace(
            response,
            grade=replace(
                response.grade or blank, normalised=reward(response.rollout, response.text, scorer) >= RIGHT
            ),
        )
        for response in responses
    ]
