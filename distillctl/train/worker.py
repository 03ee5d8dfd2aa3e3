"""The program of a rank: `python -m distillctl.train.worker JOB.json` builds the trainer and runs the steps.

Rank 0 also talks to the rollout engine and writes events, samples and evaluations. A rank that fails with a
`DistillError` writes it for the launcher to `error_RANK.json` beside the job.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from distillctl.errors import DistillError, EnvironmentUnfit, RunFailed
from distillctl.grading.summary import grade_rollouts
from distillctl.host import shared_memory
from distillctl.host.parent_death import die_with_parent
from distillctl.run import status
from distillctl.run.checkpoints import step_dir
from distillctl.run.directory import RunDir
from distillctl.run.events import EventLog
from distillctl.train import checkpoint
from distillctl.train.build import build_trainer
from distillctl.train.distributed import Distributed
from distillctl.train.guards import Guards
from distillctl.train.job import STARTING, TrainJob
from distillctl.train.reporter import Reporter
from distillctl.train.sample_writer import sample_event, write_samples
from distillctl.train.step import StepResult, Trainer
from distillctl.train.stop_request import StopRequest
from distillctl.train.usage import Usage
from distillctl.train.validation import Validation


class TrainingRun:
    """The steps of one attempt on one rank: train, evaluate, save, and report."""

    def __init__(self, job: TrainJob, trainer: Trainer, reporter: Reporter, stop: StopRequest) -> None:
        self.job = job
        self.run = RunDir(Path(job.run_dir))
        self.trainer = trainer
        self.config = trainer.config
        self.distributed = trainer.distributed
        self.reporter = reporter
        self.stop = stop
        self.validation = Validation(trainer)
        self.guards = Guards(self.config.guards)
        self.best: checkpoint.Best | None = None
        self.saved_step = trainer.num_done
        if trainer.saved is not None:
            self.guards.load_state(trainer.saved["guards"])
            self.best = checkpoint.kept_best(self.run.checkpoints, trainer.saved["best"], self.distributed)

    def train(self) -> None:
        """Run all steps, or stop at the first boundary between phases after a stop was requested."""
        self.stop.listen()
        config = self.config
        trainer = self.trainer
        first_step = trainer.num_done + 1
        self.reporter.emit(
            "start", trainer.num_done, run=self.job.run_name, steps=trainer.num_steps,
            student=config.student.model, teacher=config.teacher.model, device=self.job.device,
            world_size=self.distributed.world_size, num_threads=torch.get_num_threads(),
        )  # fmt: skip
        if first_step == 1:
            self._evaluate(0)
        usage = Usage(self.job.gpus, self.reporter.warn_at)
        for step in range(first_step, trainer.num_steps + 1):
            result = trainer.train_step(step, with_details=self._is_sample_step(step))
            if result is None:
                return self._stop(step - 1)
            result.metrics.update(usage.metrics(step, self.distributed, trainer.engine))
            self._report(step, result)
            self._guard(step, result.metrics)
            last = step == trainer.num_steps
            better = self._evaluate(step, last=last)
            due = better is not None or (config.checkpoint.every and step % config.checkpoint.every == 0)
            if last or (due and not self.guards.violated):
                self._save(step, better)
            self._status(step)
            if not last and trainer.should_stop():
                return self._stop(step)
        return None

    def _stop(self, step: int) -> None:
        """End early after `step`, so that a resumed run continues from there."""
        if step > self.saved_step:
            self._save(step)
        self._status(step)
        self.reporter.emit("stop", step, signal=self.stop.signal, state="saved")

    def _report(self, step: int, result: StepResult) -> None:
        if not self.distributed.is_main:
            return
        self.reporter.emit("step", step, metrics=result.metrics)
        if self._is_sample_step(step):
            tokenizer = self.trainer.tokenizer
            path = self.run.samples_dir / f"{step_dir(step)}.parquet"
            responses = grade_rollouts(result.rollouts, tokenizer)
            write_samples(path, responses, result.kl, result.details, tokenizer)
            shown = sample_event(responses[0], result.kl[0], tokenizer)
            self.reporter.emit("sample", step, path=str(path.relative_to(self.run.path)), **shown)

    def _is_sample_step(self, step: int) -> bool:
        return step in (1, self.trainer.num_steps) or step % self.config.samples.every == 0

    def _guard(self, step: int, metrics: dict[str, float]) -> None:
        """Warn about the first violation of each guard. Raise RunFailed when a guard's limit is reached."""
        for violation in self.guards.check(metrics):
            key = f"guards.{violation.guard}={getattr(self.config.guards, violation.guard)}"
            if violation.count == 1:
                consequence = "while this lasts, no checkpoint is written unless you stop the run"
                message = f"{violation.message} ({key}); {consequence}"
                self.reporter.emit("warn", step, message=message, guard=violation.guard)
            if violation.fatal:
                raise RunFailed(
                    f"stopped at step {step}: {violation.message} ({key}, {violation.count} steps in a row)",
                    f"{violation.hint}; the last good checkpoint is from step {self.saved_step}",
                )

    def _evaluate(self, step: int, *, last: bool = False) -> checkpoint.Best | None:
        """Evaluate if it is due. Returns the result if it is better than that of the best checkpoint."""
        every = self.config.eval.every
        if not every or (step % every and not last):
            return None
        fields = self.validation.run(step, self.run.eval_dir)
        acc = math.nan
        if fields is not None:  # only on rank 0
            self.reporter.emit("eval", step, **fields)
            acc = fields["metrics"]["val/acc"]
        acc = float(
            self.distributed.sum(torch.tensor(acc if self.distributed.is_main else 0.0, dtype=torch.float64))
        )
        if not self.config.checkpoint.best or step == 0 or not acc > (self.best.acc if self.best else -1.0):
            return None
        return checkpoint.Best(step, acc)

    def _save(self, step: int, better: checkpoint.Best | None = None) -> None:
        """Write a checkpoint. With `better` it becomes the best one, and the former best may be deleted."""
        best = better or self.best
        state = {"guards": self.guards.state(), "best": None if best is None else [best.step, best.acc]}
        path = checkpoint.save(
            self.run.checkpoints,
            step,
            self.trainer.student,
            self.trainer.tokenizer,
            self.distributed,
            state,
            keep=self.config.checkpoint.keep,
            best=best,
        )
        self.saved_step = step
        self.best = best
        self.reporter.emit("checkpoint", step, path=str(path.relative_to(self.run.path)))

    def _status(self, step: int) -> None:
        if self.distributed.is_main:
            status.advance(
                self.run,
                step=step,
                num_steps=self.trainer.num_steps,
                attempt=self.job.attempt,
                launcher_pid=self.job.parent_pid,
            )


def main() -> None:
    """Entry point of a rank."""
    path = Path(sys.argv[1])
    rank = int(os.environ["RANK"])
    job = TrainJob.load(path)
    die_with_parent(job.parent_pid)
    shared_memory.mark(shared_memory.owner(job.parent_pid))
    try:
        reporter = Reporter(
            EventLog(RunDir(Path(job.run_dir)).events_path, job.attempt) if rank == 0 else None
        )
        distributed = Distributed(rank, job.world_size, job.device, Path(job.scratch) / "rendezvous")
        reporter.emit("phase", 0, name=STARTING, state="end", seconds=time.time() - path.stat().st_mtime)
        stop = StopRequest()
        trainer = build_trainer(job, distributed, reporter, stop)
        if not job.preflight_only:
            TrainingRun(job, trainer, reporter, stop).train()
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
    """Report the error to the launcher and exit."""
    report = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    with suppress(OSError):  # on a full disk the launcher shows the end of the log instead
        path.write_text(json.dumps(report))
    print(f"{error.message} ({error.hint})", file=sys.stderr, flush=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
