"""Sums over micro-batches and ranks against plain means over all tokens."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distillctl.data_types import Prompt, Rollout, Scored
from distillctl.objective.chunked import stat_names
from distillctl.objective.inputs import Dense, Objective, TopK
from distillctl.train.batch import collate, tokens, trained_length
from distillctl.train.metrics import Item, Tally

CPU = torch.device("cpu")
ALONE = SimpleNamespace(sum=lambda values: values)
DENSE = Dense(torch.empty(0), torch.empty(0))
OBJECTIVE = Objective(7)
NAMES = stat_names(OBJECTIVE, DENSE, rewarded=False)


def rollouts(*lengths, teachers=None):
    made = []
    for i, length in enumerate(lengths):
        prompt = Prompt(f"train/{i}", [1, 2], "", None, teacher=teachers[i] if teachers else "default")
        ids, logp = np.arange(length, dtype=np.int32), np.zeros(length, np.float32)
        made.append(
            Rollout(
                prompt=prompt,
                group=0,
                sample=0,
                response_ids=ids,
                response_logprobs=logp,
                finish_reason="stop",
                weight_version=0,
            )
        )
    return made


def item(made, members, weights, *, teacher="default", fraction=1.0):
    batch = collate(made, members, CPU, fraction)
    return Item(teacher, Scored(batch, None), tokens(batch, weights, None), OBJECTIVE)


def random_stats(num_tokens):
    return torch.rand(len(NAMES), num_tokens)


def test_metrics_are_means_over_all_tokens_and_losses_weighted_sums():
    made, weights = rollouts(3, 1, 2), [0.5, 0.25, 0.125]
    first, second = item(made, [1, 0], weights), item(made, [2], weights)
    stats = random_stats(4), random_stats(2)
    tally = Tally(made, [3, 1, 2], ["default"])
    tally.add(first, DENSE, stats[0])
    tally.add(second, DENSE, stats[1])
    metrics = tally.reduce(ALONE)
    whole = torch.cat(stats, -1).double()
    per_token = torch.tensor([0.25, 0.5, 0.5, 0.5, 0.125, 0.125], dtype=torch.float64)
    for name, row in zip(NAMES, whole, strict=True):
        weighted = name in ("actor/loss", "actor/kl_loss")
        expected = (row * per_token).sum() if weighted else row.mean()
        assert metrics[name] == pytest.approx(expected.item(), rel=1e-6), name
    assert metrics["actor/pg_loss"] == 0
    assert metrics["actor/distillation_mode"] == 1


def test_fillers_count_for_nothing():
    made = rollouts(2)
    tally, alone = Tally(made, [2], ["default"]), Tally(made, [2], ["default"])
    stats = random_stats(2)
    for each in (tally, alone):
        each.add(item(made, [0], [0.5]), DENSE, stats)
    tally.add(item(made, [], [0.5]), DENSE, random_stats(2))
    assert tally.reduce(ALONE) == alone.reduce(ALONE)
    assert tally.kl(ALONE)[0].tolist() == alone.kl(ALONE)[0].tolist()


def test_kl_goes_to_its_rollout_and_is_nan_where_nothing_was_trained():
    made = rollouts(4, 2)
    lengths = [trained_length(rollout, 0.5) for rollout in made]
    tally = Tally(made, lengths, ["default"])
    stats = random_stats(3)
    tally.add(item(made, [1, 0], [1.0, 1.0], fraction=0.5), DENSE, stats)
    first, second = tally.kl(ALONE)
    row = stats[NAMES.index("kl/reverse")].numpy()
    np.testing.assert_array_equal(first, [row[1], row[2], np.nan, np.nan])
    np.testing.assert_array_equal(second, [row[0], np.nan])


def test_several_teachers_have_a_kl_each():
    made = rollouts(3, 1, 2, teachers=["default", "code", "code"])
    tally = Tally(made, [3, 1, 2], ["default", "code"])
    stats = random_stats(3), random_stats(3)
    tally.add(item(made, [0], [1.0] * 3), DENSE, stats[0])
    tally.add(item(made, [1, 2], [1.0] * 3, teacher="code"), DENSE, stats[1])
    metrics = tally.reduce(ALONE)
    row = NAMES.index("kl/reverse")
    assert metrics["kl/reverse/default"] == pytest.approx(stats[0][row].mean().item())
    assert metrics["kl/reverse/code"] == pytest.approx(stats[1][row].mean().item())


def test_what_only_one_of_two_teachers_can_tell_is_a_mean_over_its_own_tokens():
    """Of `student_topk` a teacher at hand has metrics of the list, one behind a server has not."""
    objective = Objective(7, kind="student_topk", topk=2)
    served = TopK(torch.empty(0), torch.empty(0), torch.empty(0))
    made, weights = rollouts(3, 5, teachers=["default", "served"]), [1.0, 1.0]
    tally = Tally(made, [3, 5], ["default", "served"])
    stats = {}
    for member, teacher, view in ((0, "default", DENSE), (1, "served", served)):
        names = stat_names(objective, view, rewarded=False)
        stats[teacher] = dict(zip(names, torch.rand(len(names), [3, 5][member]), strict=True))
        added = replace(item(made, [member], weights, teacher=teacher), objective=objective)
        tally.add(added, view, torch.stack(list(stats[teacher].values())))
    metrics = tally.reduce(ALONE)
    assert "topk/overlap" not in stats["served"]
    assert metrics["topk/overlap"] == pytest.approx(stats["default"]["topk/overlap"].mean().item())
    both = torch.cat([stats[name]["kl/k1"] for name in ("default", "served")])
    assert metrics["kl/k1"] == pytest.approx(both.mean().item())


def test_reference_answers_add_to_the_loss_and_have_a_mean_of_their_own():
    made = rollouts(2)
    tally = Tally(made, [2], ["default"])
    stats = random_stats(2)
    tally.add(item(made, [0], [0.5]), DENSE, stats)
    answers = rollouts(4)
    cross_entropy = torch.rand(1, 4)
    tally.add(item(answers, [0], [0.1], teacher=None), None, cross_entropy)
    metrics = tally.reduce(ALONE)
    assert metrics["actor/sft_loss"] == pytest.approx(cross_entropy.mean().item())
    expected = 0.5 * stats[0].sum() + 0.1 * cross_entropy.sum()
    assert metrics["actor/loss"] == pytest.approx(expected.item())
    assert metrics["actor/distillation_mode"] == 0
