"""Where what was seen of each token goes, and what is said of tokens that nobody looked at."""

from types import SimpleNamespace

import numpy as np
import torch

from distillctl.data_types import Prompt, Rollout, Scored
from distillctl.objective.alternatives import Alternatives
from distillctl.objective.inputs import Objective
from distillctl.train.batch import collate, tokens
from distillctl.train.metrics import Item
from distillctl.train.token_table import TokenTable

VOCAB_SIZE = 3  # so that there are no more than three alternatives
ALONE = SimpleNamespace(sum=lambda values: values)


def rollouts(*lengths):
    prompt = Prompt("train/0", [1, 2], "", None)
    return [
        Rollout(
            prompt=prompt,
            group=0,
            sample=0,
            response_ids=np.zeros(n, np.int32),
            response_logprobs=np.zeros(n, np.float32),
            finish_reason="stop",
            weight_version=0,
        )
        for n in lengths
    ]


def item(made, members, *, fraction=1.0, teacher="default"):
    batch = collate(made, members, torch.device("cpu"), fraction)
    return Item(teacher, Scored(batch, None), tokens(batch, [1.0] * len(made), None), Objective(VOCAB_SIZE))


def found(kl_N):
    """What is told apart by its KL only."""
    ids_NK = torch.tensor([[2, 0, 1]]).expand(len(kl_N), 3)
    return Alternatives(torch.tensor(kl_N), ids_NK, -ids_NK.float(), ids_NK, -ids_NK.float())


def test_tokens_of_the_first_rollouts_are_wanted_and_find_their_place():
    made = rollouts(2, 1, 3)
    table = TokenTable(made[:2], VOCAB_SIZE)
    batch = item(made, [2, 1, 0])
    rows, count = table.wanted(batch)
    assert rows.tolist() == [3, 4, 5]  # behind the three tokens of the third rollout
    assert count == VOCAB_SIZE
    table.add(batch.batch, found([0.3, 0.1, 0.2]))
    first, second = table.views(ALONE)
    np.testing.assert_allclose(first.kl, [0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(second.kl, [0.3], rtol=1e-6)
    assert second.student_ids.tolist() == second.teacher_ids.tolist() == [[2, 0, 1]]
    assert second.teacher_logp.tolist() == [[-2.0, 0.0, -1.0]]


def test_tokens_that_are_not_trained_on_are_not_looked_at():
    made = rollouts(4)
    table = TokenTable(made, VOCAB_SIZE)
    half = item(made, [0], fraction=0.5)
    assert table.wanted(half)[0].tolist() == [0, 1]
    table.add(half.batch, found([0.5, 0.0]))
    (view,) = table.views(ALONE)
    np.testing.assert_array_equal(view.kl, np.float32([0.5, 0.0, np.nan, np.nan]))
    assert (view.student_ids[2:] == -1).all()
    assert (view.teacher_ids[2:] == -1).all()
    assert (view.student_ids[:2] >= 0).all()


def test_a_filler_has_nothing_to_look_at():
    made = rollouts(2)
    table = TokenTable(made, VOCAB_SIZE)
    filler = item(made, [])
    assert table.wanted(filler)[0].tolist() == []
    table.add(filler.batch, found([]))
    assert np.isnan(table.views(ALONE)[0].kl).all()


def test_nobody_looks_without_rollouts_or_a_teacher():
    made = rollouts(2)
    assert TokenTable([], VOCAB_SIZE).wanted(item(made, [0])) is None
    assert TokenTable([], VOCAB_SIZE).views(ALONE) == []
    assert TokenTable(made, VOCAB_SIZE).wanted(item(made, [0], teacher=None)) is None
