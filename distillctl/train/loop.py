"""The training step: rollout, teacher, objective, update, sync. One optimizer step per batch of rollouts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from distillctl.config import Config
from distillctl.data.prompts import PromptStream
from distillctl.objective.estimators import token_sums
from distillctl.objective.reverse_kl import TokenStats
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.samples import MicroBatch, Rollout
from distillctl.teacher.local import LocalTeacher
from distillctl.train.batch import collate, plan, within_vocabulary
from distillctl.train.ranks import Ranks
from distillctl.train.student import Student
from distillctl.train.weights import WeightPusher


class Timer:
    """Seconds of the phases of one step."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[phase] = time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """`timing_s/<phase>` and `timing_s/step`, everything since construction."""
        phases = {f"timing_s/{phase}": seconds for phase, seconds in self.seconds.items()}
        return {**phases, "timing_s/step": time.perf_counter() - self._start}


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step leaves behind."""

    metrics: dict[str, float]
    rollouts: list[Rollout]
    kl: list[np.ndarray]
    """float32 [T] per rollout: reverse KL of each response token, nats; the same on every rank."""
    skipped: bool
    """The gradient was not finite and the optimizer step was left out."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """The parts of a run, put together by `worker.py`. `client` is None on all ranks but 0."""

    config: Config
    ranks: Ranks
    stream: PromptStream
    client: RolloutClient | None
    sampling: Sampling
    teacher: LocalTeacher
    student: Student
    pusher: WeightPusher
    vocab_size: int

    def train_step(self, step: int) -> StepResult:
        """Step `step` (from 1): sample with the weights of step - 1, learn, push the weights of `step`."""
        timer = Timer()
        with timer("rollout"):
            rollouts = self._rollout(step)
        num_tokens = sum(len(rollout.response_ids) for rollout in rollouts)
        tally = Tally(rollouts)
        with timer("teacher"):
            batches = self._micro_batches(rollouts)
            scored = [self.teacher.score(batch) for batch in batches]
        with timer("update"):
            scale = self.ranks.world_size / num_tokens
            for micro_batch in scored:
                last = micro_batch is scored[-1]
                with self.teacher.head() as head:
                    loss, stats = self.student.forward_backward(micro_batch, head, scale, last=last)
                tally.add(micro_batch.batch, loss, stats)
            update = self.student.step()
        with timer("sync"):
            self.pusher.push(version=step)
        skipped = bool(update.pop("skipped"))
        metrics = {**tally.reduce(self.ranks, num_tokens), **update, **timer.metrics()}
        return StepResult(
            {**metrics, **_throughput(rollouts, timer)}, rollouts, tally.kl(self.ranks), skipped
        )

    def _rollout(self, step: int) -> list[Rollout]:
        prompts = self.stream.batch(step)
        count, seed = self.config.rollout.n, self.config.data.seed
        rollouts = None
        if self.client is not None:
            rollouts = self.client.generate(prompts, count, self.sampling, seed, step)
        shared = self.ranks.share_rollouts(prompts, count, rollouts)
        assert all(rollout.weight_version == step - 1 for rollout in shared), "stale rollouts"
        return within_vocabulary(shared, self.vocab_size)

    def _micro_batches(self, rollouts: list[Rollout]) -> list[MicroBatch]:
        lengths = [rollout.length for rollout in rollouts]
        shares = plan(lengths, self.config.train.micro_batch_tokens, self.ranks.world_size)
        mine = shares[self.ranks.rank]
        return [collate(rollouts, members, self.ranks.device) for members in mine]


class Tally:
    """Sums over the tokens this rank has seen, to be added up over the ranks at the end of a step."""

    def __init__(self, rollouts: list[Rollout]) -> None:
        self._offsets = np.cumsum([0, *(len(rollout.response_ids) for rollout in rollouts)])
        self._kl = torch.zeros(int(self._offsets[-1]))
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, batch: MicroBatch, loss: float, stats: TokenStats) -> None:
        """Count one micro-batch; fillers count for nothing but keep the keys the same on every rank."""
        sums = {"loss": torch.tensor(loss, dtype=torch.float64)}
        sums |= token_sums(stats, batch.rollout_logp_N)
        for name, value in sums.items():
            previous = self._sums.get(name, torch.zeros((), dtype=torch.float64))
            self._sums[name] = previous + value.cpu() * batch.weight
        start, kl = 0, stats.kl_N.float().cpu()
        for member in batch.members:
            low, high = self._offsets[member], self._offsets[member + 1]
            self._kl[low:high] = kl[start : start + high - low]
            start += high - low

    def reduce(self, ranks: Ranks, num_tokens: int) -> dict[str, float]:
        """Means over the `num_tokens` response tokens of the global batch."""
        totals = ranks.sum(torch.stack(list(self._sums.values()))) / num_tokens
        means = dict(zip(self._sums, totals.tolist(), strict=True))
        loss = means.pop("loss")
        fixed = {"actor/pg_loss": 0.0, "actor/distillation_mode": 1.0}
        return {"actor/loss": loss, "actor/kl_loss": means["kl/reverse"], **fixed, **means}

    def kl(self, ranks: Ranks) -> list[np.ndarray]:
        """Reverse KL per token of every rollout of the step."""
        flat = ranks.sum(self._kl).numpy()
        return np.split(flat, self._offsets[1:-1])


def _throughput(rollouts: list[Rollout], timer: Timer) -> dict[str, float]:
    responses = [len(rollout.response_ids) for rollout in rollouts]
    total = sum(rollout.length for rollout in rollouts)
    cut = sum(rollout.finish_reason == "length" for rollout in rollouts)
    return {
        "response_length/mean": sum(responses) / len(rollouts),
        "response_length/clip_ratio": cut / len(rollouts),
        "perf/tokens_per_s": total / timer.metrics()["timing_s/step"],
        "perf/rollout_tokens_per_s": sum(responses) / timer.seconds["rollout"],
    }
