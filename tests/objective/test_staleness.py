"""Importance weights of tokens that older weights sampled: over all tokens, the gradient is that of now."""

import pytest
import torch

from distillctl.objective.chunked import chunked_loss
from distillctl.objective.inputs import Objective, Tokens
from distillctl.objective.teacher_scores import Dense

V = 7


def expected_gradient(old_V, q_logits_V, p_logits_V, **objective):
    """Gradient of the logits, averaged over the tokens that a model with probabilities `old_V` samples."""
    hidden_NV = q_logits_V.expand(V, V).clone().requires_grad_()  # one row for each token that may be sampled
    head_VV = torch.eye(V, dtype=torch.float64)
    tokens = Tokens(torch.arange(V), old_V, old_V.log())
    teacher = Dense(p_logits_V.expand(V, V), head_VV)
    loss, _ = chunked_loss(hidden_NV, head_VV, teacher, tokens, Objective(vocab_size=V, **objective))
    loss.backward()
    return hidden_NV.grad.sum(0)


@pytest.fixture
def models():
    generator = torch.Generator().manual_seed(0)
    old, q, p = torch.randn(3, V, generator=generator, dtype=torch.float64)
    return old.softmax(-1), q, p


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "sampled", "estimator": "k2"},
        {"kind": "sampled", "estimator": "k3+"},
        {"kind": "student_topk", "topk": 2},
    ],
    ids=str,
)
def test_stale_samples_give_the_gradient_of_the_reverse_kl(models, objective):
    old_V, q_V, p_V = models
    logits_V = q_V.clone().requires_grad_()
    log_q_V = logits_V.log_softmax(-1)
    (log_q_V.exp() * (log_q_V - p_V.log_softmax(-1))).sum().backward()
    corrected = expected_gradient(old_V, q_V, p_V, max_ratio=1e6, **objective)
    torch.testing.assert_close(corrected, logits_V.grad, rtol=1e-9, atol=1e-12)
    uncorrected = expected_gradient(old_V, q_V, p_V, **objective)
    assert (uncorrected - logits_V.grad).abs().max() > 1e-2


def test_weights_are_truncated(models):
    old_V, q_V, p_V = models
    ratio_V = q_V.softmax(-1) / old_V
    assert ratio_V.max() > 1.5
    truncated_V = ratio_V.clamp(max=1.5) / ratio_V
    got = expected_gradient(old_V, q_V, p_V, kind="sampled", estimator="k2", max_ratio=1.5)
    # The same samples, each weighed by what the truncation leaves of its ratio.
    d_V = q_V.log_softmax(-1) - p_V.log_softmax(-1)
    slope_V = q_V.softmax(-1) * truncated_V * d_V
    torch.testing.assert_close(got, slope_V - q_V.softmax(-1) * slope_V.sum(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd"])
def test_whole_distributions_need_no_weights(models, kind):
    old_V, q_V, p_V = models
    weighted = expected_gradient(old_V, q_V, p_V, kind=kind, max_ratio=2.0)
    torch.testing.assert_close(weighted, expected_gradient(old_V, q_V, p_V, kind=kind), rtol=0, atol=0)
