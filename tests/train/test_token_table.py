"""Where the values of each token go, and what tokens have that were not measured."""

from types import SimpleNamespace

import numpy as np
import torch

from distillctl.data_types import Prompt, Rollout
from distillctl.objective.alternatives import Alternatives
from distillctl.train.batch import collate
from distillctl.train.token_details import DetailTable
from distillctl.train.token_table import TokenTable

VOCAB_SIZE = 3  # so that there are no more than three alternatives
ALONE = SimpleNamespace(sum=lambda values: values)


def rollouts(*lengths, **fields):
    return [
        Rollout(
            prompt=Prompt("train/0", [1, 2], "", None),
            group=0,
            sample=sample,
            response_ids=np.zeros(length, np.int32),
            response_logprobs=np.zeros(length, np.float32),
            finish_reason="stop",
            weight_version=0,
            **fields,
        )
        for sample, length in enumerate(lengths)
    ]


def micro_batch(made, members):
    return collate(made, members, torch.device("cpu"))


def found(kl_N):
    """What is told apart by its KL only."""
    ids_NK = torch.tensor([[2, 0, 1]]).expand(len(kl_N), 3)
    return Alternatives(torch.tensor(kl_N), ids_NK, -ids_NK.float(), ids_NK, -ids_NK.float())


def test_tokens_of_the_first_rollouts_are_wanted_and_find_their_place():
    made = rollouts(2, 1, 3)
    table = DetailTable(made[:2], VOCAB_SIZE)
    batch = micro_batch(made, [2, 1, 0])
    assert table.wanted(batch).tolist() == [3, 4, 5]  # behind the three tokens of the third rollout
    assert table.num_alternatives == VOCAB_SIZE
    table.add(batch, found([0.3, 0.1, 0.2]))
    first, second = table.collect(ALONE)
    np.testing.assert_allclose(first.kl, [0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(second.kl, [0.3], rtol=1e-6)
    assert second.student_ids.tolist() == second.teacher_ids.tolist() == [[2, 0, 1]]
    assert second.teacher_logp.tolist() == [[-2.0, 0.0, -1.0]]


def test_tokens_that_are_not_trained_on_have_no_details():
    made = rollouts(4, num_trained=2)
    table = DetailTable(made, VOCAB_SIZE)
    half = micro_batch(made, [0])
    assert table.wanted(half).tolist() == [0, 1]
    table.add(half, found([0.5, 0.0]))
    (details,) = table.collect(ALONE)
    np.testing.assert_array_equal(details.kl, np.float32([0.5, 0.0, np.nan, np.nan]))
    assert (details.student_ids[2:] == -1).all()
    assert (details.teacher_ids[2:] == -1).all()
    assert (details.student_ids[:2] >= 0).all()


def test_a_filler_has_no_details():
    made = rollouts(2)
    table = DetailTable(made, VOCAB_SIZE)
    filler = micro_batch(made, [])
    assert table.wanted(filler).tolist() == []
    table.add(filler, found([]))
    assert np.isnan(table.collect(ALONE)[0].kl).all()


def test_nothing_is_wanted_in_a_table_of_no_rollouts():
    made = rollouts(2)
    table = DetailTable([], VOCAB_SIZE)
    assert table.wanted(micro_batch(made, [0])) is None
    assert table.collect(ALONE) == []


def test_what_ranks_measure_of_different_rollouts_is_put_together():
    made = rollouts(1, 2)
    here, there = TokenTable(made, 1, torch.float32), TokenTable(made, 1, torch.float32)
    here.put(micro_batch(made, [1]), torch.tensor([[0.5], [0.0]]))
    there.put(micro_batch(made, [0]), torch.tensor([[0.25]]))
    both = SimpleNamespace(sum=lambda values: values + there._values_NX)
    first, second = here.collect(both)
    assert first.tolist() == [[0.25]]
    assert second.tolist() == [[0.5], [0.0]]
