"""`eval --score FILE.py[:NAME]`: the user's own scoring function in place of the normalised grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from distillctl.errors import ConfigError
from distillctl.files.python_file import split_name
from distillctl.grading.custom import RewardFunction, load_reward, reward
from distillctl.grading.scorers import Grade
from distillctl.grading.summary import Answer

RIGHT = 0.5
"""Score from which an answer is right."""


def load_scorer(spec: str) -> RewardFunction:
    """The function of `FILE.py:NAME`, or `compute_score` of `FILE.py`; called as verl calls its scorers.

    The file is run. Raises ConfigError for one that cannot be used.
    """
    path, name = split_name(spec)
    try:
        return load_reward(path, name or "compute_score")
    except ConfigError as error:
        message = error.message.replace("reward.path", "--score").replace("reward.name", "--score")
        raise ConfigError(message, error.hint) from None


def rescore(answers: Sequence[Answer], scorer: RewardFunction) -> list[Answer]:
    """`answers` with the scorer's verdict, of those too that have no ground truth; verl's verdicts stay.

    Raises RunFailed when it returns no finite number.
    """
    blank = Grade(False, False, False, False, None)
    return [
        replace(
            answer,
            grade=replace(
                answer.grade or blank, normalised=reward(answer.rollout, answer.text, scorer) >= RIGHT
            ),
        )
        for answer in answers
    ]
