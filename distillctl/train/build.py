"""Build the parts of a run: data, teachers, student, rollout engine, task reward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from distillctl.config.gpu_only import on_cpu
from distillctl.config.loading import load_config
from distillctl.config.schema import Config, teacher_section
from distillctl.data.prompts import PromptStream, render, unused_teachers
from distillctl.data.read import read_rows
from distillctl.data_types import MicroBatch, Prompt, Rollout
from distillctl.grading.custom import load_reward, rewards
from distillctl.models.compatibility import shared_vocab, stop_token_ids
from distillctl.models.model_dir import ModelDir
from distillctl.objective.inputs import Objective
from distillctl.rollout.client import Sampling, request_names
from distillctl.run.checks import Check
from distillctl.run.directory import RunDir
from distillctl.teacher.interface import Teacher
from distillctl.train import checkpoint, self_checks
from distillctl.train.distributed import Distributed
from distillctl.train.job import TrainJob
from distillctl.train.objectives import make_objective
from distillctl.train.rehearsal import rehearse_save
from distillctl.train.reporter import Reporter
from distillctl.train.rollout_engine import RolloutEngine
from distillctl.train.step import Trainer
from distillctl.train.stop_request import StopRequest
from distillctl.train.student import Student
from distillctl.train.teachers import load_teachers

CANARY_TOKENS = 64
"""Tokens of the canary prompt, which checks each push of weights: enough to expose any wrong layer."""
Warn = Callable[[str], None]
_FILES = ("train_files", "val_files")


class _Data(NamedTuple):
    """The tokenizer and the prompts of a run."""

    tokenizer: Any
    train: list[Prompt]
    val: list[Prompt]


def run_config(job: TrainJob) -> Config:
    """The configuration of a run on its device, with absolute paths."""
    config = located(load_config(RunDir(Path(job.run_dir)).config_path), Path(job.working_directory))
    return on_cpu(config) if job.device == "cpu" else config


def build_trainer(job: TrainJob, distributed: Distributed, reporter: Reporter, stop: StopRequest) -> Trainer:
    """Load data and models, resume, connect to the rollout engine, and check all parts. Collective.

    Reports phases, warnings and checks. Raises a DistillError when parts do not fit together.
    """
    config = run_config(job)
    with reporter.phase("loading data"):
        data = _load_data(job, config, reporter)
    num_steps = config.num_steps(len(data.train))
    probe = self_checks.probe(data.train, distributed.device)
    objective = make_objective(config, shared_vocab_size(job), Path(job.working_directory))
    with reporter.phase("loading teacher"):
        teachers, checks = load_teachers(job, config, distributed, probe, objective.vocab_size, stop)
    with reporter.phase("loading student"):
        student = _load_student(job, config, num_steps)
        checks += _check_models(job, student, teachers, probe, objective)
    num_done, saved = _load_checkpoint(job, student, distributed, reporter)
    checks += rehearse_save(RunDir(Path(job.run_dir)).checkpoints, student, data.tokenizer, distributed)
    canary_ids = data.train[0].token_ids[:CANARY_TOKENS]
    engine = _connect_engine(job, config, distributed, student, canary_ids, reporter)
    checks.append(_prove_weights(engine, num_done))
    reporter.report_checks(checks)
    return Trainer(
        config=config,
        distributed=distributed,
        tokenizer=data.tokenizer,
        stream=PromptStream(data.train, config.data.train_batch_size, config.data.seed),
        val_prompts=data.val,
        engine=engine,
        sampling=_sampling(job, config, data.tokenizer),
        teachers=teachers,
        student=student,
        objective=objective,
        reward=reward_function(config, data.tokenizer, Path(job.working_directory)),
        should_stop=lambda: bool(distributed.share_flag(stop.signal)),
        num_steps=num_steps,
        num_done=num_done,
        saved=saved,
    )


def _load_data(job: TrainJob, config: Config, reporter: Reporter) -> _Data:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.student, trust_remote_code=False)
    train = train_prompts(config, tokenizer, reporter.warn)
    return _Data(tokenizer, train, val_prompts(config, tokenizer, reporter.warn))


def _load_student(job: TrainJob, config: Config, num_steps: int) -> Student:
    dtype = getattr(torch, job.student_dtype)
    return Student(job.student, dtype, config, num_steps, universal=job.universal)


def _check_models(
    job: TrainJob, student: Student, teachers: dict[str, Teacher], probe: MicroBatch, objective: Objective
) -> list[Check]:
    """Check the loaded models on the prompts of `probe`."""
    vocab_size = objective.vocab_size
    checks = [self_checks.self_test(student, job.student, student.dtype, probe, vocab_size)]
    for name, teacher in teachers.items():
        dtype = getattr(torch, job.teachers[name].dtype)
        checks += self_checks.teacher_checks(name, teacher, student, dtype, probe, vocab_size)
    return checks


def _load_checkpoint(
    job: TrainJob, student: Student, distributed: Distributed, reporter: Reporter
) -> tuple[int, dict[str, Any] | None]:
    """Resume from the job's checkpoint. Returns the optimizer steps that are done, and the saved state."""
    if job.checkpoint is None:
        return 0, None
    with reporter.phase("loading checkpoint"):
        return checkpoint.load(Path(job.checkpoint), student, distributed)


