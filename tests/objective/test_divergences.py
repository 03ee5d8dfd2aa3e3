"""The full divergences. What stands under "every file" holds for each file of the folder, whatever it
computes; below it, the divergences defined in `conftest.py` against dense float64 autograd and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from distillctl.objective.divergences import NAMES, divergence
from distillctl.objective.inputs import Objective, Tokens
from distillctl.objective.teacher_scores import Dense

DIVERGENCES = [
    ("reverse_kl", 0.5),
    ("forward_kl", 0.5),
    ("jsd", 0.0),
    ("jsd", 0.1),
    ("jsd", 0.5),
    ("jsd", 0.9),
    ("jsd", 1.0),
]
EVERY_DEFINITION = pytest.mark.parametrize(("kind", "beta"), DIVERGENCES)
SETTINGS = {
    "plain": {},
    "hot": {"temperature": 2.5},
    "cold": {"temperature": 0.4},
    "scaled": {"kl_loss_coef": 1.7},
    "entropy": {"entropy_coeff": 0.3},
    "entropy alone": {"kl_loss_coef": 0.0, "entropy_coeff": 0.2, "temperature": 0.7},
    "all": {"kl_loss_coef": 0.6, "entropy_coeff": 0.1, "temperature": 1.3},
}
EVERY_SETTING = pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS.keys())


# --- every file ----------------------------------------------------------------------------------

FILES = [*((name, 0.5) for name in NAMES), *(("jsd", beta) for beta in (0.0, 0.1, 0.9, 1.0))]
EVERY_FILE = pytest.mark.parametrize(("kind", "beta"), FILES)
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@EVERY_FILE
@EVERY_DTYPE
def test_value_and_slope_are_new_tensors_and_the_arguments_stay(kind, beta, dtype):
    generator = torch.Generator().manual_seed(8)
    log_q_CV, log_p_CV = torch.randn(2, 6, 9, generator=generator, dtype=dtype).log_softmax(-1)
    arguments = (log_q_CV, log_q_CV.exp(), log_p_CV)
    before = [tensor.clone() for tensor in arguments]
    value_C, slope_CV = divergence(kind)(*arguments, Objective(vocab_size=9, beta=beta))
    assert (value_C.shape, slope_CV.shape) == ((6,), (6, 9))
    assert value_C.dtype == slope_CV.dtype == dtype
    assert not value_C.requires_grad
    assert not slope_CV.requires_grad
    slope_CV.mul_(2.0)  # as the loss does
    value_C.mul_(2.0)
    assert all(torch.equal(now, then) for now, then in zip(arguments, before, strict=True))


@EVERY_FILE
def test_a_slope_is_the_central_difference_of_the_value(make_case, ours, central_difference, kind, beta):
    case = make_case(3, seed=2)
    fields = {"kind": kind, "beta": beta, "temperature": 0.8, "entropy_coeff": 0.2, "kl_loss_coef": 1.5}
    central_difference(case, lambda moved: ours(moved, case.teacher, **fields), rtol=1e-7)


@EVERY_FILE
def test_a_slope_over_buckets_is_the_central_difference(make_case, ours, central_difference, kind, beta):
    case = make_case(3, seed=6)
    fields = {"kind": "topk", "topk": 4, "topk_divergence": kind, "beta": beta}
    central_difference(case, lambda moved: ours(moved, case.teacher, **fields))


@EVERY_FILE
def test_a_divergence_of_different_models_is_positive(make_case, ours, kind, beta):
    case = make_case(7, scale=2.0)
    assert (ours(case, case.teacher, kind=kind, beta=beta).stats["actor/kl_loss"] > 0).all()


@EVERY_FILE
def test_a_divergence_in_float32_agrees_with_float64(make_case, ours, assert_same, kind, beta):
    case = make_case(9, seed=7, scale=1.5)
    single = case.to(torch.float32)
    fields = {"kind": kind, "beta": beta}
    assert_same(ours(single, single.teacher, **fields), ours(case, case.teacher, **fields), 1e-5)


@EVERY_FILE
def test_a_token_without_weight_has_no_influence(make_case, ours, assert_same, kind, beta):
    case = make_case(6)
    weights_N = torch.tensor([0.3, 0.0, 2.0, 0.0, 0.0, 1.1], dtype=torch.float64)
    masked = ours(case.with_tokens(weights_N=weights_N), case.teacher, kind=kind, beta=beta)
    assert (masked.grad_hidden_NH[weights_N == 0] == 0).all()
    kept = weights_N.nonzero().squeeze(-1)
    few = case.replace(
        hidden_NH=case.hidden_NH[kept],
        teacher=Dense(case.teacher.hidden_NG[kept], case.teacher.head_VG),
        tokens=Tokens(case.tokens.target_ids_N[kept], weights_N[kept], case.tokens.rollout_logp_N[kept]),
    )
    alone = ours(few, few.teacher, kind=kind, beta=beta)
    assert_same(masked._replace(grad_hidden_NH=masked.grad_hidden_NH[kept]), alone, 1e-13)


@EVERY_FILE
@EVERY_DTYPE
def test_a_student_that_equals_the_teacher_has_neither_loss_nor_gradient(make_case, ours, kind, beta, dtype):
    case = make_case(7, scale=3.0).to(dtype)
    got = ours(case, Dense(case.hidden_NH, case.head_VH), kind=kind, beta=beta, temperature=0.9)
    bound = 50 * torch.finfo(dtype).eps
    assert got.loss.abs() < bound
    assert got.grad_hidden_NH.abs().max() < bound
    assert got.grad_head_VH.abs().max() < bound


def some_logits():
    return torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2


def ban(logits_CV, *ids):
    return logits_CV.index_fill(-1, torch.tensor(ids), -torch.inf)


@EVERY_FILE
@EVERY_DTYPE
def test_a_token_that_both_rule_out_does_not_exist(logit_case, ours, kind, beta, dtype):
    logits_CV, teacher_CV = some_logits().to(dtype)
    kept = [0, 1, 2, 3, 4, 6]
    fields = {"kind": kind, "beta": beta, "entropy_coeff": 0.3, "temperature": 1.4}
    banned = logit_case(ban(logits_CV, 5, 7), ban(teacher_CV, 5, 7))
    few = logit_case(logits_CV[:, kept], teacher_CV[:, kept])
    got, expected = ours(banned, banned.teacher, **fields), ours(few, few.teacher, **fields)
    for name, value_C in expected.stats.items():
        torch.testing.assert_close(got.stats[name], value_C, msg=name)
    torch.testing.assert_close(got.grad_hidden_NH[:, kept], expected.grad_hidden_NH)
    assert (got.grad_hidden_NH[:, [5, 7]] == 0).all()


@EVERY_FILE
@EVERY_DTYPE
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_token_that_one_model_rules_out_gives_finite_numbers(logit_case, ours, kind, beta, dtype, whose):
    logits_CV, teacher_CV = some_logits().to(dtype)
    case = logit_case(
        *((ban(logits_CV, 6), teacher_CV) if whose == "student" else (logits_CV, ban(teacher_CV, 6)))
    )
    got = ours(case, case.teacher, kind=kind, beta=beta)
    assert torch.isfinite(got.stats["actor/kl_loss"]).all()
    assert torch.isfinite(got.grad_hidden_NH).all()


@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
@EVERY_FILE
def test_a_head_row_of_minus_infinity_stays_finite(make_case, ours, kind, beta, whose):
    case = make_case(5)
    case = case.replace(
        hidden_NH=case.hidden_NH.abs(), teacher=Dense(case.teacher.hidden_NG.abs(), case.teacher.head_VG)
    )
    row = torch.arange(len(case.head_VH))[:, None] == 3
    teacher = case.teacher
    if whose != "student":
        teacher_row = torch.arange(len(teacher.head_VG))[:, None] == 3
        teacher = Dense(teacher.hidden_NG, teacher.head_VG.masked_fill(teacher_row, -torch.inf))
    if whose != "teacher":
        case = case.replace(head_VH=case.head_VH.masked_fill(row, -torch.inf))
    got = ours(case, teacher, kind=kind, beta=beta, entropy_coeff=0.1)
    assert torch.isfinite(got.loss)
    assert torch.isfinite(got.grad_head_VH).all()
    assert all(torch.isfinite(row_N).all() for row_N in got.stats.values())


@EVERY_FILE
@settings(max_examples=15, deadline=None)
@given(
    mask=st.lists(st.booleans(), max_size=9),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    chunk_size=st.integers(1, 12),
    scale=st.floats(0.01, 4.0),
    temperature=st.floats(0.3, 5.0),
    seed=st.integers(0, 2**31),
)
def test_any_batch_in_any_chunks_is_the_sum_of_its_tokens(
    make_case, ours, kind, beta, mask, padding, chunk_size, scale, temperature, seed
):  # fmt: skip
    """Of none to nine tokens, some of them without weight; with padding of either head or none."""
    case = make_case(len(mask), seed, scale, padding)
    weights_N = case.tokens.weights_N * torch.tensor(mask, dtype=torch.float64)
    fields = {"kind": kind, "beta": beta, "temperature": temperature}
    got = ours(case.with_tokens(weights_N=weights_N), case.teacher, chunk_size=chunk_size, **fields)
    grad_head_VH = torch.zeros_like(case.head_VH)
    for n, weight in enumerate(weights_N):
        alone = case.replace(
            hidden_NH=case.hidden_NH[n : n + 1],
            teacher=case.teacher[n : n + 1],
            tokens=Tokens(
                case.tokens.target_ids_N[n : n + 1], torch.ones_like(weights_N[:1]),
                case.tokens.rollout_logp_N[n : n + 1],
            ),
        )  # fmt: skip
        one = ours(alone, alone.teacher, **fields)
        torch.testing.assert_close(got.stats["actor/kl_loss"][n], one.loss, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(
            got.grad_hidden_NH[n], weight * one.grad_hidden_NH[0], rtol=1e-9, atol=1e-12
        )
        grad_head_VH += weight * one.grad_head_VH
    torch.testing.assert_close(got.grad_head_VH, grad_head_VH, rtol=1e-9, atol=1e-12)
    assert (got.stats["actor/kl_loss"] >= -1e-12).all()
    assert (got.grad_head_VH[case.vocab_size :] == 0).all()


# --- the divergences that have a definition here -------------------------------------------------


@pytest.fixture(scope="session")
def dense(reference, dense_divergence):
    """The reference's loss and gradients of a full divergence with every coefficient."""

    def run(case, kind, beta, kl_loss_coef=1.0, entropy_coeff=0.0, temperature=1.0):
        p = (case.to(torch.float64).teacher_logits_NV() / temperature).softmax(-1)

        def token_losses(logits_NV):
            # Its validation fails on no tokens at all.
            student = Categorical(logits=logits_NV / temperature, validate_args=False)
            value_N = dense_divergence(kind, beta, student.probs, p)
            return kl_loss_coef * value_N - entropy_coeff * student.entropy()

        return reference(case, token_losses)

    return run


