"""The interface of a teacher for the training step, wherever the teacher runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from distillctl.data_types import MicroBatch
from distillctl.objective.teacher_scores import TeacherScores


class ScoringStopped(Exception):
    """A stop was requested while a teacher scored. The scores of this call are lost."""


class Teacher(Protocol):
    """A frozen model that scores the student's responses. Every rank calls `score` together."""

    @property
    def asks_for_topk_ids(self) -> bool:
        """Whether the teacher scores the tokens that `MicroBatch.topk_ids_NK` names."""

    def score(self, batches: Sequence[MicroBatch]) -> Sequence[TeacherScores]:
        """The teacher's scores of each micro-batch, in order, for the loss.

        Raises ScoringStopped when a stop was requested first.
        """