def _connect_engine(
    job: TrainJob,
    config: Config,
    distributed: Distributed,
    student: Student,
    canary_ids: list[int],
    reporter: Reporter,
) -> RolloutEngine:
    with reporter.phase("waiting for the rollout engine"):
        return RolloutEngine(job, config, distributed, student, canary_ids, reporter.warn_at)


def _prove_weights(engine: RolloutEngine, num_done: int) -> Check:
    """Compare the rollout engine with the trainer. After a resume, first push the loaded weights."""
    gap = engine.push(num_done) if num_done else engine.prove()
    return Check("engine", "ok", f"engine and trainer agree to {gap:.1e} nats on a prompt")


def _sampling(job: TrainJob, config: Config, tokenizer: Any) -> Sampling:
    generation = ModelDir(Path(job.student)).generation_config
    return Sampling(
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        max_tokens=config.data.max_response_length,
        stop_token_ids=stop_token_ids(generation, tokenizer.eos_token_id),
    )


def located(config: Config, folder: Path) -> Config:
    """`config` with the paths of its data files resolved against `folder`."""
    files = {key: [str(folder / file) for file in getattr(config.data, key)] for key in _FILES}
    return config.model_copy(update={"data": config.data.model_copy(update=files)})


def train_prompts(config: Config, tokenizer: Any, warn: Warn) -> list[Prompt]:
    """Rendered training prompts with their teachers, and with reference answers when the loss needs them."""
    routes = {teacher.key or name: name for name, teacher in config.teachers.items()}
    found = _prompts(
        config, tokenizer, config.data.train_files, "data.train_files", warn, routes=routes,
        max_reference_length=config.data.max_response_length if config.loss.sft_coef else None,
    )  # fmt: skip
    for name in unused_teachers(found, list(config.teachers)):
        warn(f"{teacher_section(name)}: no row has its key in column {config.data.teacher_key}")
    return found


def val_prompts(config: Config, tokenizer: Any, warn: Warn) -> list[Prompt]:
    """Rendered prompts for the evaluations of the run; none for a run without evaluations.

    Each prompt has a unique id over all files.
    """
    if not config.eval.every:
        return []
    files = config.data.val_files
    found = _prompts(config, tokenizer, files, "data.val_files", warn, limit=config.eval.limit)
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
    """Read and render the prompts of `files`. Warns about over-long prompts and leaves them out."""
    rows = [row for file in files for row in read_rows(Path(file), config.data.teacher_key)][:limit]
    longest = config.data.max_prompt_length
    found, dropped = render(rows, tokenizer, longest, **options)
    if dropped:
        many = f"{dropped} of {len(rows)} prompts"
        warn(f"{key}: {many} exceed data.max_prompt_length={longest} and are left out")
    return found


def shared_vocab_size(job: TrainJob) -> int:
    """Number of token ids that all models share. Raises ConfigError when their tokenizers differ."""
    student = ModelDir(Path(job.student))
    sizes = []
    for name, teacher in job.teachers.items():
        other = ModelDir(Path(teacher.model))
        rows = int(student.config["vocab_size"]), int(other.config["vocab_size"])
        size, _ = shared_vocab(student.vocabulary, other.vocabulary, rows, teacher_section(name))
        sizes.append(size)
    return min(sizes)


def reward_function(
    config: Config, tokenizer: Any, folder: Path
) -> Callable[[list[Rollout]], np.ndarray] | None:
    """The task reward of `reward.path`, or None when it is not set. Its code runs in `folder`."""
    if config.reward.path is None:
        return None
    with chdir(folder):
        function = load_reward(config.reward.path, config.reward.name)

    def score(rollouts: list[Rollout]) -> np.ndarray:
        with chdir(folder):
            return rewards(rollouts, tokenizer, function)

    return score
