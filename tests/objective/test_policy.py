"""The clipped policy gradient against PPO's formula by autograd, alone and inside the loss."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.objective.policy import clipped_surrogate

CLIP = 0.2


def ppo(log_ratio_N, advantages_N, clip_ratio):
    """The pessimistic bound of Schulman et al. 2017, equation 7, as a loss."""
    ratio_N = log_ratio_N.exp()
    clipped_N = torch.clamp(ratio_N, 1.0 - clip_ratio, 1.0 + clip_ratio)
    return -torch.min(ratio_N * advantages_N, clipped_N * advantages_N)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.floats(-3.0, 3.0), st.floats(0.001, 5.0) | st.floats(-5.0, -0.001)),
        min_size=1,
        max_size=8,
    ),
    clip_ratio=st.floats(0.01, 0.99),
)
def test_value_and_slope_are_ppos(rows, clip_ratio):
    log_ratio_N, advantages_N = torch.tensor(rows, dtype=torch.float64).T
    leaf_N = log_ratio_N.clone().requires_grad_()
    expected_N = ppo(leaf_N, advantages_N, clip_ratio)
    (slope_N,) = torch.autograd.grad(expected_N.sum(), leaf_N)
    got = clipped_surrogate(log_ratio_N, advantages_N, clip_ratio)
    torch.testing.assert_close(got.value_C, expected_N.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.slope_C, slope_N, rtol=1e-12, atol=1e-12)
    assert ((got.clipped_C == 1) == (slope_N == 0)).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0.0),
        (1.0, -2.0, 2.0, 2.0, 0.0),
        (1.1, 2.0, -2.2, -2.2, 0.0),
        (0.9, -2.0, 1.8, 1.8, 0.0),
        (1.5, 2.0, -2.4, 0.0, 1.0),  # likely enough already: no more of it
        (0.5, -2.0, 1.6, 0.0, 1.0),  # unlikely enough already: no less of it
        (0.5, 2.0, -1.0, -1.0, 0.0),  # moved the wrong way: the gradient stays
        (1.5, -2.0, 3.0, 3.0, 0.0),
        (1.5, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_each_case_of_sign_and_side(ratio, advantage, value, slope, clipped):
    got = clipped_surrogate(
        torch.tensor([math.log(ratio)]).double(), torch.tensor([advantage]).double(), CLIP
    )
    assert got.value_C.item() == pytest.approx(value)
    assert got.slope_C.item() == pytest.approx(slope)
    assert got.clipped_C.item() == clipped


@pytest.mark.parametrize("advantage", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("log_ratio", [-math.inf, -1e4, -100.0, 100.0, 1e4, math.inf])
def test_huge_ratios_are_finite(log_ratio, advantage):
    got = clipped_surrogate(torch.tensor([log_ratio]), torch.tensor([advantage]), CLIP)
    assert all(torch.isfinite(part).all() for part in got)
    if advantage * log_ratio > 0:
        assert got.slope_C.item() == 0
        assert got.value_C.item() == pytest.approx(-advantage * (1 + math.copysign(CLIP, log_ratio)))


def near(case, spread, seed=0):
    """The case with log-probabilities of sampling within `spread` of the student's own."""
    logq_N = case.logits_NV().log_softmax(-1).gather(-1, case.tokens.target_ids_N[:, None])[:, 0]
    noise_N = torch.rand(len(logq_N), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return case.with_tokens(rollout_logp_N=logq_N - spread * (2 * noise_N - 1))


@pytest.mark.parametrize("max_clamp", [None, 0.7])
@pytest.mark.parametrize("clip_ratio", [0.1, 0.3])
def test_distillation_by_policy_gradient_is_ppo_with_its_advantage(
    make_case, ours, reference, assert_same, clip_ratio, max_clamp
):
    case = near(make_case(40, scale=1.5), 0.5)
    target_N1 = case.tokens.target_ids_N[:, None]
    log_p = case.teacher_logits_NV().log_softmax(-1)
    advantages_N = (log_p - case.logits_NV().log_softmax(-1)).gather(-1, target_N1)[:, 0]
    if max_clamp is not None:
        assert (advantages_N.abs() > max_clamp).any()
        advantages_N = advantages_N.clamp(-max_clamp, max_clamp)

    def token_losses(logits):
        logq_N = logits.log_softmax(-1).gather(-1, target_N1)[:, 0]
        return 0.6 * ppo(logq_N - case.tokens.rollout_logp_N, advantages_N, clip_ratio)

    expected = reference(case, token_losses)
    fields = {
        "kind": "sampled", "estimator": "k1", "policy_gradient": True, "clip_ratio": clip_ratio,
        "max_clamp": max_clamp, "kl_loss_coef": 0.6,
    }  # fmt: skip
    for teacher in (case.teacher, case.served_topk(2)):
        got = ours(case, teacher, chunk_size=7, **fields)
        assert_same(got, expected)
        ratio_N = (
            case.logits_NV().log_softmax(-1).gather(-1, target_N1)[:, 0] - case.tokens.rollout_logp_N
        ).exp()
        beyond_N = ((ratio_N > 1 + clip_ratio) & (advantages_N > 0)) | (
            (ratio_N < 1 - clip_ratio) & (advantages_N < 0)
        )
        assert 0 < beyond_N.sum() < 40
        assert (got.stats["actor/pg_clipfrac"] == beyond_N).all()


@pytest.mark.parametrize("kind", ["reverse_kl", "topk", "sampled"])
def test_a_task_reward_adds_ppos_surrogate_to_the_divergence(make_case, ours, reference, assert_same, kind):
    case = near(make_case(30, seed=3), 0.5)
    advantages_N = torch.randn(30, generator=torch.Generator().manual_seed(6)).double()
    target_N1 = case.tokens.target_ids_N[:, None]
    temperature = 1.0
    fields = {"kind": kind, "topk": 11, "topk_divergence": "reverse_kl", "estimator": "k2"}
    log_p = case.teacher_logits_NV().log_softmax(-1)

    def parts(logits):
        log_q = (logits / temperature).log_softmax(-1)
        logq_N = log_q.gather(-1, target_N1)[:, 0]
        if kind == "sampled":
            divergence_N = (logq_N - log_p.gather(-1, target_N1)[:, 0]).square() / 2
        else:
            divergence_N = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
        entropy_N = -(log_q.exp() * log_q).sum(-1)
        return divergence_N, entropy_N, ppo(logq_N - case.tokens.rollout_logp_N, advantages_N, 0.25)

    def token_losses(logits):
        divergence_N, entropy_N, surrogate_N = parts(logits)
        return 0.5 * divergence_N - 0.1 * entropy_N + surrogate_N

    rewarded = case.with_tokens(advantages_N=advantages_N)
    got = ours(
        rewarded, case.teacher, kl_loss_coef=0.5, entropy_coeff=0.1, clip_ratio=0.25, chunk_size=7, **fields
    )
    assert_same(got, reference(rewarded, token_losses))
    divergence_N, _, surrogate_N = parts(case.logits_NV())
    torch.testing.assert_close(got.stats["actor/kl_loss"], divergence_N)
    torch.testing.assert_close(got.stats["actor/pg_loss"], surrogate_N)
    assert 0 < got.stats["actor/pg_clipfrac"].sum() < 30


@pytest.mark.parametrize(("temperature", "rollout_temperature"), [(1.0, 0.6), (1.0, 1.7), (0.8, 1.0)])
def test_the_rewards_policy_is_the_one_that_sampled(
    make_case, ours, reference, assert_same, temperature, rollout_temperature
):
    """PPO of softmax(logits / rollout temperature) beside a divergence at the loss's own temperature."""
    case = make_case(30, seed=9)
    target_N1 = case.tokens.target_ids_N[:, None]
    advantages_N = torch.randn(30, generator=torch.Generator().manual_seed(6)).double()

    def sampling_logp(logits):
        return (logits / rollout_temperature).log_softmax(-1).gather(-1, target_N1)[:, 0]

    noise_N = torch.linspace(-0.4, 0.4, 30, dtype=torch.float64)
    case = case.with_tokens(
        rollout_logp_N=sampling_logp(case.logits_NV()) + noise_N, advantages_N=advantages_N
    )
    log_p = (case.teacher_logits_NV() / temperature).log_softmax(-1)

    def token_losses(logits):
        log_q = (logits / temperature).log_softmax(-1)
        surrogate_N = ppo(sampling_logp(logits) - case.tokens.rollout_logp_N, advantages_N, CLIP)
        return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1) + surrogate_N

    fields = {"temperature": temperature, "rollout_temperature": rollout_temperature, "clip_ratio": CLIP}
    got = ours(case, case.teacher, chunk_size=7, **fields)
    assert_same(got, reference(case, token_losses))
    assert 0 < got.stats["actor/pg_clipfrac"].sum() < 30


