"""Top-k objectives: divergences of K + 1 buckets and the student's own list, against dense constructions."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distillctl.objective.divergences import NAMES
from distillctl.objective.teacher_scores import TopK

DIVERGENCES = [
    ("reverse_kl", 0.5),
    ("forward_kl", 0.5),
    ("jsd", 0.0),
    ("jsd", 0.2),
    ("jsd", 0.5),
    ("jsd", 1.0),
]
EVERY_DIVERGENCE = pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
EVERY_FILE = pytest.mark.parametrize(
    ("divergence", "beta"), [*((name, 0.5) for name in NAMES), *(("jsd", beta) for beta in (0.0, 0.2, 1.0))]
)
"""For what holds whatever a file of the folder computes."""
V = 11
SMALLEST_TAIL = 1e-10
"""Of lists in float64: the reference's own subtraction is good to 1e-6 of it."""


def merged(probs_NV, ids_NK):
    """Probabilities of the listed tokens and of the rest, if there is a rest."""
    listed_NK = probs_NV.gather(-1, ids_NK)
    if ids_NK.shape[-1] == probs_NV.shape[-1]:
        return listed_NK
    return torch.cat([listed_NK, 1.0 - listed_NK.sum(-1, keepdim=True)], -1)


@pytest.fixture(scope="session")
def dense(reference, dense_divergence):
    """The reference's loss and gradients over the buckets that `ids_NK` makes."""

    def run(case, ids_NK, divergence, beta, kl_loss_coef=1.0, entropy_coeff=0.0, temperature=1.0):
        p_NB = merged((case.to(torch.float64).teacher_logits_NV() / temperature).softmax(-1), ids_NK)

        def token_losses(logits_NV):
            q_NV = (logits_NV / temperature).softmax(-1)
            entropy_N = -(q_NV * q_NV.log()).sum(-1)
            value_N = dense_divergence(divergence, beta, merged(q_NV, ids_NK), p_NB)
            return kl_loss_coef * value_N - entropy_coeff * entropy_N

        return reference(case, token_losses)

    return run


def fields_of(divergence, beta, num_topk):
    return {"kind": "topk", "topk_divergence": divergence, "beta": beta, "topk": num_topk}


@EVERY_DIVERGENCE
@pytest.mark.parametrize("num_topk", [1, 2, 5, 10, 11])
def test_loss_and_gradients_are_those_of_the_merged_distributions(
    make_case, ours, dense, assert_same, divergence, beta, num_topk
):
    case = make_case(8, scale=1.5)
    ids_NK = case.teacher_logits_NV().topk(num_topk).indices
    fields = {"temperature": 1.3, "entropy_coeff": 0.2, "kl_loss_coef": 0.7}
    got = ours(case, case.teacher, chunk_size=3, **fields_of(divergence, beta, num_topk), **fields)
    assert_same(got, dense(case, ids_NK, divergence, beta, **fields), 1e-10)


@EVERY_DIVERGENCE
@pytest.mark.parametrize("num_topk", [1, 5, 10])
def test_float32_agrees_to_1e5(make_case, ours, dense, assert_same, divergence, beta, num_topk):
    case = make_case(8, seed=1).to(torch.float32)
    ids_NK = case.teacher_logits_NV().topk(num_topk).indices
    got = ours(case, case.teacher, **fields_of(divergence, beta, num_topk))
    assert_same(got, dense(case, ids_NK, divergence, beta), 1e-5)


@EVERY_DIVERGENCE
def test_gradient_is_the_central_difference_of_the_loss(make_case, ours, divergence, beta):
    case = make_case(3, seed=2)
    fields = fields_of(divergence, beta, 3)
    got = ours(case, case.teacher, **fields)
    step = 1e-5
    for place in range(15):
        losses = []
        for sign in (1, -1):
            moved = case.hidden_NH.clone()
            moved.view(-1)[place] += sign * step
            losses.append(ours(case.replace(hidden_NH=moved), case.teacher, **fields).loss)
        slope = (losses[0] - losses[1]) / (2 * step)
        torch.testing.assert_close(got.grad_hidden_NH.view(-1)[place], slope, rtol=1e-6, atol=1e-8)


@EVERY_DIVERGENCE
@pytest.mark.parametrize("seed", range(3))
def test_the_value_grows_with_k_from_zero_up_to_the_full_divergence(make_case, ours, divergence, beta, seed):
    """Lists of growing K are nested, and merging outcomes never increases these divergences."""
    case = make_case(20, seed, scale=2.0)
    full = ours(case, case.teacher, kind=divergence, beta=beta)
    below_N = torch.zeros(20, dtype=torch.float64)
    for num_topk in range(1, V + 1):
        got = ours(case, case.teacher, **fields_of(divergence, beta, num_topk))
        value_N = got.stats["actor/kl_loss"]
        assert (value_N >= below_N - 1e-12).all()
        assert (value_N <= full.stats["actor/kl_loss"] + 1e-12).all()
        below_N = value_N


