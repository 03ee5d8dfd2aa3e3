"""The metrics of each token against torch.distributions, and what a served list leaves of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

V = 11


def models(case, temperature=1.0):
    case = case.to(torch.float64)
    return (
        Categorical(logits=case.logits_NV() / temperature),
        Categorical(logits=case.teacher_logits_NV() / temperature),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd", "topk", "student_topk", "sampled"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_objective_reports_the_exact_metrics(make_case, ours, kind, temperature, dtype):
    case = make_case(12, scale=2.0).to(dtype)
    got = ours(case, case.teacher, kind=kind, topk=2, temperature=temperature, chunk_size=5).stats
    student, teacher = models(case, temperature)
    d_N = student.log_prob(case.tokens.target_ids_N) - teacher.log_prob(case.tokens.target_ids_N)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for name, expected_N in {
        "kl/reverse": kl_divergence(student, teacher),
        "kl/forward": kl_divergence(teacher, student),
        "actor/entropy": student.entropy(),
        "teacher/entropy": teacher.entropy(),
        "kl/k1": d_N,
        "kl/k3": torch.exp(-d_N) - 1 + d_N,
    }.items():
        assert got[name].dtype == dtype
        torch.testing.assert_close(got[name].double(), expected_N, msg=name, **tolerance)


def test_statistics_are_of_tokens_not_of_the_batch(make_case, ours):
    case = make_case(8)
    heavy = case.with_tokens(weights_N=torch.full((8,), 100.0, dtype=torch.float64))
    expected = ours(case, case.teacher).stats
    for name, row_N in ours(heavy, case.teacher, kl_loss_coef=1.0).stats.items():
        torch.testing.assert_close(row_N, expected[name], msg=name)


def test_the_loss_row_has_coefficients_and_the_kl_row_has_not(make_case, ours):
    case = make_case(8)
    got = ours(case, case.teacher, kl_loss_coef=0.3, entropy_coeff=0.2).stats
    student, teacher = models(case)
    kl_N = kl_divergence(student, teacher)
    torch.testing.assert_close(got["actor/kl_loss"], kl_N)
    torch.testing.assert_close(got["actor/loss"], 0.3 * kl_N - 0.2 * student.entropy())


@pytest.mark.parametrize(
    ("temperature", "rollout_temperature"), [(1.0, 1.0), (1.0, 0.6), (0.8, 1.5), (2.0, 2.0)]
)
def test_mismatch_is_k3_of_the_engines_log_probability_at_its_own_temperature(
    make_case, ours, temperature, rollout_temperature
):
    case = make_case(10, scale=2.0)
    fields = {"temperature": temperature, "rollout_temperature": rollout_temperature}
    sampling = Categorical(logits=case.logits_NV() / rollout_temperature)
    d_N = case.tokens.rollout_logp_N - sampling.log_prob(case.tokens.target_ids_N)
    for teacher in (case.teacher, case.served_topk(3)):
        got = ours(case, teacher, kind="topk", chunk_size=4, **fields).stats["rollout/mismatch_kl"]
        torch.testing.assert_close(got, torch.exp(-d_N) - 1 + d_N)


def test_mismatch_of_an_engine_that_agrees_is_zero(make_case, ours):
    case = make_case(10)
    logp_N = Categorical(logits=case.logits_NV() / 0.9).log_prob(case.tokens.target_ids_N)
    case = case.with_tokens(rollout_logp_N=logp_N)
    got = ours(case, case.teacher, temperature=1.0, rollout_temperature=0.9).stats["rollout/mismatch_kl"]
    assert got.abs().max() < 1e-14


def test_mismatch_averages_to_the_divergence_of_the_engine_from_the_student(make_case, ours):
    """Every token once, weighted by the engine's probability: the mean is KL(engine || student)."""
    case = make_case(V)
    case = case.replace(hidden_NH=case.hidden_NH[:1].repeat(V, 1))
    engine = Categorical(logits=case.logits_NV()[0] + 0.3 * torch.arange(V).double().sin())
    every = case.with_tokens(target_ids_N=torch.arange(V), rollout_logp_N=engine.logits)
    got = ours(every, case.teacher).stats["rollout/mismatch_kl"]
    expected = kl_divergence(engine, Categorical(logits=case.logits_NV()[0]))
    torch.testing.assert_close((engine.probs * got).sum(), expected)


