"""The chunked objective against dense float64 autograd and independent formulas."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.objective.estimators import k3, token_sums
from distillctl.objective.reverse_kl import Objective, TokenStats, reverse_kl_loss

H, G, V, PADDED, TEACHER_PADDED = 5, 7, 11, 13, 17


def make(num_tokens, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    targets = torch.randint(0, V, (num_tokens,), generator=generator)
    return (
        normal(num_tokens, H), normal(PADDED, H), normal(num_tokens, G), normal(TEACHER_PADDED, G), targets
    )  # fmt: skip


def dense(hidden, head, teacher_hidden, teacher_head, objective):
    """Loss straight from the definition, float64, whole logits, torch's own distributions."""
    student = torch.distributions.Categorical(logits=hidden @ head[:V].T / objective.temperature)
    teacher = torch.distributions.Categorical(
        logits=teacher_hidden @ teacher_head[:V].T / objective.temperature
    )
    kl = torch.distributions.kl_divergence(student, teacher)
    return objective.kl_loss_coef * kl.sum() - objective.entropy_coeff * student.entropy().sum()


def both(num_tokens, objective, seed=0, scale=1.0):
    tensors = make(num_tokens, seed, scale)
    exact = [t.clone().requires_grad_() for t in tensors[:2]]
    reference = dense(*exact, *tensors[2:4], objective)
    reference.backward()
    single = [t.float() for t in tensors[:4]]
    ours = [t.clone().requires_grad_() for t in single[:2]]
    loss, stats = reverse_kl_loss(*ours, *single[2:], tensors[4], objective)
    loss.backward()
    return (reference, exact), (loss, ours), stats, tensors


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize(("temperature", "entropy_coeff", "coef"), [(1, 0, 1), (0.7, 0.1, 2), (3, 0.5, 0)])
def test_loss_and_gradients_match_dense_autograd(chunk_size, temperature, entropy_coeff, coef):
    objective = Objective(coef, entropy_coeff, temperature, chunk_size, V)
    (reference, exact), (loss, ours), _, _ = both(7, objective)
    torch.testing.assert_close(loss.double(), reference, rtol=1e-5, atol=1e-5)
    for got, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(got.grad.double(), expected.grad, rtol=1e-4, atol=1e-5)


def test_gradient_matches_finite_differences():
    objective = Objective(1.0, 0.2, 0.9, 2, V)
    hidden, head, teacher_hidden, teacher_head, targets = make(3)
    ours = hidden.float().requires_grad_()
    loss, _ = reverse_kl_loss(
        ours, head.float(), teacher_hidden.float(), teacher_head.float(), targets, objective
    )
    loss.backward()
    step = 1e-6
    for row, column in itertools.product(range(3), range(H)):
        moved = hidden.clone()
        moved[row, column] += step
        back = hidden.clone()
        back[row, column] -= step
        slope = (
            dense(moved, head, teacher_hidden, teacher_head, objective)
            - dense(back, head, teacher_hidden, teacher_head, objective)
        ) / (2 * step)
        assert ours.grad[row, column].item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-4)


def test_padding_rows_of_the_head_get_no_gradient():
    _, (_, (_, head)), _, _ = both(4, Objective(1.0, 0.1, 1.0, 2, V))
    assert torch.all(head.grad[V:] == 0)
    assert torch.any(head.grad[:V] != 0)


def test_the_same_model_has_no_divergence_and_no_gradient():
    hidden, head, _, _, targets = (t.float() if t.is_floating_point() else t for t in make(6))
    ours = hidden.clone().requires_grad_()
    loss, stats = reverse_kl_loss(ours, head, hidden, head, targets, Objective(1.0, 0.0, 1.0, 4, V))
    loss.backward()
    assert stats.kl_N.abs().max() < 1e-6
    assert ours.grad.abs().max() < 1e-6


def test_statistics_match_torch_distributions():
    objective = Objective(1.0, 0.0, 0.8, 3, V)
    _, _, stats, (hidden, head, teacher_hidden, teacher_head, targets) = both(8, objective)
    student = torch.distributions.Categorical(logits=hidden @ head[:V].T / 0.8)
    teacher = torch.distributions.Categorical(logits=teacher_hidden @ teacher_head[:V].T / 0.8)
    expected = TokenStats(
        torch.distributions.kl_divergence(student, teacher),
        torch.distributions.kl_divergence(teacher, student),
        student.log_prob(targets),
        teacher.log_prob(targets),
        student.entropy(),
        teacher.entropy(),
    )
    for name, got, want in zip(TokenStats._fields, stats, expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5, msg=name)
        assert not got.requires_grad


@settings(max_examples=40, deadline=None)
@given(
    num_tokens=st.integers(1, 9),
    chunk_size=st.integers(1, 12),
    scale=st.floats(0.01, 4.0),
    seed=st.integers(0, 2**31),
)
def test_any_chunking_gives_a_finite_loss_equal_to_the_dense_one(num_tokens, chunk_size, scale, seed):
    objective = Objective(1.0, 0.0, 1.0, chunk_size, V)
    (reference, _), (loss, ours), stats, _ = both(num_tokens, objective, seed, scale)
    torch.testing.assert_close(loss.double(), reference, rtol=1e-3, atol=1e-3)
    assert all(torch.isfinite(t.grad).all() for t in ours)
    assert (stats.kl_N > -1e-5).all()


def test_extreme_logits_stay_finite():
    hidden = torch.eye(2, H) * 80
    head = torch.zeros(V, H)
    head[0, 0], head[1, 1] = 1.0, -1.0
    ours = hidden.clone().requires_grad_()
    loss, stats = reverse_kl_loss(
        ours, head, -hidden, head, torch.tensor([0, 1]), Objective(1.0, 0.0, 1.0, 1, V)
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(ours.grad).all()
    # KL of almost all mass on token 0 against almost none: log-ratio 80 + log-sum-exp of the teacher's rest.
    assert stats.kl_N[0].item() == pytest.approx(80 + torch.tensor(10.0).log().item(), rel=1e-4)


def test_mean_of_k1_and_k3_under_the_student_is_the_reverse_kl():
    """Exact enumeration of the sampled token: both estimators are unbiased in value."""
    hidden, head, teacher_hidden, teacher_head, _ = make(1)
    student = (hidden @ head[:V].T).log_softmax(-1)[0]
    teacher = (teacher_hidden @ teacher_head[:V].T).log_softmax(-1)[0]
    objective = Objective(1.0, 0.0, 1.0, 1, V)
    means = {"kl/k1": 0.0, "kl/k3": 0.0}
    for token in range(V):
        _, stats = reverse_kl_loss(
            hidden.float(), head.float(), teacher_hidden.float(), teacher_head.float(),
            torch.tensor([token]), objective,
        )  # fmt: skip
        sums = token_sums(stats, stats.student_logp_N)
        for name in means:
            means[name] += student[token].exp().item() * sums[name].item()
        assert sums["rollout/mismatch_kl"].item() == pytest.approx(0.0, abs=1e-9)
    exact = (student.exp() * (student - teacher)).sum().item()
    assert means["kl/k1"] == pytest.approx(exact, rel=1e-4)
    assert means["kl/k3"] == pytest.approx(exact, rel=1e-4)


def test_k3_is_never_negative_and_survives_huge_ratios():
    ratios = torch.tensor([-1e4, -30.0, -1.0, 0.0, 1e-4, 1.0, 30.0, 1e4])
    values = k3(ratios)
    assert torch.isfinite(values).all()
    assert (values >= 0).all()
    assert values[3] == 0
