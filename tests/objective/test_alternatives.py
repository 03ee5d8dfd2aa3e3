"""The likeliest tokens of both models and the KL at each token, against dense float64."""

import pytest
import torch

from distillctl.objective import alternatives as module
from distillctl.objective.alternatives import alternatives
from distillctl.objective.teacher_scores import Dense, TopK


@pytest.fixture(params=[2, 1000])
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
def test_both_models_alternatives_and_the_kl_are_those_of_the_dense_distributions(make_case):
    case = make_case(num_tokens=7)
    found = alternatives(
        case.hidden_NH, case.head_VH, case.teacher, case.tokens.target_ids_N, case.vocab_size, 3
    )
    logq_NV, logp_NV = (z.log_softmax(-1) for z in (case.logits_NV(), case.teacher_logits_NV()))
    kl_N = (logq_NV.exp() * (logq_NV - logp_NV)).sum(-1)
    torch.testing.assert_close(found.kl_N.double(), kl_N, rtol=1e-6, atol=1e-7)
    for logits_NV, ids_NK, logp_NK in (
        (logq_NV, found.student_ids_NK, found.student_logp_NK),
        (logp_NV, found.teacher_ids_NK, found.teacher_logp_NK),
    ):
        order = logits_NV.argsort(-1, descending=True)[:, :3]
        assert torch.equal(ids_NK, order)
        torch.testing.assert_close(logp_NK.double(), logits_NV.gather(-1, order), rtol=1e-6, atol=1e-6)


def test_a_served_teacher_shows_what_it_listed(make_case):
    case = make_case(num_tokens=4)
    logp_NV = case.teacher_logits_NV().log_softmax(-1)
    ids_NK = logp_NV.topk(4).indices[:, [2, 0, 3, 1]].clone()  # in no order
    ids_NK[1, 2] = -1  # and one row that is short
    found = alternatives(
        case.hidden_NH, case.head_VH, case.served(ids_NK), case.tokens.target_ids_N, case.vocab_size, 5
    )
    order = logp_NV.topk(4).indices
    assert torch.equal(found.teacher_ids_NK[[0, 2, 3], :4], order[[0, 2, 3]])
    assert found.teacher_ids_NK[1].tolist()[3:] == [-1, -1]
    assert found.teacher_ids_NK[:, 4].tolist() == [-1] * 4
    listed = found.teacher_ids_NK[0, :4]
    torch.testing.assert_close(
        found.teacher_logp_NK[0, :4].double(), logp_NV[0, listed], rtol=1e-6, atol=1e-6
    )


def test_the_kl_from_a_list_is_a_lower_bound_of_the_whole(make_case):
    case = make_case(num_tokens=50, scale=3.0)
    inputs = (case.hidden_NH, case.head_VH)
    rest = (case.tokens.target_ids_N, case.vocab_size, 3)
    whole = alternatives(*inputs, case.teacher, *rest).kl_N
    listed = alternatives(*inputs, case.served_topk(3), *rest).kl_N
    assert (listed <= whole + 1e-6).all()
    assert (listed < 0.9 * whole).any()


def test_no_more_alternatives_than_tokens_are_asked_for_or_listed(make_case):
    case = make_case(num_tokens=3)
    found = alternatives(
        case.hidden_NH, case.head_VH, case.served_topk(6), case.tokens.target_ids_N, case.vocab_size, 2
    )
    assert found.student_ids_NK.shape == found.teacher_ids_NK.shape == (3, 2)
    assert isinstance(case.teacher, Dense)
    assert isinstance(case.served_topk(6), TopK)
