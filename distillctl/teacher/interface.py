"""What the training step knows of a teacher, wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from distillctl.data_types import MicroBatch
from distillctl.objective.teacher_scores import TeacherScores


class ScoringStopped(Exception):
    """A stop was asked for while a teacher scored; what it has not scored yet is given up."""


class Teacher(Protocol):
    """A frozen model that scores the student's responses. Every rank calls `score` together."""

    @property
    def asks_for_topk_ids(self) -> bool:
        """Whether it scores the tokens that `MicroBatch.topk_ids_NK` names."""

    def score(self, batches: Sequence[MicroBatch]) -> Sequence[TeacherScores]:
        """What the loss takes of the teacher for each micro-batch, in order.

        Raises ScoringStopped when a stop came first.
        """
