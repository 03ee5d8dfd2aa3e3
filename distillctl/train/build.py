"""The parts of a run that come from outside: prompts, vocabulary, teachers, task reward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillctl.config.schema import Config, teacher_section
from distillctl.data.prompts import render, unused_teachers
from distillctl.data.read import read_rows
from distillctl.data_types import MicroBatch, Prompt, Rollout
from distillctl.files.reading import read_json
from distillctl.grading.custom import load_reward, rewards
from distillctl.models.compatibility import shared_vocab, tokenizer_vocab
from distillctl.rollout.client import request_names
from distillctl.run.checks import Check
from distillctl.teacher.interface import Teacher
from distillctl.teacher.local import LocalTeacher
from distillctl.teacher.logins import logins_of
from distillctl.teacher.served import ServedTeacher
from distillctl.train import self_checks
from distillctl.train.distributed import Ranks
from distillctl.train.job import TrainJob

Warn = Callable[[str], None]
_FILES = ("train_files", "val_files")


def located(config: Config, folder: Path) -> Config:
    """`config` with the paths of its data files as seen from `folder`."""
    files = {key: [str(folder / file) for file in getattr(config.data, key)] for key in _FILES}
    return config.model_copy(update={"data": config.data.model_copy(update=files)})


def train_prompts(config: Config, tokenizer: Any, warn: Warn) -> list[Prompt]:
    """Rendered training prompts with their teachers, and reference answers where the loss wants them."""
    routes = {teacher.key or name: name for name, teacher in config.teachers.items()}
    found = _prompts(
        config, tokenizer, config.data.train_files, "data.train_files", warn, routes=routes,
        max_reference_length=config.data.max_response_length if config.loss.sft_coef else None,
    )  # fmt: skip
    for name in unused_teachers(found, list(config.teachers)):
        warn(f"{teacher_section(name)}: no row has its key in column {config.data.teacher_key}")
    return found


def val_prompts(config: Config, tokenizer: Any, warn: Warn) -> list[Prompt]:
    """Rendered prompts for the evaluations of the run; none when it has none.

    Each has an id of its own, over all files.
    """
    if not config.eval.every:
        return []
    files, key = config.data.val_files, "data.val_files"
    found = _prompts(config, tokenizer, files, key, warn, limit=config.eval.limit)
    return [replace(one, prompt_id=name) for one, name in zip(found, request_names(found), strict=True)]


def _prompts(
    config: Config,
    tokenizer: Any,
    files: list[str],
    key: str,
    warn: Warn,
    limit: int | None = None,
    **options: Any,
) -> list[Prompt]:
    """Over-long prompts are left out with a warning."""
    rows = [row for file in files for row in read_rows(Path(file), config.data.teacher_key)][:limit]
    longest = config.data.max_prompt_length
    found, dropped = render(rows, tokenizer, longest, **options)
    if dropped:
        many = f"{dropped} of {len(rows)} prompts"
        warn(f"{key}: {many} exceed data.max_prompt_length={longest} and are left out")
    return found


def shared_vocab_size(job: TrainJob) -> int:
    """Token ids that the student shares with all teachers; raises ConfigError where tokenizers differ."""
    ours, rows = tokenizer_vocab(Path(job.student)), _head_rows(job.student)
    sizes = []
    for name, teacher in job.teachers.items():
        theirs, heads = tokenizer_vocab(Path(teacher.model)), (rows, _head_rows(teacher.model))
        size, _ = shared_vocab(ours, theirs, heads, teacher_section(name))
        sizes.append(size)
    return min(sizes)


def _head_rows(model: str) -> int:
    return int(read_json(Path(model) / "config.json")["vocab_size"])


def load_teacher(
    name: str,
    job: TrainJob,
    config: Config,
    ranks: Ranks,
    probe: MicroBatch,
    vocab_size: int,
    should_stop: Callable[[], bool],
) -> tuple[Teacher, list[Check]]:
    """A teacher of the run, in this process or behind its servers, and what was measured of it on rank 0."""
    if job.teachers[name].endpoints:
        return _served_teacher(name, job, config, ranks, probe, vocab_size, should_stop)
    return _local_teacher(name, job, config, ranks, probe, vocab_size)


def _served_teacher(
    name: str,
    job: TrainJob,
    config: Config,
    ranks: Ranks,
    probe: MicroBatch,
    vocab_size: int,
    should_stop: Callable[[], bool],
) -> tuple[Teacher, list[Check]]:
    own, found = config.all_teachers[name], job.teachers[name]
    teacher = ServedTeacher(
        found.endpoints,
        own.model,
        num_topk=config.loss.num_listed,
        ask_ids=config.loss.kind == "student_topk",
        vocab_size=vocab_size,
        max_length=config.max_length,
        timeout_s=own.timeout_s,
        logins=logins_of(name),
        should_stop=should_stop,
    )
    if not ranks.is_main:
        return teacher, []
    dtype = getattr(torch, found.dtype)
    return teacher, [self_checks.served_agrees(name, teacher, found.model, dtype, probe)]


def _local_teacher(
    name: str, job: TrainJob, config: Config, ranks: Ranks, probe: MicroBatch, vocab_size: int
) -> tuple[Teacher, list[Check]]:
    own, model = config.all_teachers[name], job.teachers[name].model
    dtype = getattr(torch, job.teachers[name].dtype)
    teacher = LocalTeacher(
        model,
        dtype,
        ranks.device,
        shard=own.shard,
        offload=own.offload == "cpu",
        quantization=own.quantization,
    )
    if own.quantization == "none" or not ranks.is_main:
        return teacher, []
    return teacher, [self_checks.quantization_cost(name, teacher, model, dtype, probe, vocab_size)]


def reward_function(
    config: Config, tokenizer: Any, folder: Path
) -> Callable[[list[Rollout]], np.ndarray] | None:
    """The task reward of `reward.path`, or None without one. Its code runs in the directory `folder`."""
    if config.reward.path is None:
        return None
    with chdir(folder):
        function = load_reward(config.reward.path, config.reward.name)

    def score(rollouts: list[Rollout]) -> np.ndarray:
        with chdir(folder):
            return rewards(rollouts, tokenizer, function)

    return score
