"""Token weights against a transcription of verl's `agg_loss` (reference, section 3.3, one rank)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.objective.aggregate import token_weights

MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"]
LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(any)


def agg_loss(mode, loss_BT, mask_BT, num_tokens, num_sequences, loss_scale_factor):
    """verl on one rank: a padded matrix of token losses, the mask of the response, and global counts."""
    if mode == "token-mean":
        return (loss_BT * mask_BT).sum() / num_tokens
    if mode == "token-sum":
        return (loss_BT * mask_BT).sum()
    sums_B, lengths_B = (loss_BT * mask_BT).sum(-1), mask_BT.sum(-1)
    if mode.startswith("seq-mean-token-sum"):
        value = sums_B.sum() / num_sequences
        return value if mode == "seq-mean-token-sum" else sums_B.sum() / loss_scale_factor
    return (sums_B / (lengths_B + 1e-8)).sum() / num_sequences


def padded(lengths, seed):
    """Token losses [B, T] with rubbish in the padding, and the mask."""
    loss_BT = torch.rand(
        len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.where(mask_BT, loss_BT, 1e6), mask_BT.double()


def num_filled(lengths):
    """verl's number of sequences: those with a token at all."""
    return sum(length > 0 for length in lengths)


def total(weights, loss_BT, lengths):
    return sum(w * row_T[:length].sum() for w, row_T, length in zip(weights, loss_BT, lengths, strict=True))


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, factor=st.floats(1.0, 2048.0), seed=st.integers(0, 2**31))
def test_the_weighted_sum_is_verls_aggregate(mode, lengths, factor, seed):
    loss_BT, mask_BT = padded(lengths, seed)
    expected = agg_loss(mode, loss_BT, mask_BT, sum(lengths), num_filled(lengths), factor)
    got = total(token_weights(mode, lengths, factor), loss_BT, lengths)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, size=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_micro_batches_add_up_to_the_whole(mode, lengths, size, seed):
    """verl on each micro-batch with the counts of the global batch, against one set of weights."""
    loss_BT, mask_BT = padded(lengths, seed)
    weights = token_weights(mode, lengths, 40.0)
    expected = got = 0.0
    for start in range(0, len(lengths), size):
        part = slice(start, start + size)
        got = got + total(weights[part], loss_BT[part], lengths[part])
        counts = sum(lengths), num_filled(lengths)
        expected = expected + agg_loss(mode, loss_BT[part], mask_BT[part], *counts, 40.0)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(got, total(weights, loss_BT, lengths), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", [1 / 8, 1 / 8]),
        ("token-sum", [1.0, 1.0]),
        ("seq-mean-token-sum", [1 / 2, 1 / 2]),
        ("seq-mean-token-sum-norm", [1 / 128, 1 / 128]),
        ("seq-mean-token-mean", [1 / 12, 1 / 4]),
    ],
)
def test_weights_of_a_response_of_six_and_one_of_two(mode, expected):
    assert token_weights(mode, [6, 2], 128.0) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("mode", MODES)
def test_only_the_norm_mode_knows_the_scale_factor(mode):
    one, double = (token_weights(mode, [3, 1, 4], factor) for factor in (10.0, 20.0))
    ratio = 2.0 if mode == "seq-mean-token-sum-norm" else 1.0
    assert one == pytest.approx([ratio * weight for weight in double])


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS)
def test_means_give_a_constant_loss_its_value(mode, lengths):
    weights = token_weights(mode, lengths, 1.0)
    assert sum(w * length for w, length in zip(weights, lengths, strict=True)) == pytest.approx(1.0)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, places=st.lists(st.integers(0, 9), max_size=4))
def test_empty_responses_have_no_weight_and_change_no_other(mode, lengths, places):
    filled = [length for length in lengths if length]
    mixed = list(filled)
    for place in places:
        mixed.insert(place, 0)
    weights = token_weights(mode, mixed, 40.0)
    assert [w for w, length in zip(weights, mixed, strict=True) if length] == token_weights(
        mode, filled, 40.0
    )
    assert all(w == 0 for w, length in zip(weights, mixed, strict=True) if not length)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_without_a_token_there_is_no_weight(mode, lengths):
    assert token_weights(mode, lengths, 40.0) == [0.0] * len(lengths)


def test_the_order_of_sequences_is_kept():
    lengths = [1, 5, 2, 9]
    weights = token_weights("seq-mean-token-mean", lengths, 1.0)
    assert [1 / (4 * w) for w in weights] == pytest.approx(lengths)
