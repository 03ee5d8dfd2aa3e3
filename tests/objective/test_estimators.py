"""Estimators from the sampled token: verl's formulas by autograd, and where they lead in expectation.

Expectations are exact: every token of the vocabulary stands in the batch once, weighted by its probability.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical

from distillctl.objective.estimators import estimate, k3
from distillctl.objective.inputs import Tokens
from distillctl.objective.teacher_scores import Dense

NAMES = ["kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3"]
ALL_NAMES = NAMES + [name + "+" for name in NAMES]


def verl_value(name, student_logp, teacher_logp):
    """`kl_penalty_forward` of verl (reference, section 3.1)."""
    if name in ("kl", "k1"):
        return student_logp - teacher_logp
    if name == "abs":
        return (student_logp - teacher_logp).abs()
    if name in ("mse", "k2"):
        return 0.5 * (student_logp - teacher_logp).square()
    kl = torch.clamp(teacher_logp - student_logp, min=-20, max=20)
    return torch.clamp(torch.exp(kl) - kl - 1, min=-10, max=10)


def verl_penalty(name, student_logp, teacher_logp):
    """`kl_penalty` of verl: a plus takes the gradient of k2."""
    if not name.endswith("+"):
        return verl_value(name, student_logp, teacher_logp)
    backward = verl_value("k2", student_logp, teacher_logp)
    return backward - backward.detach() + verl_value(name[:-1], student_logp, teacher_logp).detach()


LOG_RATIOS = [-1e4, -60.0, -21.0, -19.0, -5.0, -2.7, -2.5, -1.0, -1e-3, 1e-3, 0.5, 2.0, 9.0, 15.0, 19.0, 60.0]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_value_and_derivative_are_verls(name):
    teacher_logp_N = torch.linspace(-4.0, -0.1, len(LOG_RATIOS), dtype=torch.float64)
    student_logp_N = (teacher_logp_N + torch.tensor(LOG_RATIOS, dtype=torch.float64)).requires_grad_()
    expected_N = verl_penalty(name, student_logp_N, teacher_logp_N)
    (slope_N,) = torch.autograd.grad(expected_N.sum(), student_logp_N)
    value_N, got_N = estimate(name, student_logp_N.detach() - teacher_logp_N)
    torch.testing.assert_close(value_N, expected_N.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(got_N, slope_N, rtol=1e-9, atol=1e-12)


def test_k3_has_no_gradient_where_it_is_clamped_and_its_plus_variant_has():
    """exp(-d) - 1 + d reaches 10 at d = -2.61 (a surer teacher) and at d = 11."""
    d_N = torch.tensor([-1e4, -21.0, -2.62, -2.60, 10.9, 11.1, 21.0, 1e4], dtype=torch.float64)
    value_N, slope_N = estimate("k3", d_N)
    assert (slope_N != 0).tolist() == [False, False, False, True, True, False, False, False]
    assert value_N.tolist() == pytest.approx([10, 10, 10, 9.8637, 9.9000, 10, 10, 10], abs=2e-4)
    plus_value_N, plus_slope_N = estimate("k3+", d_N)
    torch.testing.assert_close(plus_value_N, value_N)
    torch.testing.assert_close(plus_slope_N, d_N)


def test_k3_is_never_negative_and_exact_near_zero():
    d_N = torch.tensor([-1e4, -30.0, -1.0, -1e-4, 0.0, 1e-4, 1.0, 30.0, 1e4])
    value_N = k3(d_N)
    assert torch.isfinite(value_N).all()
    assert (value_N >= 0).all()
    assert value_N[4] == 0
    small_N = torch.tensor([-1e-2, 1e-2])
    torch.testing.assert_close(k3(small_N), small_N.square() / 2 - small_N**3 / 6, rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("name", ALL_NAMES)
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_loss_and_gradients_are_those_of_dense_autograd(
    make_case, ours, reference, assert_same, name, temperature
):
    case = make_case(9, scale=2.0)
    fields = {"kl_loss_coef": 0.8, "entropy_coeff": 0.1, "temperature": temperature}
    got = ours(case, case.teacher, kind="sampled", estimator=name, chunk_size=4, **fields)
    target_N1 = case.tokens.target_ids_N[:, None]
    logp_N = (case.teacher_logits_NV() / temperature).log_softmax(-1).gather(-1, target_N1)[:, 0]

    def token_losses(logits_NV):
        student = Categorical(logits=logits_NV / temperature)
        penalty_N = verl_penalty(name, student.log_prob(target_N1[:, 0]), logp_N)
        return 0.8 * penalty_N - 0.1 * student.entropy()

    assert_same(got, reference(case, token_losses))
    if temperature == 1.0:
        served = case.served(torch.empty(9, 0, dtype=torch.int64))
        assert_same(ours(case, served, kind="sampled", estimator=name, **fields), got, 1e-13)


@pytest.mark.parametrize("name", ["abs", "k2", "k3"])
def test_gradient_is_the_central_difference_of_the_loss(make_case, ours, name):
    case = make_case(3, seed=2)
    fields = {"kind": "sampled", "estimator": name, "temperature": 0.8}
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


# Exact expectations.


def enumerate_tokens(case, teacher_hidden_NG=None):
    """Every token of the vocabulary after the first position of `case`, weighted by the student's probability
    and sampled by it; and the same position once, as the target of exact divergences."""
    vocab_size = case.vocab_size
    one = case.replace(
        hidden_NH=case.hidden_NH[:1],
        teacher=Dense(case.teacher.hidden_NG[:1], case.teacher.head_VG),
        tokens=Tokens(*(torch.ones(1, dtype=dtype) for dtype in (torch.int64, torch.float64, torch.float64))),
    )
    log_q_V = one.logits_NV()[0].log_softmax(-1)
    every = one.replace(
        hidden_NH=one.hidden_NH.repeat(vocab_size, 1),
        teacher=Dense(one.teacher.hidden_NG.repeat(vocab_size, 1), one.teacher.head_VG),
        tokens=Tokens(torch.arange(vocab_size), log_q_V.exp(), log_q_V),
    )
    return one, every


def expected(result):
    """The expectation of a weighted batch of equal positions: gradients of all rows act on one."""
    return result._replace(grad_hidden_NH=result.grad_hidden_NH.sum(0, keepdim=True))


@pytest.fixture(scope="session")
def exact(reference):
    """Reverse and forward KL of one position with gradients."""

    def run(one):
        log_p = one.teacher_logits_NV().log_softmax(-1)
        return (
            reference(
                one, lambda z: F.kl_div(log_p, z.log_softmax(-1), reduction="none", log_target=True).sum(-1)
            ),
            reference(
                one, lambda z: F.kl_div(z.log_softmax(-1), log_p, reduction="none", log_target=True).sum(-1)
            ),
        )

    return run


def gradient(result):
    return torch.cat([result.grad_hidden_NH.flatten(), result.grad_head_VH.flatten()])


SEEDS = pytest.mark.parametrize("seed", range(4))


@SEEDS
@pytest.mark.parametrize("name", ["k1", "kl"])
def test_k1_trains_nothing(make_case, ours, name, seed):
    _, every = enumerate_tokens(make_case(1, seed))
    got = expected(ours(every, every.teacher, kind="sampled", estimator=name))
    assert gradient(got).abs().max() < 1e-13
    assert got.loss > 0.1


@SEEDS
@pytest.mark.parametrize("name", ["k2", "mse", *(name + "+" for name in NAMES)])
def test_k2_and_every_plus_variant_lead_down_the_reverse_kl(make_case, ours, exact, name, seed):
    one, every = enumerate_tokens(make_case(1, seed))
    got = expected(ours(every, every.teacher, kind="sampled", estimator=name, chunk_size=4))
    reverse, _ = exact(one)
    torch.testing.assert_close(gradient(got), gradient(reverse), rtol=1e-10, atol=1e-12)


@SEEDS
@pytest.mark.parametrize("name", ["k3", "low_var_kl"])
def test_k3_leads_down_the_forward_kl(make_case, ours, exact, name, seed):
    one, every = enumerate_tokens(make_case(1, seed, scale=0.5))
    got = expected(ours(every, every.teacher, kind="sampled", estimator=name))
    assert got.stats["actor/kl_loss"].max() < 9, "the clamp must not act here"
    reverse, forward = exact(one)
    torch.testing.assert_close(gradient(got), gradient(forward), rtol=1e-10, atol=1e-12)
    assert (gradient(got) - gradient(reverse)).norm() > 0.01 * gradient(reverse).norm()


@SEEDS
def test_abs_leads_down_neither(make_case, ours, reference, exact, seed):
    one, every = enumerate_tokens(make_case(1, seed))
    got = expected(ours(every, every.teacher, kind="sampled", estimator="abs"))
    log_q, log_p = one.logits_NV().log_softmax(-1), one.teacher_logits_NV().log_softmax(-1)
    pull = log_q.exp() * (log_q - log_p).sign()
    wanted = reference(one, lambda z: (pull * z.log_softmax(-1)).sum(-1))
    torch.testing.assert_close(gradient(got), gradient(wanted), rtol=1e-10, atol=1e-12)
    for direction in map(gradient, exact(one)):
        assert torch.cosine_similarity(gradient(got), direction, dim=0) < 0.99


@SEEDS
def test_the_policy_gradient_leads_down_the_reverse_kl(make_case, ours, exact, seed):
    one, every = enumerate_tokens(make_case(1, seed))
    fields = {"kind": "sampled", "estimator": "k1", "policy_gradient": True}
    got = expected(ours(every, every.teacher, **fields))
    reverse, _ = exact(one)
    torch.testing.assert_close(gradient(got), gradient(reverse), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got.loss, reverse.loss)
    assert (got.stats["actor/pg_clipfrac"] == 0).all()


@SEEDS
@pytest.mark.parametrize("num_topk", range(1, 12))
def test_student_topk_leads_down_the_reverse_kl_for_every_k(make_case, ours, exact, num_topk, seed):
    one, every = enumerate_tokens(make_case(1, seed, scale=2.0))
    assert one.vocab_size == 11
    got = expected(ours(every, every.teacher, kind="student_topk", topk=num_topk, chunk_size=3))
    reverse, _ = exact(one)
    torch.testing.assert_close(gradient(got), gradient(reverse), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got.loss, reverse.loss, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    listed=st.lists(st.integers(0, 10), unique=True, max_size=11),
    num_missing=st.integers(0, 3),
    seed=st.integers(0, 2**31),
    order=st.randoms(use_true_random=False),
)
def test_student_topk_leads_down_the_reverse_kl_for_any_list(
    make_case, ours, exact, listed, num_missing, seed, order
):
    one, every = enumerate_tokens(make_case(1, seed))
    ids = listed + [-1] * num_missing
    order.shuffle(ids)
    served = every.served(torch.tensor(ids, dtype=torch.int64).repeat(11, 1))
    got = expected(ours(every, served, kind="student_topk", chunk_size=5))
    reverse, _ = exact(one)
    torch.testing.assert_close(gradient(got), gradient(reverse), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(got.loss, reverse.loss, rtol=1e-10, atol=1e-12)


@SEEDS
def test_student_topk_has_less_variance_than_the_sampled_token_alone(make_case, ours, seed):
    """The variance of the gradient with respect to the logits falls to none at K = V."""
    _, every = enumerate_tokens(make_case(1, seed))
    probs_V1 = every.tokens.weights_N[:, None]
    variances = []
    for num_topk in (1, 4, 8, 11):
        grad_NH = ours(every, every.teacher, kind="student_topk", topk=num_topk).grad_hidden_NH / probs_V1
        mean_1H = (probs_V1 * grad_NH).sum(0, keepdim=True)
        variances.append((probs_V1 * (grad_NH - mean_1H).square()).sum().item())
    sampled_NH = ours(every, every.teacher, kind="sampled", estimator="k2").grad_hidden_NH / probs_V1
    mean_1H = (probs_V1 * sampled_NH).sum(0, keepdim=True)
    sampled = (probs_V1 * (sampled_NH - mean_1H).square()).sum().item()
    assert variances[-1] < 1e-20
    assert variances[1] < sampled
    assert variances[2] < sampled


@SEEDS
@pytest.mark.parametrize("name", ["k1", "k3", "k1+", "k3+"])
def test_the_mean_value_of_k1_and_k3_is_the_reverse_kl(make_case, ours, exact, name, seed):
    one, every = enumerate_tokens(make_case(1, seed, scale=0.5))
    got = ours(every, every.teacher, kind="sampled", estimator=name)
    reverse, _ = exact(one)
    torch.testing.assert_close(got.loss, reverse.loss, rtol=1e-12, atol=1e-14)


@SEEDS
@pytest.mark.parametrize("name", ["k2", "k2+"])
def test_the_mean_value_of_k2_is_not(make_case, ours, exact, name, seed):
    one, every = enumerate_tokens(make_case(1, seed))
    got = ours(every, every.teacher, kind="sampled", estimator=name)
    reverse, _ = exact(one)
    d_V = one.logits_NV()[0].log_softmax(-1) - one.teacher_logits_NV()[0].log_softmax(-1)
    torch.testing.assert_close(got.loss, (every.tokens.weights_N * d_V.square() / 2).sum())
    assert (got.loss - reverse.loss).abs() > 0.01 * reverse.loss


@SEEDS
def test_the_metrics_k1_and_k3_average_to_the_exact_divergence(make_case, ours, exact, seed):
    one, every = enumerate_tokens(make_case(1, seed))
    got = ours(every, every.teacher, kind="reverse_kl")
    reverse, _ = exact(one)
    probs_V = every.tokens.weights_N
    for name in ("kl/k1", "kl/k3"):
        torch.testing.assert_close((probs_V * got.stats[name]).sum(), reverse.loss)
    torch.testing.assert_close(got.stats["kl/reverse"], reverse.loss.expand(11))