@EVERY_DEFINITION
@EVERY_SETTING
def test_loss_and_gradients_are_those_of_dense_autograd(
    make_case, ours, dense, assert_same, kind, beta, fields
):
    case = make_case(9, scale=1.5)
    got = ours(case, case.teacher, kind=kind, beta=beta, chunk_size=4, **fields)
    assert_same(got, dense(case, kind, beta, **fields))


@EVERY_DEFINITION
@EVERY_SETTING
def test_float32_agrees_to_1e5(make_case, ours, dense, assert_same, kind, beta, fields):
    case = make_case(9, seed=1, scale=1.5).to(torch.float32)
    got = ours(case, case.teacher, kind=kind, beta=beta, chunk_size=4, **fields)
    assert got.loss.dtype == got.grad_hidden_NH.dtype == got.grad_head_VH.dtype == torch.float32
    assert_same(got, dense(case, kind, beta, **fields), 1e-5)


@pytest.mark.parametrize(("beta", "kind"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_jsd_at_its_ends_is_a_kl_divergence(make_case, ours, assert_same, beta, kind):
    case = make_case(5)
    expected = ours(case, case.teacher, kind=kind)
    assert_same(ours(case, case.teacher, kind="jsd", beta=beta), expected, 1e-15)


def test_jsd_of_one_half_is_symmetric_and_at_most_log_2(logit_case, ours):
    q_logits, p_logits = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(4)).double() * 6
    there, back = logit_case(q_logits, p_logits), logit_case(p_logits, q_logits)
    there_C = ours(there, there.teacher, kind="jsd").stats["actor/kl_loss"]
    back_C = ours(back, back.teacher, kind="jsd").stats["actor/kl_loss"]
    torch.testing.assert_close(there_C, back_C)
    assert (there_C < math.log(2)).all()
    assert there_C.max() > 0.6


def two_point(kind, beta, gap):
    """A divergence of logits (gap, 0) from (0, gap) by hand: with s = sigmoid(gap), KL = gap (2 s - 1)."""
    high = 1.0 / (1.0 + math.exp(-gap))
    if kind != "jsd" or beta in (0.0, 1.0):
        return gap * (2 * high - 1.0)
    q, p = (high, 1 - high), (1 - high, high)
    m = [beta * p_i + (1 - beta) * q_i for q_i, p_i in zip(q, p, strict=True)]

    def kl(a, b):
        return sum(a_i * math.log(a_i / b_i) for a_i, b_i in zip(a, b, strict=True) if a_i)

    return beta * kl(p, m) + (1 - beta) * kl(q, m)


@EVERY_DEFINITION
@pytest.mark.parametrize("gap", [0.5, 20.0, 80.0, 160.0])
def test_two_outcomes_by_hand_up_to_large_logits(logit_case, ours, kind, beta, gap):
    logits_CV = torch.tensor([[gap / 2, -gap / 2]])
    case = logit_case(logits_CV, -logits_CV)
    got = ours(case, case.teacher, kind=kind, beta=beta)
    assert got.loss.item() == pytest.approx(two_point(kind, beta, gap), rel=1e-5)
    assert torch.isfinite(got.grad_hidden_NH).all()


# Values where one model or both rule a token out: the definitions with 0 log 0 = 0.


def test_forward_kl_does_not_mind_what_only_the_teacher_rules_out(logit_case, ours):
    logits_CV, teacher_CV = some_logits()
    case = logit_case(logits_CV, ban(teacher_CV, 6))
    got = ours(case, case.teacher, kind="forward_kl")
    q, p = Categorical(logits=logits_CV), Categorical(logits=ban(teacher_CV, 6))
    torch.testing.assert_close(got.stats["actor/kl_loss"], kl_divergence(p, q))
    torch.testing.assert_close(got.grad_hidden_NH, q.probs - p.probs)


def test_reverse_kl_does_not_mind_what_only_the_student_rules_out(logit_case, ours):
    logits_CV, teacher_CV = some_logits()
    case = logit_case(ban(logits_CV, 6), teacher_CV)
    got = ours(case, case.teacher, kind="reverse_kl")
    q, p = Categorical(logits=ban(logits_CV, 6)), Categorical(logits=teacher_CV)
    torch.testing.assert_close(got.stats["actor/kl_loss"], kl_divergence(q, p))
    assert (got.grad_hidden_NH[:, 6] == 0).all()
    assert torch.isfinite(got.grad_hidden_NH).all()


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_is_exact_whoever_rules_a_token_out(logit_case, ours, beta):
    logits_CV, teacher_CV = some_logits()
    logits_CV, teacher_CV = ban(logits_CV, 6), ban(teacher_CV, 4, 5)
    case = logit_case(logits_CV, teacher_CV)
    got = ours(case, case.teacher, kind="jsd", beta=beta)
    q, p = logits_CV.softmax(-1), teacher_CV.softmax(-1)
    log_m = (beta * p + (1 - beta) * q).log()
    expected = beta * (torch.xlogy(p, p) - p * log_m) + (1 - beta) * (torch.xlogy(q, q) - q * log_m)
    torch.testing.assert_close(got.stats["actor/kl_loss"], expected.sum(-1))
    assert torch.isfinite(got.grad_hidden_NH).all()


@pytest.mark.parametrize(("kind", "student_bans"), [("reverse_kl", False), ("forward_kl", True)])
def test_an_infinite_divergence_is_large_and_finite_and_pulls_the_right_way(
    logit_case, ours, kind, student_bans
):
    logits_CV, teacher_CV = some_logits()
    case = logit_case(*((ban(logits_CV, 6), teacher_CV) if student_bans else (logits_CV, ban(teacher_CV, 6))))
    got = ours(case, case.teacher, kind=kind)
    assert torch.isfinite(got.loss)
    assert (got.stats["actor/kl_loss"] > 20).all()
    assert torch.isfinite(got.grad_hidden_NH).all()
    # Descent lowers a logit that the teacher rules out and lifts one that the teacher wants.
    slope_C = got.grad_hidden_NH[:, 6]
    assert (slope_C < 0).all() if student_bans else (slope_C > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    divergence=st.sampled_from(DIVERGENCES),
    mask=st.lists(st.booleans(), max_size=9),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    chunk_size=st.integers(1, 12),
    scale=st.floats(0.01, 4.0),
    temperature=st.floats(0.3, 5.0),
    entropy_coeff=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 2**31),
)
def test_any_batch_in_any_chunks_is_the_dense_loss(
    make_case, ours, dense, assert_same,
    divergence, mask, padding, chunk_size, scale, temperature, entropy_coeff, seed,
):  # fmt: skip
    """Of none to nine tokens, some of them without weight; with padding of either head or none."""
    kind, beta = divergence
    case = make_case(len(mask), seed, scale, padding)
    case = case.with_tokens(weights_N=case.tokens.weights_N * torch.tensor(mask, dtype=torch.float64))
    fields = {"temperature": temperature, "entropy_coeff": entropy_coeff}
    got = ours(case, case.teacher, kind=kind, beta=beta, chunk_size=chunk_size, **fields)
    assert_same(got, dense(case, kind, beta, **fields), 1e-8)
    assert (got.stats["actor/kl_loss"] >= -1e-12).all()
    assert (got.grad_hidden_NH[~torch.tensor(mask, dtype=torch.bool)] == 0).all()
    assert (got.grad_head_VH[case.vocab_size :] == 0).all()