@EVERY_FILE
@pytest.mark.parametrize("num_topk", [11, 64])
def test_the_whole_vocabulary_gives_the_full_divergence(
    make_case, ours, assert_same, divergence, beta, num_topk
):
    case = make_case(8)
    full = ours(case, case.teacher, kind=divergence, beta=beta)
    assert_same(ours(case, case.teacher, **fields_of(divergence, beta, num_topk)), full, 1e-12)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_the_gradient_turns_towards_the_full_one_as_k_grows(make_case, ours, divergence):
    case = make_case(30, seed=5, scale=2.0)
    full = ours(case, case.teacher, kind=divergence).grad_hidden_NH.flatten()
    cosines = []
    for num_topk in range(1, V + 1):
        got = ours(case, case.teacher, **fields_of(divergence, 0.5, num_topk)).grad_hidden_NH.flatten()
        cosines.append(torch.cosine_similarity(got, full, dim=0).item())
    assert cosines[0] > 0
    assert cosines[0] < 0.99
    assert cosines[-1] == pytest.approx(1.0, abs=1e-12)
    assert all(after >= before - 1e-3 for before, after in itertools.pairwise(cosines)), cosines


# A teacher elsewhere: its list alone.


@EVERY_FILE
@pytest.mark.parametrize("num_topk", [1, 4, 10])
def test_a_served_list_of_the_most_likely_tokens_does_what_the_teacher_at_hand_does(
    make_case, ours, assert_same, divergence, beta, num_topk
):
    case = make_case(8)
    fields = fields_of(divergence, beta, num_topk)
    got = ours(case, case.served_topk(num_topk), chunk_size=3, **fields)
    expected = ours(case, case.teacher, **fields)
    assert_same(got, expected, 1e-10)
    for name in ("topk/student_mass", "topk/teacher_mass", "topk/overlap", "actor/kl_loss"):
        torch.testing.assert_close(got.stats[name], expected.stats[name], msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_served_list_of_the_whole_vocabulary_gives_the_full_divergence(
    make_case, ours, assert_same, divergence, dtype
):
    case = make_case(8).to(dtype)
    got = ours(case, case.served_topk(V), **fields_of(divergence, 0.5, V))
    assert_same(got, ours(case, case.teacher, kind=divergence), 1e-5)


def test_a_16_bit_student_takes_a_served_list_in_float32(make_case, ours, dense):
    case = make_case(8)
    half = case.replace(hidden_NH=case.hidden_NH.bfloat16(), head_VH=case.head_VH.bfloat16())
    half = half.with_tokens(
        weights_N=case.tokens.weights_N.float(), rollout_logp_N=case.tokens.rollout_logp_N.float()
    )
    served = case.to(torch.float32).served_topk(3)
    got = ours(half, served, **fields_of("forward_kl", 0.5, 3))
    expected = dense(half, served.ids_NK, "forward_kl", 0.5)
    assert got.loss.item() == pytest.approx(expected.loss.item(), rel=0.01)
    error_VH = got.grad_head_VH.double() - expected.grad_head_VH
    assert error_VH.norm() < 0.02 * expected.grad_head_VH.norm()


@EVERY_FILE
def test_places_without_an_id_do_not_count(make_case, ours, assert_same, divergence, beta):
    """Rows of different lengths in one batch, each against its own list alone."""
    case = make_case(4)
    order_NV = case.teacher_logits_NV().topk(V).indices
    lengths = [1, 3, 4, 2]
    ids_NK = torch.full((4, 6), -1)
    for n, length in enumerate(lengths):
        ids_NK[n, 6 - length :] = order_NV[n, :length].flip(0)
    fields = fields_of(divergence, beta, 6)
    got = ours(case, case.served(ids_NK), **fields)
    for n, length in enumerate(lengths):
        weights_N = torch.zeros(4, dtype=torch.float64)
        weights_N[n] = case.tokens.weights_N[n]
        alone = case.with_tokens(weights_N=weights_N)
        expected = ours(alone, case.served(order_NV[:, :length]), **fields)
        torch.testing.assert_close(got.grad_hidden_NH[n], expected.grad_hidden_NH[n])
        for name in ("actor/kl_loss", "kl/reverse", "kl/forward", "topk/student_mass", "topk/teacher_mass"):
            torch.testing.assert_close(got.stats[name][n], expected.stats[name][n], msg=name)


@settings(max_examples=60, deadline=None)
@given(
    listed=st.lists(st.integers(0, V - 1), unique=True, min_size=1, max_size=V - 1),
    divergence=st.sampled_from(DIVERGENCES),
    seed=st.integers(0, 2**31),
    scale=st.floats(0.1, 3.0),
)
def test_any_list_gives_the_merged_divergence(
    make_case, ours, dense, assert_same, listed, divergence, seed, scale
):
    kind, beta = divergence
    case = make_case(3, seed, scale)
    ids_NK = torch.tensor(listed).repeat(3, 1)
    listed_N = case.teacher_logits_NV().softmax(-1).gather(-1, ids_NK).sum(-1)
    assume(bool((1 - listed_N > SMALLEST_TAIL).all()))
    got = ours(case, case.served(ids_NK), **fields_of(kind, beta, len(listed)))
    assert_same(got, dense(case, ids_NK, kind, beta), 1e-5)


@pytest.fixture(scope="session")
def logits_with_tail():
    """Logits [1, V] of a distribution that leaves `tail` to all but its first three tokens."""

    def make(tail):
        p_V = torch.full((1, V), tail / (V - 3), dtype=torch.float64)
        p_V[0, 1:3] = 1e-4
        p_V[0, 0] = 1.0 - 2e-4 - tail
        return p_V.log()

    return make


@EVERY_DIVERGENCE
@pytest.mark.parametrize("tail", [1e-5, 2e-9])
def test_a_list_in_float32_tells_of_a_tail_that_float32_cannot_add_up(
    logit_case, logits_with_tail, ours, dense, assert_same, divergence, beta, tail
):
    student_NV = torch.randn(1, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    case = logit_case(student_NV, logits_with_tail(tail))
    ids_NK = torch.tensor([[0, 1, 2]])
    told = case.served(ids_NK)
    rounded = TopK(told.target_logp_N.float(), ids_NK, told.logp_NK.float())
    got = ours(case.to(torch.float32), rounded, **fields_of(divergence, beta, 3))
    assert_same(got, dense(case, ids_NK, divergence, beta), 1e-3)


def test_a_tail_that_the_servers_float32_hides_is_half_its_epsilon(logit_case, ours):
    """The server's softmax gave its first token all: what the student has elsewhere costs log 2^-24."""
    logits_NV = torch.zeros(1, 4)
    case = logit_case(logits_NV, logits_NV)
    told = TopK(torch.zeros(1), torch.tensor([[0]]), torch.zeros(1, 1))
    got = ours(case, told, **fields_of("reverse_kl", 0.5, 1))
    expected = 0.25 * math.log(0.25) + 0.75 * (math.log(0.75) - math.log(2**-24))
    assert got.loss.item() == pytest.approx(expected, rel=1e-6)


@EVERY_FILE
@pytest.mark.parametrize("excess", [0.0, 1e-7, 1e-6, 1e-4])
def test_a_listed_mass_that_rounding_lifts_to_one_or_above_stays_finite(
    make_case, ours, divergence, beta, excess
):
    case = make_case(3).to(torch.float32)
    ids_NK = torch.tensor([[0, 3, 7]]).repeat(3, 1)
    logp_NK = torch.tensor([[0.5, 0.3, 0.2]]).repeat(3, 1).log() + excess
    got = ours(case, TopK(logp_NK[:, 0], ids_NK, logp_NK), **fields_of(divergence, beta, 3))
    assert torch.isfinite(got.loss)
    assert torch.isfinite(got.grad_hidden_NH).all()
    assert (got.stats["topk/teacher_mass"] - 1).abs().max() < 2e-4
    q_NV = case.logits_NV().double().softmax(-1)
    q_NK, p_NK = q_NV.gather(-1, ids_NK), logp_NK.double().exp()
    if divergence == "forward_kl":
        torch.testing.assert_close(
            got.stats["actor/kl_loss"].double(), (p_NK * (p_NK / q_NK).log()).sum(-1), rtol=1e-4, atol=1e-4
        )


def test_a_certain_teacher_pulls_towards_its_token(make_case, ours):
    """A list of one token with probability 1: the forward KL is the student's surprise."""
    case = make_case(3)
    ids_N1 = torch.tensor([[2], [5], [0]])
    certain = torch.zeros(3, dtype=torch.float64)
    got = ours(case, TopK(certain, ids_N1, certain[:, None]), **fields_of("forward_kl", 0.5, 1))
    surprise_N = -case.logits_NV().log_softmax(-1).gather(-1, ids_N1)[:, 0]
    torch.testing.assert_close(got.stats["actor/kl_loss"], surprise_N, rtol=1e-5, atol=1e-5)
    q_NV = case.logits_NV().softmax(-1)
    slope_NV = case.tokens.weights_N[:, None] * q_NV.scatter_add(-1, ids_N1, -torch.ones_like(q_NV))
    torch.testing.assert_close(got.grad_hidden_NH, slope_NV @ case.head_VH[:V], rtol=1e-5, atol=1e-5)


# The student's own list.


@pytest.mark.parametrize("source", ["dense", "served"])
@pytest.mark.parametrize("num_topk", [1, 4, 11])
def test_student_topk_is_its_formula_by_autograd(make_case, ours, reference, assert_same, source, num_topk):
    temperature = 1.4 if source == "dense" else 1.0
    case = make_case(12, scale=1.5)
    logits_NV = case.logits_NV() / temperature
    ids_NK = logits_NV.topk(num_topk).indices
    target_N = case.tokens.target_ids_N
    log_p = (case.teacher_logits_NV() / temperature).log_softmax(-1)
    inside_N = (ids_NK == target_N[:, None]).any(-1)
    if num_topk == 4:
        assert 0 < inside_N.sum() < 12

    def token_losses(logits):
        log_q = (logits / temperature).log_softmax(-1)
        d = (log_q - log_p).detach()
        exact_N = ((log_q.exp() * d).detach() * log_q).gather(-1, ids_NK).sum(-1)
        sampled_N = torch.where(inside_N, 0.0, (d * log_q).gather(-1, target_N[:, None])[:, 0])
        value_N = (log_q.exp() * d).gather(-1, ids_NK).sum(-1) + torch.where(
            inside_N, 0.0, d.gather(-1, target_N[:, None])[:, 0]
        )
        surrogate_N = exact_N + sampled_N
        return surrogate_N - surrogate_N.detach() + value_N.detach()

    teacher = case.teacher if source == "dense" else case.served(ids_NK)
    got = ours(case, teacher, kind="student_topk", topk=num_topk, temperature=temperature, chunk_size=5)
    assert_same(got, reference(case, token_losses))


def test_student_topk_over_the_whole_vocabulary_is_the_reverse_kl(make_case, ours, assert_same):
    case = make_case(8)
    expected = ours(case, case.teacher, kind="reverse_kl")
    for num_topk in (11, 64):
        assert_same(ours(case, case.teacher, kind="student_topk", topk=num_topk), expected, 1e-12)


def test_student_topk_of_equal_models_is_nothing(make_case, ours):
    case = make_case(8)
    same = case.replace(teacher=type(case.teacher)(case.hidden_NH, case.head_VH))
    got = ours(same, same.teacher, kind="student_topk", topk=3)
    assert got.loss.abs() < 1e-14
    assert got.grad_hidden_NH.abs().max() < 1e-14


# What the lists cover.


@pytest.mark.parametrize("kind", ["topk", "student_topk"])
@pytest.mark.parametrize("num_topk", [1, 4, 11])
def test_coverage_is_mass_and_overlap_of_the_lists(make_case, ours, kind, num_topk):
    case = make_case(15, scale=2.0)
    got = ours(case, case.teacher, kind=kind, topk=num_topk, temperature=1.2, chunk_size=4)
    q_NV, p_NV = (case.logits_NV() / 1.2).softmax(-1), (case.teacher_logits_NV() / 1.2).softmax(-1)
    own = q_NV.argsort(descending=True)[:, :num_topk]
    theirs = p_NV.argsort(descending=True)[:, :num_topk]
    used = theirs if kind == "topk" else own
    for n in range(15):
        shared = len(set(own[n].tolist()) & set(theirs[n].tolist())) / num_topk
        assert got.stats["topk/overlap"][n].item() == pytest.approx(shared)
        assert got.stats["topk/student_mass"][n].item() == pytest.approx(q_NV[n, used[n]].sum().item())
        assert got.stats["topk/teacher_mass"][n].item() == pytest.approx(p_NV[n, used[n]].sum().item())


def test_coverage_of_a_served_list(make_case, ours):
    case = make_case(6)
    served = case.served_topk(3)
    got = ours(case, served, kind="topk")
    q_NV = case.logits_NV().softmax(-1)
    torch.testing.assert_close(got.stats["topk/student_mass"], q_NV.gather(-1, served.ids_NK).sum(-1))
    torch.testing.assert_close(got.stats["topk/teacher_mass"], served.logp_NK.exp().sum(-1))
    own = q_NV.topk(3).indices
    shared_N = torch.tensor(
        [len(set(a) & set(b)) / 3 for a, b in zip(own.tolist(), served.ids_NK.tolist(), strict=True)]
    )
    torch.testing.assert_close(got.stats["topk/overlap"], shared_N.double(), rtol=1e-6, atol=0)
