"""The micro-batch plan and the tensors made from it."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distillctl.config.loading import load_preset
from distillctl.data_types import Prompt, Rollout
from distillctl.errors import RunFailed
from distillctl.train.batch import collate, plan, references, weighted, within_vocabulary

CPU = torch.device("cpu")


def rollout(prompt_ids, response_ids, finish_reason="stop", **fields):
    prompt = Prompt("train/0", list(prompt_ids), "", None)
    logp = -np.arange(1, len(response_ids) + 1, dtype=np.float32)
    return Rollout(
        prompt=prompt,
        group=0,
        sample=0,
        response_ids=np.array(response_ids, dtype=np.int32),
        response_logprobs=logp,
        finish_reason=finish_reason,
        weight_version=0,
        **fields,
    )


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    budget=st.integers(1, 200),
    num_ranks=st.integers(1, 5),
)
def test_plan_covers_every_sample_once_within_the_budget(lengths, budget, num_ranks):
    shares = plan(lengths, budget, num_ranks)
    assert len(shares) == num_ranks
    assert len({len(share) for share in shares}) == 1
    flat = [index for share in shares for batch in share for index in batch]
    assert sorted(flat) == list(range(len(lengths)))
    for share in shares:
        for batch in share:
            assert sum(lengths[i] for i in batch) <= budget or len(batch) == 1


@given(lengths=st.lists(st.integers(20, 60), min_size=16, max_size=80), num_ranks=st.integers(1, 4))
def test_plan_makes_few_micro_batches_of_nearly_the_same_size(lengths, num_ranks):
    budget = 400
    batches = [batch for share in plan(lengths, budget, num_ranks) for batch in share]
    sizes = [sum(lengths[i] for i in batch) for batch in batches]
    assert max(sizes) - min(sizes) <= max(lengths)
    assert len(batches) <= num_ranks * math.ceil(sum(lengths) / (num_ranks * (budget - max(lengths))))


def test_plan_needs_a_filler_only_with_fewer_samples_than_ranks():
    assert plan([5, 4, 3], 100, 2) == [[[0]], [[1, 2]]]
    assert plan([5], 100, 2) == [[[0]], [[]]]
    assert plan([5, 5, 5], 5, 2) == [[[0], [2]], [[1], []]]


def test_plan_gives_samples_that_are_longer_than_a_micro_batch_one_each():
    shares = plan([30_000] * 128, 16_384, 8)
    assert [len(share) for share in shares] == [16] * 8
    assert all(len(batch) == 1 for share in shares for batch in share)


def fewest_batches(lengths, budget, num_ranks):
    """Micro-batches of the first multiple of the ranks that the longest-first rule fills within the budget,
    tried from the bottom."""
    for num_batches in itertools.count(num_ranks, num_ranks):
        batches = [[] for _ in range(num_batches)]
        for length in sorted(lengths, reverse=True):
            min(batches, key=sum).append(length)
        if all(sum(batch) <= budget or len(batch) == 1 for batch in batches):
            return num_batches
    raise AssertionError


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=25),
    budget=st.integers(1, 80),
    num_ranks=st.integers(1, 5),
)
def test_plan_makes_no_more_micro_batches_and_fillers_than_are_needed(lengths, budget, num_ranks):
    batches = [batch for share in plan(lengths, budget, num_ranks) for batch in share]
    assert len(batches) == fewest_batches(lengths, budget, num_ranks)
    assert sum(not batch for batch in batches) < num_ranks
    assert len(batches) <= num_ranks * math.ceil(len(lengths) / num_ranks)


def test_plan_puts_the_longest_first_where_there_is_most_room():
    """9 | 9 | 8, then 2 beside the 8, and 1 beside each 9."""
    assert plan([9, 1, 8, 2, 9, 1], 10, 1) == [[[0, 1], [4, 5], [2, 3]]]


def test_collate_rows_predict_the_response_tokens():
    batch = collate([rollout([5, 6], [7, 8, 2]), rollout([9], [4])], [1, 0], CPU)
    assert batch.input_ids_T.tolist() == [9, 4, 5, 6, 7, 8, 2]
    assert batch.sequences == [[9, 4], [5, 6, 7, 8, 2]]
    assert batch.rows_N.tolist() == [0, 3, 4, 5]
    assert batch.tokens.target_ids_N.tolist() == [4, 7, 8, 2]
    assert batch.tokens.rollout_logp_N.tolist() == [-1, -1, -2, -3]
    assert batch.members == (1, 0)
    assert batch.weight == 1.0


def test_filler_is_real_data_without_weight():
    batch = collate([rollout([5, 6], [7, 8, 2]), rollout([9], [4])], [], CPU)
    assert batch.sequences == [[9, 4]]
    assert batch.members == ()
    assert batch.weight == 0.0


@pytest.mark.parametrize(
    ("response", "kept"), [([1, 2, 3], [1, 2, 3]), ([1, 9, 3], [1]), ([1, 2, 10], [1, 2])]
)
def test_responses_are_cut_before_tokens_outside_the_shared_vocabulary(response, kept):
    (cut,) = within_vocabulary([rollout([1], response)], 9)
    assert cut.response_ids.tolist() == kept
    assert len(cut.response_logprobs) == len(kept)
    assert cut.finish_reason == ("stop" if kept == response else "length")


def test_a_response_that_starts_outside_the_vocabulary_is_left_out():
    other = rollout([1], [3])
    assert within_vocabulary([rollout([1], [9, 1]), other], 9) == [other]


def test_a_step_of_which_nothing_is_left_is_an_error_that_says_why():
    with pytest.raises(
        RunFailed, match="each of the step's 2 responses begins with a token id of 9"
    ) as error:
        within_vocabulary([rollout([1], [9, 1]), rollout([2], [11])], 9)
    assert "the student samples only tokens that the teacher lacks" in error.value.hint


@pytest.mark.parametrize(
    ("length", "fraction", "kept"),
    [
        (10, 0.3, 3),
        (10, 0.31, 4),
        (1, 0.01, 1),
        (7, 1, 7),
        (100, 0.07, 7),  # 7.000000000000001 in floating point
        (100, 0.56, 56),  # 56.00000000000001
        (100, 0.29, 29),  # 28.999999999999996
        (3, 1e-12, 1),
    ],
)
def test_the_trained_part_is_rounded_up(length, fraction, kept):
    config = load_preset("tiny-from-small-arith", [f"loss.token_fraction={fraction}"])
    (found,) = weighted([rollout([1], range(length))], config)
    assert found.num_trained == kept


def test_a_fraction_leaves_the_rest_of_the_response_out_of_the_tensors():
    halves = [rollout([1, 2], [3, 4, 5, 6], num_trained=2), rollout([7], [8, 9], num_trained=1)]
    batch = collate(halves, [0, 1], CPU)
    assert batch.sequences == [[1, 2, 3, 4], [7, 8]]
    assert batch.tokens.target_ids_N.tolist() == [3, 4, 8]
    assert batch.spans == ((2, 4), (1, 2))


def test_every_token_gets_the_weight_and_advantage_of_its_rollout():
    rollouts = [
        rollout([1], ids, token_weight=weight, advantage=advantage)
        for ids, weight, advantage in (([2, 3, 4], 0.1, 1.0), ([5], 0.2, 2.0), ([6, 7], 0.3, 3.0))
    ]
    tokens = collate(rollouts, [2, 0], CPU).tokens
    torch.testing.assert_close(tokens.weights_N, torch.tensor([0.3, 0.3, 0.1, 0.1, 0.1]))
    assert tokens.advantages_N.tolist() == [3, 3, 1, 1, 1]


def test_without_rewards_there_are_no_advantages():
    assert collate([rollout([1], [2, 3])], [0], CPU).tokens.advantages_N is None


def test_a_filler_has_weight_zero():
    batch = collate([rollout([1], [2, 3], token_weight=5.0)], [], CPU)
    assert batch.tokens.weights_N.tolist() == [0, 0]


def test_references_are_one_per_prompt_that_has_an_answer():
    with_answer = Prompt("train/0", [1], "", None, reference_ids=[4, 5, 2])
    without = Prompt("train/1", [1], "", None)
    ids, logp = np.array([9], np.int32), np.zeros(1, np.float32)
    sampled = [
        Rollout(
            prompt=p,
            group=g,
            sample=n,
            response_ids=ids,
            response_logprobs=logp,
            finish_reason="stop",
            weight_version=0,
        )
        for g, p in enumerate((with_answer, without))
        for n in range(2)
    ]
    (answer,) = references(sampled, 0.6)
    assert answer.prompt is with_answer
    assert answer.response_ids.tolist() == [4, 5, 2]
