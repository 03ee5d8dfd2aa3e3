"""The training step: rollout, teacher, objective, update, sync. One optimizer step per batch of rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from distillctl.config.schema import Config
from distillctl.data.prompts import PromptStream
from distillctl.data_types import MicroBatch, Rollout, Scored
from distillctl.objective.aggregate import token_weights
from distillctl.objective.inputs import Dense, Objective, Teacher
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.teacher.exchange import ScoringStopped
from distillctl.teacher.local import LocalTeacher
from distillctl.teacher.served import ServedTeacher
from distillctl.train.advantages import group_advantages
from distillctl.train.batch import micro_batches, references, tokens, trained_length, within_vocabulary
from distillctl.train.distributed import Ranks
from distillctl.train.metrics import Item, Tally, Timer, throughput
from distillctl.train.rollout_engine import RolloutEngine
from distillctl.train.student import Student
from distillctl.train.token_table import NUM_VIEWED, TokenTable, TokenView


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step leaves behind."""

    metrics: dict[str, float]
    rollouts: list[Rollout]
    kl: list[np.ndarray]
    """float32 [T] per rollout: reverse KL of each response token, nats, NaN where the token was not trained
    on; the same on every rank."""
    views: list[TokenView]
    """Of the first rollouts, under the weights that wrote them; none unless asked for."""


