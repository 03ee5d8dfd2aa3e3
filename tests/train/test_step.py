"""One training step without models: which parts it asks, in which order, and what a stop leaves undone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distillctl.config.loading import load_preset
from distillctl.data_types import Prompt, Rollout
from distillctl.objective.inputs import Objective
from distillctl.objective.teacher_scores import Dense
from distillctl.rollout.client import Sampling
from distillctl.teacher.interface import ScoringStopped
from distillctl.train.step import Trainer
from distillctl.train.training_batch import TokenStats

VOCAB_SIZE, WIDTH = 9, 4


class Parts:
    """Stands in for everything around the step; `calls` says what was asked of it."""

    def __init__(self, *, stop_at=None, stop_in_teacher=False, asks_for_topk_ids=False):
        self.calls = []
        self.asks_for_topk_ids = asks_for_topk_ids
        self.has_begun = False
        self.rank = 0
        self.world_size = 1
        self.is_main = True
        self.device = torch.device("cpu")
        self._stop_at = stop_at
        self._stop_in_teacher = stop_in_teacher
        self._generator = torch.Generator().manual_seed(0)
        self.head_VH = self._normal(VOCAB_SIZE, WIDTH)

    def _normal(self, *shape):
        return torch.randn(*shape, generator=self._generator)

    # distributed
    def seed(self, run_seed, step):
        self.calls.append("seed")

    def sum(self, values):
        return values

    def share_rollouts(self, prompts, num_samples, rollouts):
        return rollouts

    def should_stop(self):
        self.calls.append("stop?")
        return self.calls.count("stop?") == self._stop_at

    # rollout engine
    def ask(self, request):
        self.calls.append("sample")
        return request(self)

    def generate(self, prompts, num_samples, sampling, seed, step, num_topk):
        self.num_topk = num_topk
        return [
            Rollout(
                prompt=prompt, group=group, sample=sample, weight_version=step - 1, finish_reason="stop",
                response_ids=np.arange(1, 3 + sample, dtype=np.int32),
                response_logprobs=np.full(2 + sample, -2.0, np.float32),
            )
            for group, prompt in enumerate(prompts)
            for sample in range(num_samples)
        ]  # fmt: skip

    def push(self, version):
        self.calls.append(f"push {version}")

    # teacher
    def score(self, batches):
        self.calls.append("score")
        if self._stop_in_teacher:
            raise ScoringStopped
        return [Dense(self._normal(len(batch.rows_N), WIDTH), self.head_VH) for batch in batches]

    # student
    def forward_backward(self, batch, *, last):
        self.calls.append("update, last" if last else "update")
        hidden_NH = self._normal(len(batch.micro_batch.rows_N), WIDTH)
        _, stats_SN, *_ = batch.loss(hidden_NH, self.head_VH)
        return TokenStats(stats_SN)

    def step(self):
        self.calls.append("optimizer")
        return {"actor/lr": 0.5}


def trainer(parts, *overrides, reward=None):
    config = load_preset("tiny-from-small-arith", ["rollout.n=2", "train.micro_batch_tokens=8", *overrides])
    prompts = [Prompt(f"train/{i}", [5, 6], "", None, reference_ids=[3, 4, 2]) for i in range(2)]
    return Trainer(
        config=config, distributed=parts, tokenizer=None, stream=SimpleNamespace(batch=lambda step: prompts),
        val_prompts=[], engine=parts, sampling=Sampling(1.0, 1.0, 4, []), teachers={"default": parts},
        student=parts, objective=Objective(vocab_size=VOCAB_SIZE), reward=reward,
        should_stop=parts.should_stop, num_steps=3, num_done=0, saved=None,
    )  # fmt: skip


def test_a_step_samples_scores_updates_and_pushes():
    parts = Parts()
    result = trainer(parts).train_step(2)
    updates = ["update", "update", "update, last"]  # sequences of 4, 5, 4 and 5 tokens, at most 8 together
    assert parts.calls == [
        "seed", "sample", "stop?", "score", "stop?", *updates, "optimizer", "push 2",
    ]  # fmt: skip
    assert [len(kl) for kl in result.kl] == [2, 3, 2, 3]
    assert not np.isnan(np.concatenate(result.kl)).any()
    assert result.metrics["kl/reverse"] == pytest.approx(np.concatenate(result.kl).mean(), rel=1e-6)
    assert result.metrics["actor/lr"] == 0.5
    assert result.metrics["response_length/mean"] == 2.5


@pytest.mark.parametrize(
    ("parts", "calls"),
    [
        (Parts(stop_at=1), ["seed", "sample", "stop?"]),
        (Parts(stop_at=2), ["seed", "sample", "stop?", "score", "stop?"]),
        (Parts(stop_in_teacher=True), ["seed", "sample", "stop?", "score"]),
    ],
    ids=["after the rollouts", "after the scores", "while a server is waited for"],
)
def test_a_stop_before_the_update_changes_nothing(parts, calls):
    assert trainer(parts).train_step(1) is None
    assert parts.calls == calls


def test_reference_answers_follow_the_scored_batches():
    parts = Parts()
    result = trainer(parts, "loss.sft_coef=0.1").train_step(1)
    assert parts.calls.count("update") + parts.calls.count("update, last") == 5  # two of 5 tokens each
    assert result.metrics["actor/sft_loss"] > 0
    assert result.metrics["actor/distillation_mode"] == 0


def test_rewards_become_advantages_within_each_group():
    parts = Parts()
    values = np.array([1.0, 0.0, 0.5, 0.5], np.float32)
    result = trainer(parts, reward=lambda rollouts: values).train_step(1)
    assert result.metrics["reward/mean"] == 0.5
    first, second, *rest = (rollout.advantage for rollout in result.rollouts)
    assert first == pytest.approx(0.5**0.5, rel=1e-5)
    assert second == pytest.approx(-(0.5**0.5), rel=1e-5)
    assert rest == [0.0, 0.0]


@pytest.mark.parametrize(("asks", "num_topk"), [(True, 64), (False, 0)])
def test_the_engine_lists_the_students_tokens_where_a_teacher_scores_them(asks, num_topk):
    parts = Parts(asks_for_topk_ids=asks)
    trainer(parts).train_step(1)
    assert parts.num_topk == num_topk
