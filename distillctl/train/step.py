"""The training step: rollout, teacher, update, sync. One optimizer step per batch of rollouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from distillctl.config.schema import Config
from distillctl.data.prompts import PromptStream
from distillctl.data_types import Prompt, Rollout
from distillctl.objective.inputs import Objective
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.teacher.interface import Teacher
from distillctl.train.advantages import group_advantages
from distillctl.train.batch import weighted, within_vocabulary
from distillctl.train.distributed import Distributed
from distillctl.train.metrics import StepMetrics, Timer, throughput
from distillctl.train.rollout_engine import RolloutEngine
from distillctl.train.scoring import reference_batches, scored_batches
from distillctl.train.student import Student
from distillctl.train.token_details import NUM_DETAILED, DetailTable, TokenDetails
from distillctl.train.training_batch import TrainingBatch


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step; the same on every rank."""

    metrics: dict[str, float]
    rollouts: list[Rollout]
    kl: list[np.ndarray]
    """float32 [T] per rollout: reverse KL of each response token in nats; NaN for tokens not trained on."""
    details: list[TokenDetails]
    """Details of the first rollouts, under the weights at the start of the step; empty unless asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """The parts of a run, as `build.py` builds them."""

    config: Config
    distributed: Distributed
    tokenizer: Any
    stream: PromptStream
    val_prompts: list[Prompt]
    """Prompts of the evaluations; empty for a run without evaluations."""
    engine: RolloutEngine
    sampling: Sampling
    teachers: Mapping[str, Teacher]
    student: Student
    objective: Objective
    reward: Callable[[list[Rollout]], np.ndarray] | None
    """Gives the task reward of each rollout, float32. Called on rank 0."""
    should_stop: Callable[[], bool]
    """Whether a stop was requested; the same on every rank."""
    num_steps: int
    """Optimizer steps of the whole run."""
    num_done: int
    """Optimizer steps that the loaded checkpoint had done; 0 unless resumed."""
    saved: dict[str, Any] | None
    """The state in the checkpoint besides weights and optimizer; None unless resumed."""

    def train_step(self, step: int, *, with_details: bool = False) -> StepResult | None:
        """Step `step` (from 1): sample with the weights of step - 1, learn, push the weights of `step`.

        With `train.async_depth` 1, the rollout engine samples the next batch from those weights during this
        step's update. Then all batches but the first of an attempt come from the weights of step - 2.
        Returns None, with nothing changed, when a stop was requested before the update began.
        """
        timer = Timer()
        self.distributed.seed(self.config.data.seed, step)
        with timer("rollout"):
            rollouts = self.sample(step)
        if self.should_stop():
            return None
        self.sample_ahead(step + 1)
        details = DetailTable(rollouts[: NUM_DETAILED if with_details else 0], self.objective.vocab_size)
        with timer("teacher"):
            batches = self.score(rollouts, details)
        if batches is None or self.should_stop():
            return None
        metrics = StepMetrics(rollouts, details)
        with timer("update"):
            for batch in batches:
                metrics.add(batch, self.student.forward_backward(batch, last=batch is batches[-1]))
            update = self.student.step()
        with timer("sync"):
            self.engine.push(version=step)
        measured = {**metrics.reduce(self.distributed), **update, **timer.metrics()}
        measured |= throughput(rollouts, timer, step - 1)
        return StepResult(measured, rollouts, metrics.kl(self.distributed), metrics.details(self.distributed))

    def sample(self, step: int) -> list[Rollout]:
        """The rollouts of a step, with their rewards and their weights in the loss."""
        engine = self.engine
        sampled = engine.finish() if engine.has_begun else engine.ask(self._request(step))
        shared = self.distributed.share_rollouts(self.stream.batch(step), self.config.rollout.n, sampled)
        oldest = min(rollout.weight_version for rollout in shared)
        assert 0 <= step - 1 - oldest <= self.config.train.async_depth, "stale rollouts"
        rollouts = within_vocabulary(shared, self.objective.vocab_size)
        return weighted(self._rewarded(rollouts), self.config)

    def sample_ahead(self, step: int) -> None:
        """Let the rollout engine begin to sample `step`, if the configuration asks for it."""
        if self.config.train.async_depth and step <= self.num_steps:
            self.engine.begin(self._request(step))

    def score(self, rollouts: list[Rollout], details: DetailTable) -> list[TrainingBatch] | None:
        """This rank's micro-batches, ready for the update; None when a stop came first."""
        batches = scored_batches(
            rollouts, self.teachers, details, self.config, self.objective, self.distributed
        )
        if batches is None:
            return None
        return batches + reference_batches(rollouts, self.config, self.objective, self.distributed)

    def _request(self, step: int) -> Callable[[RolloutClient], list[Rollout]]:
        """The request to the rollout engine for `step`."""
        prompts = self.stream.batch(step)
        seed = self.config.data.seed
        asks = any(teacher.asks_for_topk_ids for teacher in self.teachers.values())
        num_topk = self.objective.topk if asks else 0
        return lambda client: client.generate(
            prompts, self.config.rollout.n, self.sampling, seed, step, num_topk
        )

    def _rewarded(self, rollouts: list[Rollout]) -> list[Rollout]:
        """The rollouts with rewards and group-relative advantages; unchanged without a task reward."""
        if self.reward is None:
            return rollouts
        values = torch.zeros(len(rollouts))
        if self.distributed.is_main:
            values = torch.from_numpy(self.reward(rollouts))
        rewards = self.distributed.sum(values).numpy()
        advantages = group_advantages(rewards, [rollout.group for rollout in rollouts])
        return [
            replace(rollout, reward=reward, advantage=advantage)
            for rollout, reward, advantage in zip(
                rollouts, rewards.tolist(), advantages.tolist(), strict=True
            )
        ]
