"""A loss of the user's own: which functions are taken, what their trial finds, and what they compute."""

import pytest
import torch

from distillctl.errors import ConfigError, RunFailed
from distillctl.objective.inputs import Objective
from distillctl.train.custom_loss import CustomLoss, try_loss

BUILT_IN = {
    "reverse_kl": "(s.exp() * (s - t)).sum(-1)",
    "forward_kl": "(t.exp() * (t - s)).sum(-1)",
    "jsd": "0.5 * (t.exp() * (t - m(s, t))).sum(-1) + 0.5 * (s.exp() * (s - m(s, t))).sum(-1)",
}
MIXTURE = "import math, torch\nm = lambda s, t: torch.logaddexp(s, t) - math.log(2)\n"
GOOD = "def loss(s, t):\n    return (s.exp() * (s - t)).sum(-1)\n"


@pytest.fixture
def load(tmp_path):
    """Writes a file of the given source and loads its function, or the one that is named."""

    def write_and_load(source, name=""):
        (tmp_path / "mine.py").write_text(source)
        return CustomLoss.load(f"mine.py{name}", tmp_path)

    return write_and_load


@pytest.mark.parametrize("kind", BUILT_IN)
@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 1.4, "entropy_coeff": 0.1, "kl_loss_coef": 0.7, "max_clamp": 0.4}]
)
def test_the_same_formula_gives_what_the_package_gives(make_case, ours, load, kind, fields):
    custom = load(f"{MIXTURE}def mine(s, t):\n    return {BUILT_IN[kind]}\n", ":mine")
    case = make_case(9, scale=2.0).to(torch.float32)
    expected = ours(case, case.teacher, kind=kind, chunk_size=4, **fields)
    got = ours(case, case.teacher, kind=None, custom=custom, chunk_size=4, **fields)
    assert got.loss.item() == pytest.approx(expected.loss.item(), abs=1e-6)
    for name in ("grad_hidden_NH", "grad_head_VH"):
        norm = getattr(expected, name).norm().item()
        assert getattr(got, name).norm().item() == pytest.approx(norm, rel=1e-5)
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), rtol=1e-4, atol=1e-6 * norm)
    for name in ("kl/reverse", "kl/forward", "actor/entropy"):
        assert torch.equal(got.stats[name], expected.stats[name])
    torch.testing.assert_close(got.stats["actor/kl_loss"], expected.stats["actor/kl_loss"])


def test_a_slope_that_is_the_same_for_every_outcome_is_written_to(make_case, ours, load):
    """autograd gives one number for the gradient of a sum, which the loss scales in place."""
    custom = load("def loss(s, t):\n    return -s.sum(-1)\n")
    case = make_case(5)
    got = ours(case, case.teacher, kind=None, custom=custom, kl_loss_coef=2.0)
    logits_NV = case.logits_NV().requires_grad_()
    (2.0 * case.tokens.weights_N * -logits_NV.log_softmax(-1).sum(-1)).sum().backward()
    torch.testing.assert_close(got.grad_hidden_NH, logits_NV.grad @ case.head_VH[: case.vocab_size])


# --- load ----------------------------------------------------------------------------------------


def test_the_only_function_is_taken_and_imported_ones_do_not_count(load):
    assert load(f"from math import exp\nfrom textwrap import dedent\n{GOOD}").function.__name__ == "loss"


def test_the_named_one_of_several_is_taken(load):
    both = f"{GOOD}def other(s, t):\n    return -s[:, 0]\n"
    assert load(both, ":other").function.__name__ == "other"