@pytest.mark.parametrize("rollout_temperature", [1.0, 0.6])
def test_the_gradient_of_a_reward_is_its_central_difference(
    make_case, ours, central_difference, rollout_temperature
):
    """The advantages are constants, so the loss is one function of the student."""
    advantages_N = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    case = near(make_case(3, seed=4), 0.05).with_tokens(advantages_N=advantages_N)
    fields = {"kl_loss_coef": 0.3, "rollout_temperature": rollout_temperature, "clip_ratio": 0.9}
    central_difference(case, lambda moved: ours(moved, moved.teacher, **fields))


def test_the_gradient_of_distillation_by_policy_gradient_is_the_central_difference_of_ppo(
    make_case, ours, central_difference
):
    """With the advantages held where they are, by the task reward's own code for other advantages."""
    case = near(make_case(3, seed=4), 0.05)
    target_N1 = case.tokens.target_ids_N[:, None]
    log_q, log_p = (x.log_softmax(-1).gather(-1, target_N1)[:, 0] for x in
                    (case.logits_NV(), case.teacher_logits_NV()))  # fmt: skip
    distilled = {"kind": "sampled", "estimator": "k1", "policy_gradient": True}

    def fixed_advantages(moved):
        logq_N = moved.logits_NV().log_softmax(-1).gather(-1, target_N1)[:, 0]
        loss_N = ppo(logq_N - case.tokens.rollout_logp_N, log_p - log_q, CLIP)
        return (case.tokens.weights_N * loss_N).sum()

    got = ours(case, case.teacher, **distilled)
    central_difference(case, lambda moved: got._replace(loss=fixed_advantages(moved)))


