"""A rank's main: `python -m distillctl.train.worker JOB.json`. Puts the parts together and runs the steps.

Rank 0 also talks to the rollout engine and writes events, samples, evaluations. A `DistillError` is left for
the launcher in `error_RANK.json` beside the job.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch

from distillctl.config.gpu_only import on_cpu
from distillctl.config.loading import load_config
from distillctl.config.schema import Config
from distillctl.data.prompts import PromptStream
from distillctl.errors import DistillError, EnvironmentUnfit, RunFailed
from distillctl.grading.summary import grade_rollouts
from distillctl.host import shared_memory
from distillctl.host.parent_death import die_with_parent
from distillctl.models.compatibility import model_stop_token_ids
from distillctl.rollout.client import Sampling
from distillctl.run.checkpoints import step_dir
from distillctl.run.checks import Check
from distillctl.run.directory import RunDir, write_status
from distillctl.run.events import EventLog
from distillctl.teacher.interface import Teacher
from distillctl.train import build, checkpoint, self_checks
from distillctl.train.distributed import Ranks
from distillctl.train.guards import Guards
from distillctl.train.job import STARTING, TrainJob
from distillctl.train.objectives import make_objective
from distillctl.train.rehearsal import rehearse_save
from distillctl.train.rollout_engine import RolloutEngine
from distillctl.train.sample_writer import sample_event, write_samples
from distillctl.train.step import StepResult, Trainer
from distillctl.train.student import Student
from distillctl.train.usage import Usage
from distillctl.train.validation import Validation

CANARY_TOKENS = 64
"""Length of the prompt that proves each weight push: enough tokens to expose any layer, cheap to score."""


class Rank:
    """One rank of one attempt."""

    def __init__(self, job: TrainJob, rank: int) -> None:
        self.job = job
        self.run = RunDir(Path(job.run_dir))
        config = build.located(load_config(self.run.config_path), Path(job.working_directory))
        self.config: Config = on_cpu(config) if job.device == "cpu" else config
        self.events = EventLog(self.run.events_path, job.attempt) if rank == 0 else None
        self.stop_signal = 0
        self.ranks = Ranks(rank, job.world_size, job.device, Path(job.scratch) / "rendezvous")

    def _request_stop(self, signum: int, frame: object) -> None:
        self.stop_signal = signum

    def should_stop(self) -> bool:
        """Whether rank 0 was asked to stop. Collective."""
        return bool(self.ranks.share_flag(self.stop_signal))

    def emit(self, kind: str, step: int, **fields: Any) -> None:
        """Append to events.jsonl (rank 0 only)."""
        if self.events is not None:
            self.events.emit(kind, step=step, **fields)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Begin and end events around a start-up phase."""
        start = time.perf_counter()
        self.emit("phase", 0, name=name, state="begin")
        yield
        self.emit("phase", 0, name=name, state="end", seconds=time.perf_counter() - start)

    def warn(self, message: str) -> None:
        """A warning before the first step."""
        self.warn_at(0, message)

    def warn_at(self, step: int, message: str) -> None:
        """A warning after `step`."""
        self.emit("warn", step, message=message)

    def build(self) -> None:
        """Load data and models, connect to the engine, measure, resume, prove the first weights."""
        from transformers import AutoTokenizer

        config, job = self.config, self.job
        with self.phase("loading data"):
            self.tokenizer = AutoTokenizer.from_pretrained(job.student, trust_remote_code=False)
            train = build.train_prompts(config, self.tokenizer, self.warn)
            stream = PromptStream(train, config.data.train_batch_size, config.data.seed)
            val = build.val_prompts(config, self.tokenizer, self.warn)
        self.num_steps = config.num_steps(len(train))
        self.probe = self_checks.probe(train, self.ranks.device)
        self.checks: list[Check] = []
        objective = make_objective(config, build.shared_vocab_size(job))
        with self.phase("loading teacher"):
            teachers: dict[str, Teacher] = {}
            for name in job.teachers:
                teachers[name], found = build.load_teacher(
                    name,
                    job,
                    config,
                    self.ranks,
                    self.probe,
                    objective.vocab_size,
                    lambda: bool(self.stop_signal),
                )
                self.checks += found
        with self.phase("loading student"):
            dtype = getattr(torch, job.student_dtype)
            student = Student(job.student, dtype, config, self.num_steps, universal=job.universal)
            self.checks.append(
                self_checks.self_test(student, job.student, dtype, self.probe, objective.vocab_size)
            )
            for name, teacher in teachers.items():
                precision = getattr(torch, job.teachers[name].dtype)
                self.checks += self_checks.teacher_checks(
                    name, teacher, student, precision, self.probe, objective.vocab_size
                )
        first, self.guards, self.best = 0, Guards(config.guards), None
        if job.checkpoint is not None:
            with self.phase("loading checkpoint"):
                first, state = checkpoint.load(Path(job.checkpoint), student, self.ranks)
                self.guards.load_state(state["guards"])
                self.best = checkpoint.kept_best(self.run.checkpoints, state["best"], self.ranks)
        self.checks += rehearse_save(self.run.checkpoints, student, self.tokenizer, self.ranks)
        with self.phase("waiting for the rollout engine"):
            canary = train[0].token_ids[:CANARY_TOKENS]
            engine = RolloutEngine(job, config, self.ranks, student, canary, self.warn_at)
        gap = engine.push(first) if first else engine.prove()
        self.checks.append(Check("engine", "ok", f"engine and trainer agree to {gap:.1e} nats on a prompt"))
        for check in self.checks:
            self.emit("check", 0, **asdict(check))
        self.first_step, self.saved_step = first + 1, first
        stops = model_stop_token_ids(Path(job.student), self.tokenizer)
        sampling = Sampling(
            config.rollout.temperature, config.rollout.top_p, config.data.max_response_length, stops
        )
        greedy = Sampling(0.0, 1.0, config.data.max_response_length, stops)
        reward = build.reward_function(config, self.tokenizer, Path(job.working_directory))
        self.trainer = Trainer(
            config=config,
            ranks=self.ranks,
            stream=stream,
            engine=engine,
            sampling=sampling,
            teachers=teachers,
            student=student,
            objective=objective,
            reward=reward,
            should_stop=self.should_stop,
            num_steps=self.num_steps,
        )
        self.validation = Validation(self.trainer, val, self.tokenizer, greedy)

    def train(self) -> None:
        """All steps to the end, or to the first boundary between phases after a stop was asked for."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # before this there is nothing to save
            signal.signal(signum, self._request_stop)
        config = self.config
        self.emit(
            "start", self.first_step - 1, run=self.job.run_name, steps=self.num_steps,
            student=config.student.model, teacher=config.teacher.model, device=self.job.device,
            world_size=self.ranks.world_size, num_threads=torch.get_num_threads(),
        )  # fmt: skip
        if self.first_step == 1:
            self._evaluate(0)
        usage = Usage(self.job.gpus, self.warn_at)
        for step in range(self.first_step, self.num_steps + 1):
            result = self.trainer.train_step(step, with_details=self._is_sample_step(step))
            if result is None:
                return self._stop(step - 1)
            result.metrics.update(usage.metrics(step, self.ranks, self.trainer.engine))
            self._report(step, result)
            self._guard(step, result.metrics)
            last = step == self.num_steps
            better = self._evaluate(step, last=last)
            due = better is not None or (config.checkpoint.every and step % config.checkpoint.every == 0)
            if last or (due and not self.guards.violated):
                self._save(step, better)
            self._status(step)
            if not last and self.should_stop():
                return self._stop(step)
        return None

    def _stop(self, step: int) -> None:
        """End early, after `step`, so that a resumed run goes on from there."""
        if step > self.saved_step:
            self._save(step)
        self._status(step)
        self.emit("stop", step, signal=self.stop_signal, state="saved")

    def _report(self, step: int, result: StepResult) -> None:
        if not self.ranks.is_main:
            return
        self.emit("step", step, metrics=result.metrics)
        if self._is_sample_step(step):
            path = self.run.samples_dir / f"{step_dir(step)}.parquet"
            answers = grade_rollouts(result.rollouts, self.tokenizer)
            write_samples(path, answers, result.kl, result.details, self.tokenizer)
            shown = sample_event(answers[0], result.kl[0], self.tokenizer)
            self.emit("sample", step, path=str(path.relative_to(self.run.path)), **shown)

    def _is_sample_step(self, step: int) -> bool:
        return step in (1, self.num_steps) or step % self.config.samples.every == 0

    def _guard(self, step: int, metrics: dict[str, float]) -> None:
        """Warn of the first violation of each guard; raise RunFailed at the last that it is allowed."""
        for violation in self.guards.check(metrics):
            key = f"guards.{violation.guard}={getattr(self.config.guards, violation.guard)}"
            if violation.count == 1:
                message = f"{violation.message} ({key}); no checkpoint is written while it is so"
                self.emit("warn", step, message=message, guard=violation.guard)
            if violation.fatal:
                raise RunFailed(
                    f"stopped at step {step}: {violation.message} ({key}, {violation.count} steps in a row)",
                    f"{violation.hint}; the last good checkpoint is of step {self.saved_step}",
                )

    def _evaluate(self, step: int, *, last: bool = False) -> checkpoint.Best | None:
        """Evaluate where it is due; the result where it is better than that of the best checkpoint."""
        every = self.config.eval.every
        if not every or (step % every and not last):
            return None
        fields = self.validation.run(step, self.run.eval_dir)
        acc = math.nan
        if fields is not None:  # on rank 0
            self.emit("eval", step, **fields)
            acc = fields["metrics"]["val/acc"]
        acc = float(self.ranks.sum(torch.tensor(acc if self.ranks.is_main else 0.0, dtype=torch.float64)))
        if not self.config.checkpoint.best or step == 0 or not acc > (self.best.acc if self.best else -1.0):
            return None
        return checkpoint.Best(step, acc)

    def _save(self, step: int, better: checkpoint.Best | None = None) -> None:
        """Write a checkpoint; with `better` it becomes the best one, and the best before it may go."""
        folder, student, best = self.run.checkpoints, self.trainer.student, better or self.best
        state = {"guards": self.guards.state(), "best": None if best is None else [best.step, best.acc]}
        keep = self.config.checkpoint.keep
        path = checkpoint.save(folder, step, student, self.tokenizer, self.ranks, state, keep=keep, best=best)
        self.saved_step, self.best = step, best
        self.emit("checkpoint", step, path=str(path.relative_to(self.run.path)))

    def _status(self, step: int) -> None:
        if self.ranks.is_main:
            fields = {"step": step, "steps": self.num_steps, "attempt": self.job.attempt}
            pid = self.job.parent_pid
            write_status(self.run.status_path, {"state": "running", **fields, "pid": pid})


def main() -> None:
    """Entry point of a rank."""
    path, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    job = TrainJob.load(path)
    die_with_parent(job.parent_pid)
    shared_memory.mark(shared_memory.owner(job.parent_pid))
    try:
        process = Rank(job, rank)
        process.emit("phase", 0, name=STARTING, state="end", seconds=time.time() - path.stat().st_mtime)
        process.build()
        if not job.preflight_only:
            process.train()
    except DistillError as error:
        _leave(error, path.with_name(f"error_{rank}.json"))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
            raise
        where = error.filename or job.run_dir
        hint = "make room or make it writable, then start the same command again"
        _leave(EnvironmentUnfit(f"{where}: {error.strerror}", hint), path.with_name(f"error_{rank}.json"))
    torch.distributed.destroy_process_group()


def _leave(error: DistillError, path: Path) -> NoReturn:
    """Tell the launcher and exit."""
    report = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    with suppress(OSError):  # on a full disk the launcher shows the end of the log instead
        path.write_text(json.dumps(report))
    print(f"{error.message} ({error.hint})", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
