"""A rank's main: `python -m distillctl.train.worker JOB.json`. Puts the parts together and runs the steps.

Rank 0 also talks to the rollout engine and writes events, samples, evaluations. A `DistillError` is left for
the launcher in `error_RANK.json` beside the job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from distillctl.config import Config
from distillctl.data.prompts import PromptStream, render
from distillctl.data.read import read_rows
from distillctl.errors import DistillError
from distillctl.evaluate.evaluation import evaluate, grade_rollouts
from distillctl.events import EventLog
from distillctl.lifeline import die_with_parent
from distillctl.objective.reverse_kl import Objective
from distillctl.presets import load_config
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.rollout.process import READY_TIMEOUT_S
from distillctl.run import RunDir, write_status
from distillctl.samples import Prompt, sample_schema
from distillctl.teacher.compat import model_stop_token_ids, shared_vocab_size
from distillctl.teacher.local import LocalTeacher
from distillctl.train import checkpoint
from distillctl.train.job import STARTING, TrainJob
from distillctl.train.loop import StepResult, Trainer
from distillctl.train.ranks import Ranks
from distillctl.train.student import Student
from distillctl.train.weights import WeightPusher

CANARY_TOKENS = 64
"""Length of the prompt that proves each weight push: enough tokens to expose any layer, cheap to score."""


class Rank:
    """One rank of one attempt."""

    def __init__(self, job: TrainJob, rank: int) -> None:
        self.job = job
        self.run = RunDir(Path(job.run_dir))
        self.config: Config = load_config(self.run.config_path)
        self.events = EventLog(self.run.events_path, job.attempt) if rank == 0 else None
        self.stop_signal = 0
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._request_stop)
        self.ranks = Ranks(rank, job.world_size, job.device, Path(job.scratch) / "rendezvous")

    def _request_stop(self, signum: int, frame: object) -> None:
        self.stop_signal = signum

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

    def prompts(self, tokenizer: Any, files: list[str], key: str, limit: int | None = None) -> list[Prompt]:
        """Rendered prompts of `files`; over-long ones are left out with a warning."""
        rows = [row for file in files for row in read_rows(Path(file))][:limit]
        prompts, dropped = render(rows, tokenizer, self.config.data.max_prompt_length)
        if dropped:
            limit_tokens = self.config.data.max_prompt_length
            message = f"{key}: {dropped} of {len(rows)} prompts exceed data.max_prompt_length={limit_tokens}"
            self.emit("warn", 0, message=f"{message} and are left out")
        return prompts

    def build(self) -> None:
        """Load data and models, connect to the engine, resume, prove the first weights."""
        from transformers import AutoTokenizer

        config, job = self.config, self.job
        with self.phase("loading data"):
            self.tokenizer = AutoTokenizer.from_pretrained(job.student)
            train = self.prompts(self.tokenizer, config.data.train_files, "data.train_files")
            stream = PromptStream(train, config.data.train_batch_size, config.data.seed)
            self.val = []
            if config.eval.every:
                files = config.data.val_files
                self.val = self.prompts(self.tokenizer, files, "data.val_files", config.eval.limit)
        epochs = config.train.epochs
        self.num_steps = config.train.steps or stream.num_steps(epochs or 1)
        with self.phase("loading teacher"):
            teacher_tokenizer = AutoTokenizer.from_pretrained(job.teacher)
            dtype = getattr(torch, job.teacher_dtype)
            teacher = LocalTeacher(job.teacher, dtype, self.ranks.device, shard=config.teacher.shard)
        with self.phase("loading student"):
            student, vocab_size = self._student(teacher, teacher_tokenizer)
        first = 0
        if job.checkpoint is not None:
            with self.phase("loading checkpoint"):
                first = checkpoint.load(Path(job.checkpoint), student)
        with self.phase("waiting for the rollout engine"):
            client = None
            if self.ranks.is_main:
                client = RolloutClient(Path(job.socket), READY_TIMEOUT_S)
            self.ranks.barrier()
        canary = train[0].token_ids[:CANARY_TOKENS]
        pusher = WeightPusher(student, client, Path(job.scratch), canary)
        if first:
            pusher.push(first)
        else:
            pusher.prove(0)
        stops = model_stop_token_ids(Path(job.student), self.tokenizer)
        sampling = Sampling(
            config.rollout.temperature, config.rollout.top_p, config.data.max_response_length, stops
        )
        self.greedy = Sampling(0.0, 1.0, config.data.max_response_length, stops)
        self.first_step = first + 1
        self.trainer = Trainer(
            config, self.ranks, stream, client, sampling, teacher, student, pusher, vocab_size
        )

    def _student(self, teacher: LocalTeacher, teacher_tokenizer: Any) -> tuple[Student, int]:
        from transformers import AutoConfig

        config = self.config
        own = AutoConfig.from_pretrained(self.job.student)
        padded = (own.vocab_size, teacher.config.vocab_size)
        vocab_size = shared_vocab_size(self.tokenizer, teacher_tokenizer, padded)
        loss = config.loss
        objective = Objective(
            loss.kl_loss_coef, loss.entropy_coeff, loss.temperature, loss.chunk_size, vocab_size
        )
        dtype = getattr(torch, self.job.student_dtype)
        return Student(self.job.student, dtype, config, objective, self.num_steps), vocab_size

    def train(self) -> None:
        """All steps to the end, or to the first step boundary after a stop was asked for."""
        config = self.config
        self.emit(
            "start", self.first_step - 1, run=str(self.run.path), steps=self.num_steps,
            student=config.student.model, teacher=config.teacher.model, device=self.job.device,
            world_size=self.ranks.world_size, num_threads=torch.get_num_threads(),
        )  # fmt: skip
        if self.first_step == 1:
            self._evaluate(0)
        for step in range(self.first_step, self.num_steps + 1):
            result = self.trainer.train_step(step)
            self._report(step, result)
            last = step == self.num_steps
            self._evaluate(step, last=last)
            stop = self.ranks.share_flag(self.stop_signal)
            due = config.checkpoint.every and step % config.checkpoint.every == 0
            if last or stop or due:
                self._save(step)
            self._status(step)
            if stop and not last:
                self.emit("stop", step, signal=stop)
                return

    def _report(self, step: int, result: StepResult) -> None:
        if not self.ranks.is_main:
            return
        if result.skipped:
            self.emit("warn", step, message="the gradient was not finite: optimizer step skipped")
        self.emit("step", step, metrics=result.metrics)
        if step in (1, self.num_steps) or step % self.config.samples.every == 0:
            path = self.run.samples_dir / f"{checkpoint.step_dir(step)}.parquet"
            _write_samples(path, result, self.tokenizer)
            self.emit("sample", step, path=str(path.relative_to(self.run.path)))

    def _evaluate(self, step: int, *, last: bool = False) -> None:
        every, client = self.config.eval.every, self.trainer.client
        if not every or (step % every and not last) or client is None:
            return
        result = evaluate(client, self.val, self.tokenizer, self.greedy)
        self.run.eval_dir.mkdir(exist_ok=True)
        path = self.run.eval_dir / f"{checkpoint.step_dir(step)}.json"
        path.write_text(json.dumps({"step": step, **asdict(result)}, indent=1))
        self.emit("eval", step, metrics={"val/acc": result.acc}, num=result.num_graded)

    def _save(self, step: int) -> None:
        folder, student = self.run.checkpoints, self.trainer.student
        keep = self.config.checkpoint.keep
        path = checkpoint.save(folder, step, student, self.tokenizer, self.ranks, keep=keep)
        self.emit("checkpoint", step, path=str(path.relative_to(self.run.path)))

    def _status(self, step: int) -> None:
        if self.ranks.is_main:
            fields = {"step": step, "steps": self.num_steps, "attempt": self.job.attempt}
            pid = self.job.parent_pid
            write_status(self.run.status_path, {"state": "running", **fields, "pid": pid})


def _write_samples(path: Path, result: StepResult, tokenizer: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    answers = grade_rollouts(result.rollouts, tokenizer)
    for answer, kl in zip(answers, result.kl, strict=True):
        rollout = answer.rollout
        rows.append(
            {
                "prompt_id": rollout.prompt.prompt_id,
                "sample": rollout.sample,
                "prompt_ids": rollout.prompt.token_ids,
                "response_ids": rollout.response_ids,
                "response_logprobs": rollout.response_logprobs,
                "kl": kl,
                "finish_reason": rollout.finish_reason,
                "text": answer.text,
                "ground_truth": rollout.prompt.ground_truth,
                "correct": None if answer.grade is None else answer.grade.normalised,
            }
        )
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=sample_schema()), partial)
    partial.rename(path)


def main() -> None:
    """Entry point of a rank."""
    path, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    job = TrainJob.load(path)
    die_with_parent(job.parent_pid)
    try:
        process = Rank(job, rank)
        process.emit("phase", 0, name=STARTING, state="end", seconds=time.time() - path.stat().st_mtime)
        process.build()
        process.train()
    except DistillError as error:
        report = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        path.with_name(f"error_{rank}.json").write_text(json.dumps(report))
        sys.exit(error.exit_code)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
