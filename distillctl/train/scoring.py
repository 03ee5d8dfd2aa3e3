"""From rollouts to micro-batches for the update: the teachers score, and the ranks agree on stops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch

from distillctl.config.schema import Config
from distillctl.data_types import MicroBatch, Rollout
from distillctl.objective.inputs import Objective
from distillctl.objective.teacher_scores import TeacherScores
from distillctl.teacher.interface import ScoringStopped, Teacher
from distillctl.train.batch import micro_batches, references
from distillctl.train.distributed import Distributed
from distillctl.train.token_details import DetailTable
from distillctl.train.training_batch import ReferenceBatch, ScoredBatch, TrainingBatch


def teacher_scores(
    teacher: Teacher, batches: Sequence[MicroBatch], distributed: Distributed
) -> Sequence[TeacherScores] | None:
    """A teacher's scores of this rank's micro-batches. Collective.

    Returns None on every rank when a stop was requested while any rank's teacher scored.
    """
    scores: Sequence[TeacherScores] = []
    with suppress(ScoringStopped):
        scores = teacher.score(batches)
    num_stopped = distributed.sum(torch.tensor([len(scores) < len(batches)], dtype=torch.int64))
    return None if int(num_stopped) else scores


def scores_by_teacher(
    rollouts: Sequence[Rollout],
    teachers: Mapping[str, Teacher],
    config: Config,
    distributed: Distributed,
) -> Iterator[tuple[str, list[tuple[MicroBatch, TeacherScores]] | None]]:
    """Each teacher's name, and this rank's micro-batches of its rollouts with their scores. Collective.

    Gives None in place of the micro-batches when a stop was requested while the teacher scored.
    """
    for name, teacher in teachers.items():
        members = [i for i, rollout in enumerate(rollouts) if rollout.prompt.teacher == name]
        batches = micro_batches(rollouts, members, config, distributed)
        scores = teacher_scores(teacher, batches, distributed)
        yield name, None if scores is None else list(zip(batches, scores, strict=True))


def scored_batches(
    rollouts: Sequence[Rollout],
    teachers: Mapping[str, Teacher],
    details: DetailTable,
    config: Config,
    objective: Objective,
    distributed: Distributed,
) -> list[TrainingBatch] | None:
    """This rank's micro-batches of a step, teacher by teacher, each scored by its teacher. Collective.

    Returns None on every rank after a stop. `details` says for which tokens to find alternatives.
    """
    found: list[TrainingBatch] = []
    for name, scored in scores_by_teacher(rollouts, teachers, config, distributed):
        if scored is None:
            return None
        found += [
            ScoredBatch(
                micro_batch=batch,
                scores=one,
                objective=objective,
                kl_names=(f"kl/reverse/{name}",) if len(teachers) > 1 else (),
                detailed_rows=details.wanted(batch),
                num_alternatives=details.num_alternatives,
            )
            for batch, one in scored
        ]
    return found


def reference_batches(
    rollouts: Sequence[Rollout], config: Config, objective: Objective, distributed: Distributed
) -> list[TrainingBatch]:
    """This rank's micro-batches of reference answers, for the cross-entropy term; none without that term."""
    if not config.loss.sft_coef:
        return []
    answers = references(rollouts, config.loss.sft_coef)
    plain = replace(objective, temperature=1.0)
    batches = micro_batches(answers, range(len(answers)), config, distributed)
    return [ReferenceBatch(batch, plain) for batch in batches]