# A teacher elsewhere.


def merged(probs_NV, buckets):
    """Probabilities of lists of tokens, per row."""
    rows = zip(probs_NV, buckets, strict=True)
    return [[row_V[ids].sum() for ids in lists] for row_V, lists in rows]


def bucket_divergence(a, b):
    return torch.stack(
        [
            sum(x * (x.log() - y.log()) for x, y in zip(row_a, row_b, strict=True))
            for row_a, row_b in zip(a, b, strict=True)
        ]
    )


@pytest.mark.parametrize("num_topk", [0, 1, 3, 8])
@pytest.mark.parametrize("kind", ["sampled", "student_topk", "topk"])
def test_a_list_gives_the_divergences_of_sampled_listed_and_other_tokens(make_case, ours, kind, num_topk):
    if kind == "topk" and num_topk == 0:
        num_topk = 2
    case = make_case(12, scale=1.5)
    served = case.served_topk(num_topk)
    buckets = []
    for target, ids in zip(case.tokens.target_ids_N.tolist(), served.ids_NK.tolist(), strict=True):
        known = sorted({target, *ids})
        buckets.append([[token] for token in known] + [[t for t in range(V) if t not in known]])
    student, teacher = models(case)
    q, p = merged(student.probs, buckets), merged(teacher.probs, buckets)
    got = ours(case, served, kind=kind, chunk_size=5).stats
    torch.testing.assert_close(got["kl/reverse"], bucket_divergence(q, p))
    torch.testing.assert_close(got["kl/forward"], bucket_divergence(p, q))
    torch.testing.assert_close(got["actor/entropy"], student.entropy())
    d_N = student.log_prob(case.tokens.target_ids_N) - teacher.log_prob(case.tokens.target_ids_N)
    torch.testing.assert_close(got["kl/k1"], d_N)
    torch.testing.assert_close(got["kl/k3"], torch.exp(-d_N) - 1 + d_N)
    entropy_N = torch.stack([-sum(x * x.log() for x in row) for row in p])
    torch.testing.assert_close(got["teacher/entropy"], entropy_N)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 4.0))
def test_longer_lists_bound_the_exact_divergences_more_tightly(make_case, ours, seed, scale):
    case = make_case(5, seed, scale)
    student, teacher = models(case)
    exact = {"kl/reverse": kl_divergence(student, teacher), "kl/forward": kl_divergence(teacher, student)}
    below = dict.fromkeys(exact, torch.zeros(5, dtype=torch.float64))
    for num_topk in range(V - 1):
        served = case.served_topk(num_topk)
        got = ours(case, served, kind="sampled").stats
        known_NV = torch.zeros(5, V).scatter_(-1, served.ids_NK, 1.0)
        known_NV.scatter_(-1, case.tokens.target_ids_N[:, None], 1.0)
        # What a list leaves is the difference of two numbers near 1: below this it is mostly their rounding.
        told_N = (teacher.probs * (known_NV == 0)).sum(-1) > 1e-10
        for name, expected_N in exact.items():
            assert (got[name] <= expected_N + 1e-6)[told_N].all(), (name, num_topk)
            assert (got[name] >= below[name] - 1e-6)[told_N].all(), (name, num_topk)
            assert (got[name] >= -1e-6).all()
            below[name] = got[name]


def test_a_listed_target_is_counted_once(make_case, ours):
    case = make_case(6)
    with_it = torch.cat([case.tokens.target_ids_N[:, None], (case.tokens.target_ids_N[:, None] + 1) % V], -1)
    without_it = with_it.index_fill(-1, torch.tensor([0]), -1)[:, [1, 0]]
    expected = ours(case, case.served(without_it), kind="sampled").stats
    for name, row_N in ours(case, case.served(with_it), kind="sampled").stats.items():
        torch.testing.assert_close(row_N, expected[name], msg=name)