@pytest.mark.parametrize(
    ("source", "name", "message", "hint"),
    [
        (f"{GOOD}def other(s, t): ...\n", "", "mine.py has several functions: loss, other", "mine.py:loss"),
        (GOOD, ":los", "mine.py has no function los", "functions of that file: loss"),
        ("x = 1\n", "", "mine.py has no function", "(student_log_p, teacher_log_p)"),
        ("def f(s):\n    return s\n", "", "mine.py:1: function f does not take (student_log_p, te", "[N]"),
        ("x = 1\ndef f(:\n", "", "mine.py:2: ", "correct"),
        ("x = 0\n1 / x\n", "", "mine.py:2: raised when it was imported: ZeroDivisionError", "correct"),
        ("import no_such_package_of_mine\n", "", "No module named 'no_such_package_of_mine'", "install"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(load, source, name, message, hint):
    with pytest.raises(ConfigError) as caught:
        load(source, name)
    assert caught.value.message.startswith("loss.path: ")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_the_file_runs_in_the_folder_of_the_command(load, tmp_path):
    (tmp_path / "scale.txt").write_text("2.0")
    read = "float(Path('scale.txt').read_text())"
    source = f"from pathlib import Path\nAT_IMPORT = {read}\n"
    loss = load(f"{source}def loss(s, t):\n    return -AT_IMPORT * {read} * s[:, 0]\n")
    log_q_CV = torch.tensor([[0.5, 0.5]]).log()
    value_C, slope_CV = loss(log_q_CV, log_q_CV.exp(), log_q_CV, Objective(vocab_size=2))
    torch.testing.assert_close(value_C, -4.0 * log_q_CV[:, 0])
    assert slope_CV.tolist() == [[-4.0, 0.0]]


# --- trial ---------------------------------------------------------------------------------------


def test_a_good_loss_passes_its_trial(load):
    try_loss(load(GOOD), 50, torch.device("cpu"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("(s - t).sum()", "returned the shape [] for log-probabilities of shape [7, 50]"),
        ("s - t", "returned the shape [7, 50] for"),
        ("(s - t).sum(-1).squeeze()", "returned the shape [] for log-probabilities of shape [1, 50]"),
        ("1.0", "returned a float instead of a tensor"),
        ("(s - t).sum(-1).double()", "returned torch.float64 instead of torch.float32"),
        ("(s - t).sum(-1).detach()", "has no gradient: what it returns does not depend on student_log_p"),
        ("t.sum(-1)", "has no gradient: what it returns does not depend on student_log_p"),
        ("s.exp().sum(-1)", "has no gradient: it is zero for the student's logits"),
        ("(s.exp() * (s - t)).sum(-1) / 0", "gives values that are not finite"),
        ("(s - t).square().sum(-1).sqrt()", "gives a gradient that is not finite, tried on a student that"),
        ("(t.exp() / s.exp() - 1).sum(-1)",
         "gives values that are not finite, tried on a token that the student alone rules out"),
        ("(s.exp() / t.exp() - 1).sum(-1)",
         "gives values that are not finite, tried on a token that the teacher alone rules out"),
        ("(s.exp() / (s.exp() + t.exp())).sum(-1)",
         "gives values that are not finite, tried on a token that both models rule out"),
    ],
)  # fmt: skip
def test_the_trial_says_where_and_what_is_wrong(load, body, message):
    with pytest.raises((ConfigError, RunFailed)) as caught:
        try_loss(load(f"x = 1\ndef loss(s, t):\n    return {body}\n"), 50, torch.device("cpu"))
    assert caught.value.message.startswith(f"loss.path: mine.py:2: function loss {message}")


@pytest.mark.parametrize("raised", ["ValueError('a\\nb')", "SystemExit('a b')"])
def test_a_function_that_raises_fails_the_run_with_its_line(load, raised):
    loss = load(f"def loss(s, t):\n    return helper(s)\n\ndef helper(s):\n    raise {raised}\n", ":loss")
    log_q_CV = torch.zeros(1, 2).log_softmax(-1)
    with pytest.raises(RunFailed) as caught:
        loss(log_q_CV, log_q_CV.exp(), log_q_CV, Objective(vocab_size=2))
    kind = raised.partition("(")[0]
    assert caught.value.message == f"loss.path: mine.py:5: function loss raised {kind}: a b"