def test_the_divergences_bound_leaves_the_reward_alone(make_case, ours):
    case = near(make_case(10, scale=2.0), 0.1).with_tokens(advantages_N=torch.ones(10, dtype=torch.float64))
    got = ours(case, case.teacher, kind="reverse_kl", max_clamp=1e-6)
    only = ours(case, case.teacher, kind="reverse_kl", kl_loss_coef=0.0)
    torch.testing.assert_close(got.grad_head_VH, only.grad_head_VH)
    assert only.grad_head_VH.abs().max() > 0.1


def test_a_zero_advantage_is_no_reward(make_case, ours, assert_same):
    case = make_case(6)
    got = ours(case.with_tokens(advantages_N=torch.zeros(6, dtype=torch.float64)), case.teacher)
    assert_same(got, ours(case, case.teacher), 1e-14)


def test_the_expected_reward_gradient_is_the_policy_gradient(make_case, ours, reference, assert_same):
    """Enumerating the sampled token: the gradient of -sum_y q(y) A(y), for any advantages A."""
    case = make_case(11)
    case = case.replace(hidden_NH=case.hidden_NH[:1].repeat(11, 1))
    log_q_V = case.logits_NV()[0].log_softmax(-1)
    advantages_V = torch.linspace(-2.0, 1.0, 11, dtype=torch.float64)
    case = case.with_tokens(
        target_ids_N=torch.arange(11),
        weights_N=log_q_V.exp(),
        rollout_logp_N=log_q_V,
        advantages_N=advantages_V,
    )
    got = ours(case, case.teacher, kl_loss_coef=0.0)
    once = case.replace(hidden_NH=case.hidden_NH[:1]).with_tokens(
        weights_N=torch.ones(1, dtype=torch.float64)
    )
    expected = reference(once, lambda logits: -(logits.softmax(-1) * advantages_V).sum(-1))
    assert_same(got._replace(grad_hidden_NH=got.grad_hidden_NH.sum(0, keepdim=True)), expected, 1e-11)


# The bound on the divergence of one token (`max_clamp`).


BOUNDED = {name: {"kind": name} for name in ("reverse_kl", "forward_kl", "jsd")}
BOUNDED |= {name: {"kind": name, "topk": 3} for name in ("topk", "student_topk")}
BOUNDED |= {name: {"kind": "sampled", "estimator": name} for name in ("k1", "abs", "k2", "k3", "k3+")}


@pytest.mark.parametrize("fields", BOUNDED.values(), ids=BOUNDED.keys())
def test_beyond_its_bound_a_token_keeps_the_bound_and_has_no_gradient(make_case, ours, fields):
    case = make_case(30, seed=7, scale=2.0)
    free = ours(case, case.teacher, **fields)
    value_N = free.stats["actor/kl_loss"]
    bound = value_N.abs().median().item() * 1.001
    got = ours(case, case.teacher, max_clamp=bound, **fields)
    torch.testing.assert_close(got.stats["actor/kl_loss"], value_N.clamp(-bound, bound))
    outside_N = value_N.abs() > bound
    assert 0 < outside_N.sum() < 30
    assert (got.grad_hidden_NH[outside_N] == 0).all()
    torch.testing.assert_close(got.grad_hidden_NH[~outside_N], free.grad_hidden_NH[~outside_N])
    for name, row_N in free.stats.items():
        if name not in ("actor/loss", "actor/kl_loss"):
            torch.testing.assert_close(got.stats[name], row_N, msg=name)


@pytest.mark.parametrize(
    ("kind", "max_clamp"), list(itertools.product(["reverse_kl", "k1", "k2"], [0.05, 0.5, 100.0]))
)
def test_the_bound_is_torchs_clamp_before_the_coefficient(
    make_case, ours, reference, assert_same, kind, max_clamp
):
    case = make_case(30, seed=7)
    target_N1 = case.tokens.target_ids_N[:, None]
    log_p = case.teacher_logits_NV().log_softmax(-1)

    def token_losses(logits):
        d_NV = logits.log_softmax(-1) - log_p
        d_N = d_NV.gather(-1, target_N1)[:, 0]
        value_N = {"reverse_kl": (logits.softmax(-1) * d_NV).sum(-1), "k1": d_N, "k2": d_N.square() / 2}[kind]
        entropy_N = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
        return 3.0 * value_N.clamp(-max_clamp, max_clamp) - 0.2 * entropy_N

    fields = {"kind": kind} if kind == "reverse_kl" else {"kind": "sampled", "estimator": kind}
    got = ours(
        case, case.teacher, max_clamp=max_clamp, kl_loss_coef=3.0, entropy_coeff=0.2, chunk_size=7, **fields
    )
    assert_same(got, reference(case, token_losses))
