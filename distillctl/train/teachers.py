"""The teachers of a run, in this process or behind servers, and the checks of each before the first step."""

from __future__ import annotations

import torch

from distillctl.config.schema import Config
from distillctl.data_types import MicroBatch
from distillctl.run.checks import Check
from distillctl.teacher.interface import Teacher
from distillctl.teacher.local import LocalTeacher
from distillctl.teacher.logins import logins_of
from distillctl.teacher.served import ServedTeacher
from distillctl.train import self_checks
from distillctl.train.distributed import Distributed
from distillctl.train.job import TeacherJob, TrainJob
from distillctl.train.stop_request import StopRequest


def load_teachers(
    job: TrainJob,
    config: Config,
    distributed: Distributed,
    probe: MicroBatch,
    vocab_size: int,
    stop: StopRequest,
) -> tuple[dict[str, Teacher], list[Check]]:
    """The teachers of the run by name, and rank 0's checks of them on the prompts of `probe`.

    `vocab_size` is the number of token ids that student and teachers share. `stop` ends the scoring of a
    served teacher.
    """
    teachers: dict[str, Teacher] = {}
    checks: list[Check] = []
    for name, teacher_job in job.teachers.items():
        if teacher_job.endpoints:
            served = _served_teacher(name, teacher_job, config, vocab_size, stop)
            teachers[name] = served
            if distributed.is_main:
                dtype = getattr(torch, teacher_job.dtype)
                checks.append(self_checks.served_agrees(name, served, teacher_job.model, dtype, probe))
        else:
            teachers[name], found = _local_teacher(name, teacher_job, config, distributed, probe, vocab_size)
            checks += found
    return teachers, checks


def _served_teacher(
    name: str, job: TeacherJob, config: Config, vocab_size: int, stop: StopRequest
) -> ServedTeacher:
    own = config.all_teachers[name]
    return ServedTeacher(
        job.endpoints,
        own.model,
        num_topk=config.loss.num_listed,
        ask_ids=config.loss.needs == "chosen tokens",
        vocab_size=vocab_size,
        max_length=config.max_length,
        timeout_s=own.timeout_s,
        logins=logins_of(name),
        should_stop=stop.is_made,
    )


def _local_teacher(
    name: str,
    job: TeacherJob,
    config: Config,
    distributed: Distributed,
    probe: MicroBatch,
    vocab_size: int,
) -> tuple[LocalTeacher, list[Check]]:
    own = config.all_teachers[name]
    dtype = getattr(torch, job.dtype)
    teacher = LocalTeacher(
        job.model,
        dtype,
        distributed.device,
        shard=own.shard,
        offload=own.offload == "cpu",
        quantization=own.quantization,
    )
    if own.quantization == "none" or not distributed.is_main:
        return teacher, []
    return teacher, [self_checks.quantization_cost(name, teacher, job.model, dtype, probe, vocab_size)]
