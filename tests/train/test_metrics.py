"""Sums over micro-batches and ranks against plain means over all tokens."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distillctl.data_types import Prompt, Rollout
from distillctl.objective.chunked import stat_names
from distillctl.objective.inputs import Objective
from distillctl.objective.teacher_scores import Dense, TopK
from distillctl.train.batch import collate
from distillctl.train.metrics import StepMetrics
from distillctl.train.token_details import DetailTable
from distillctl.train.training_batch import ReferenceBatch, ScoredBatch, TokenStats

CPU = torch.device("cpu")
ALONE = SimpleNamespace(sum=lambda values: values)
DENSE = Dense(torch.empty(0), torch.empty(0))
OBJECTIVE = Objective(vocab_size=7)
NAMES = stat_names(OBJECTIVE, DENSE, rewarded=False)


def rollouts(*lengths, weights=None):
    return [
        Rollout(
            prompt=Prompt(f"train/{i}", [1, 2], "", None),
            group=i,
            sample=0,
            response_ids=np.arange(length, dtype=np.int32),
            response_logprobs=np.zeros(length, np.float32),
            finish_reason="stop",
            weight_version=0,
            token_weight=weights[i] if weights else 1.0,
        )
        for i, length in enumerate(lengths)
    ]


def scored(made, members, **fields):
    settings = {"scores": DENSE, "objective": OBJECTIVE}
    return ScoredBatch(micro_batch=collate(made, members, CPU), **settings | fields)


def metrics_of(made):
    return StepMetrics(made, DetailTable([], 7))


def random_stats(num_tokens):
    return torch.rand(len(NAMES), num_tokens)


def test_metrics_are_means_over_all_tokens_and_losses_weighted_sums():
    made = rollouts(3, 1, 2, weights=[0.5, 0.25, 0.125])
    stats = random_stats(4), random_stats(2)
    metrics = metrics_of(made)
    metrics.add(scored(made, [1, 0]), TokenStats(stats[0]))
    metrics.add(scored(made, [2]), TokenStats(stats[1]))
    reduced = metrics.reduce(ALONE)
    whole = torch.cat(stats, -1).double()
    per_token = torch.tensor([0.25, 0.5, 0.5, 0.5, 0.125, 0.125], dtype=torch.float64)
    for name, row in zip(NAMES, whole, strict=True):
        weighted = name in ("actor/loss", "actor/kl_loss")
        expected = (row * per_token).sum() if weighted else row.mean()
        assert reduced[name] == pytest.approx(expected.item(), rel=1e-6), name
    assert reduced["actor/pg_loss"] == 0
    assert reduced["actor/distillation_mode"] == 1


def test_fillers_count_for_nothing():
    made = rollouts(2, weights=[0.5])
    metrics, alone = metrics_of(made), metrics_of(made)
    stats = random_stats(2)
    for each in (metrics, alone):
        each.add(scored(made, [0]), TokenStats(stats))
    metrics.add(scored(made, []), TokenStats(random_stats(2)))
    assert metrics.reduce(ALONE) == alone.reduce(ALONE)
    assert metrics.kl(ALONE)[0].tolist() == alone.kl(ALONE)[0].tolist()


def test_kl_goes_to_its_rollout_and_is_nan_where_nothing_was_trained():
    made = [replace(one, num_trained=kept) for one, kept in zip(rollouts(4, 2), (2, 1), strict=True)]
    metrics = metrics_of(made)
    stats = random_stats(3)
    metrics.add(scored(made, [1, 0]), TokenStats(stats))
    first, second = metrics.kl(ALONE)
    row = stats[NAMES.index("kl/reverse")].numpy()
    np.testing.assert_array_equal(first, [row[1], row[2], np.nan, np.nan])
    np.testing.assert_array_equal(second, [row[0], np.nan])


def test_several_teachers_have_a_kl_each():
    made = rollouts(3, 1, 2)
    metrics = metrics_of(made)
    stats = random_stats(3), random_stats(3)
    metrics.add(scored(made, [0], kl_names=("kl/reverse/default",)), TokenStats(stats[0]))
    metrics.add(scored(made, [1, 2], kl_names=("kl/reverse/code",)), TokenStats(stats[1]))
    reduced = metrics.reduce(ALONE)
    row = NAMES.index("kl/reverse")
    assert reduced["kl/reverse/default"] == pytest.approx(stats[0][row].mean().item())
    assert reduced["kl/reverse/code"] == pytest.approx(stats[1][row].mean().item())


def test_what_only_one_of_two_teachers_can_tell_is_a_mean_over_its_own_tokens():
    """Of `student_topk` a teacher at hand has metrics of the list, one behind a server has not."""
    objective = Objective(vocab_size=7, kind="student_topk", topk=2)
    served = TopK(torch.empty(0), torch.empty(0), torch.empty(0))
    made = rollouts(3, 5)
    metrics = metrics_of(made)
    stats = {}
    for member, teacher, scores in ((0, "default", DENSE), (1, "served", served)):
        batch = scored(made, [member], scores=scores, objective=objective)
        names = batch.stat_names
        stats[teacher] = dict(zip(names, torch.rand(len(names), [3, 5][member]), strict=True))
        metrics.add(batch, TokenStats(torch.stack(list(stats[teacher].values()))))
    reduced = metrics.reduce(ALONE)
    assert "topk/overlap" not in stats["served"]
    assert reduced["topk/overlap"] == pytest.approx(stats["default"]["topk/overlap"].mean().item())
    both = torch.cat([stats[name]["kl/k1"] for name in ("default", "served")])
    assert reduced["kl/k1"] == pytest.approx(both.mean().item())


def test_reference_answers_add_to_the_loss_and_have_a_mean_of_their_own():
    made = rollouts(2, weights=[0.5])
    metrics = metrics_of(made)
    stats = random_stats(2)
    metrics.add(scored(made, [0]), TokenStats(stats))
    answers = rollouts(4, weights=[0.1])
    cross_entropy = torch.rand(1, 4)
    batch = ReferenceBatch(collate(answers, [0], CPU), OBJECTIVE)
    metrics.add(batch, TokenStats(cross_entropy))
    reduced = metrics.reduce(ALONE)
    assert reduced["actor/sft_loss"] == pytest.approx(cross_entropy.mean().item())
    expected = 0.5 * stats[0].sum() + 0.1 * cross_entropy.sum()
    assert reduced["actor/loss"] == pytest.approx(expected.item())
    assert reduced["actor/distillation_mode"] == 0


def test_the_mean_reward_is_that_of_all_rollouts():
    made = [replace(one, reward=reward) for one, reward in zip(rollouts(2, 1), (1.0, 0.5), strict=True)]
    metrics = metrics_of(made)
    metrics.add(scored(made, [0, 1]), TokenStats(random_stats(3)))
    reduced = metrics.reduce(ALONE)
    assert reduced["reward/mean"] == 0.75