@dataclass(frozen=True, slots=True)
class Trainer:
    """The parts of a run, put together by `worker.py`."""

    config: Config
    ranks: Ranks
    stream: PromptStream
    engine: RolloutEngine
    sampling: Sampling
    teachers: Mapping[str, LocalTeacher | ServedTeacher]
    student: Student
    objective: Objective
    reward: Callable[[list[Rollout]], np.ndarray] | None
    """Task reward of each rollout, float32; called on rank 0."""
    should_stop: Callable[[], bool]
    """Whether a stop was asked for; the same on every rank."""
    num_steps: int
    """Of the whole run."""

    def train_step(self, step: int, *, look: bool = False) -> StepResult | None:
        """Step `step` (from 1): sample with the weights of step - 1, learn, push the weights of `step`.

        With `train.async_depth` 1 the engine samples the next batch from those weights while this one is
        learnt, so that all batches but the first (of an attempt) come from the weights of step - 2.
        With `look` the first rollouts are looked at token by token. None when a stop was asked for before the
        update began: nothing has changed then.
        """
        timer = Timer()
        self.ranks.seed(self.config.data.seed, step)
        with timer("rollout"):
            rollouts = self._rollout(step)
            advantages, rewards = self._advantages(rollouts)
        if self.should_stop():
            return None
        if self.config.train.async_depth and step < self.num_steps:
            self.engine.begin(self._generation(step + 1))
        lengths = [trained_length(rollout, self.config.loss.token_fraction) for rollout in rollouts]
        tally = Tally(rollouts, lengths, list(self.teachers))
        with timer("teacher"):
            scored = self._score(rollouts, lengths, advantages)
        if scored is None or self.should_stop():
            return None
        items = [*scored, *self._reference_answers(rollouts)]
        table = TokenTable(rollouts[: NUM_VIEWED if look else 0], self.objective.vocab_size)
        with timer("update"):
            for item in items:
                with self.teacher_view(item.teacher, item.scored) as teacher:
                    stats, found = self.student.forward_backward(
                        item.batch, teacher, item.tokens, item.objective,
                        last=item is items[-1], look=table.wanted(item),
                    )  # fmt: skip
                tally.add(item, teacher, stats)
                table.add(item.batch, found)
            update = self.student.step()
        with timer("sync"):
            self.engine.push(version=step)
        metrics = {**tally.reduce(self.ranks), **rewards, **update, **timer.metrics()}
        metrics |= throughput(rollouts, timer, step - 1)
        return StepResult(metrics, rollouts, tally.kl(self.ranks), table.views(self.ranks))

    def _rollout(self, step: int) -> list[Rollout]:
        engine = self.engine
        rollouts = engine.finish() if engine.has_begun else engine.ask(self._generation(step))
        shared = self.ranks.share_rollouts(self.stream.batch(step), self.config.rollout.n, rollouts)
        oldest = min(rollout.weight_version for rollout in shared)
        assert 0 <= step - 1 - oldest <= self.config.train.async_depth, "stale rollouts"
        return within_vocabulary(shared, self.objective.vocab_size)

    def _generation(self, step: int) -> Callable[[RolloutClient], list[Rollout]]:
        """What the engine is asked for at `step`."""
        prompts, count, seed = self.stream.batch(step), self.config.rollout.n, self.config.data.seed
        num_topk = self.objective.topk if self.asks_for_student_tokens else 0
        return lambda client: client.generate(prompts, count, self.sampling, seed, step, num_topk)

    @property
    def asks_for_student_tokens(self) -> bool:
        """Whether a served teacher is to score the student's most likely tokens."""
        served = any(isinstance(teacher, ServedTeacher) for teacher in self.teachers.values())
        return served and self.objective.kind == "student_topk"

    def _advantages(self, rollouts: list[Rollout]) -> tuple[list[float] | None, dict[str, float]]:
        """Group-relative advantage of each rollout, and the reward's metrics; none without a reward."""
        if self.reward is None:
            return None, {}
        values = torch.zeros(len(rollouts))
        if self.ranks.is_main:
            values = torch.from_numpy(self.reward(rollouts))
        rewards = self.ranks.sum(values).numpy()
        groups = [rollout.group for rollout in rollouts]
        return group_advantages(rewards, groups).tolist(), {"reward/mean": float(rewards.mean())}

    def _score(
        self, rollouts: list[Rollout], lengths: list[int], advantages: list[float] | None
    ) -> list[Item] | None:
        """Micro-batches of this rank, teacher by teacher, with what their teacher says; None after a stop."""
        loss = self.config.loss
        divisor = loss.loss_scale_factor or self.config.data.max_response_length
        weights = token_weights(loss.aggregate, lengths, divisor)
        items = []
        for name, teacher in self.teachers.items():
            members = [i for i, rollout in enumerate(rollouts) if rollout.prompt.teacher == name]
            batches = micro_batches(rollouts, members, self.config, self.ranks, loss.token_fraction)
            found = self.score(teacher, batches)
            if found is None:
                return None
            for scored in found:
                inputs = tokens(scored.batch, weights, advantages)
                items.append(Item(name, scored, inputs, self.objective))
        return items

    def score(self, teacher: LocalTeacher | ServedTeacher, batches: list[MicroBatch]) -> list[Scored] | None:
        """What a teacher says of this rank's micro-batches; collective. None, on every rank, when a stop was
        asked for while one of them waited for a server."""
        if isinstance(teacher, LocalTeacher):
            return teacher.score(batches)
        scored = []
        with suppress(ScoringStopped):
            scored = teacher.score(batches)
        num_stopped = self.ranks.sum(torch.tensor([len(scored) < len(batches)], dtype=torch.int64))
        return None if int(num_stopped) else scored

    def _reference_answers(self, rollouts: list[Rollout]) -> list[Item]:
        """Micro-batches of the data's own answers for the cross-entropy term, which has no teacher."""
        if not self.config.loss.sft_coef:
            return []
        answers = references(rollouts)
        if not answers:  # none of this batch's prompts has one
            return []
        num_tokens = sum(len(answer.response_ids) for answer in answers)
        weights = [self.config.loss.sft_coef / num_tokens] * len(answers)
        objective = replace(self.objective, temperature=1.0)
        batches = micro_batches(answers, range(len(answers)), self.config, self.ranks, 1.0)
        return [Item(None, Scored(b, None), tokens(b, weights, None), objective) for b in batches]

    @contextmanager
    def teacher_view(self, name: str | None, scored: Scored) -> Iterator[Teacher]:
        """What the teacher `name` says of a micro-batch, in the form that the loss takes."""
        if not isinstance(scored.teacher, torch.Tensor):
            yield scored.teacher
            return
        teacher = self.teachers[name or ""]
        assert isinstance(teacher, LocalTeacher)
        with teacher.head() as head_VG:
            yield Dense(scored.teacher, head_VG)
