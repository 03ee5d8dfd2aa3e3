"""The student under DeepSpeed, every ZeRO stage and several micro-batch splits, against plain torch.

The reference knows none of our code but the rollouts: one unpadded sequence at a time through whole logits,
torch's own KL divergence, one AdamW step on the token mean.
"""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distillctl.models.locate import find_model
from distillctl.objective.teacher_scores import TopK
from distillctl.train import self_checks

pytestmark = pytest.mark.engine

SCRIPT = Path(__file__).with_name("student_process.py")
STAGES = [f"{setting}:reverse_kl:token-mean" for setting in
          ("3:4000:4096", "3:60:7", "3:1:4096", "2:100:4096", "1:100:16", "0:100:4096")]  # fmt: skip
STAGES += [f"3:60:4096:reverse_kl:token-mean:{option}" for option in ("checkpointed", "detailed")]
UNTIED = [f"{setting}:reverse_kl:token-mean:untied" for setting in ("3:60:7", "0:4000:4096")]
# The same objective in one micro-batch on one rank without ZeRO, and in many small ones on two with ZeRO-3.
WHOLE, SPLIT = "0:4000:4096", "3:60:7"
OBJECTIVES = [
    "reverse_kl:seq-mean-token-mean:detailed",
    "forward_kl:token-sum",
    "jsd:token-mean",
    "topk:seq-mean-token-sum-norm",
    "student_topk:seq-mean-token-sum",
    "sampled:token-mean",
    "sampled_pg:token-mean",
]


def script():
    spec = importlib.util.spec_from_file_location("student_process", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found_in(out, settings):
    """Losses and saved tensors of each setting."""
    losses = json.loads((out / "losses.json").read_text())
    return {name: (losses[i], load_file(out / f"{i}.safetensors")) for i, name in enumerate(settings)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a student with a head of its own is, under `untied`."""
    path = tmp_path_factory.mktemp("student")
    script().save_untied(path / "untied")
    return path


@pytest.fixture(scope="module")
def results(folder, run_ranks):
    """Of everything on one rank, by setting."""
    settings = [*STAGES, *UNTIED, *(f"{WHOLE}:{objective}" for objective in OBJECTIVES)]
    run_ranks(SCRIPT, folder, *settings)
    return found_in(folder, settings)


@pytest.fixture(scope="module")
def split(tmp_path_factory, run_ranks):
    """Of two ranks, by setting."""
    out, settings = tmp_path_factory.mktemp("split"), [f"{SPLIT}:{objective}" for objective in OBJECTIVES]
    run_ranks(SCRIPT, out, *settings, world_size=2)
    return found_in(out, settings)


@pytest.fixture(scope="module")
def reference():
    return plain_torch(find_model("builtin:tiny-student", "").path)


def plain_torch(student_path):
    """Losses, parameters after the last step, and the first step's gradient."""
    from transformers import AutoModelForCausalLM

    values = script()
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for path in (student_path, find_model("builtin:tiny-teacher", "").path)
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=values.LR, betas=values.BETAS, weight_decay=0.0)
    losses, gradients = [], {}
    for step in range(values.NUM_STEPS):
        terms = []
        for rollout in values.make_rollouts(step):
            start = len(rollout.prompt.token_ids) - 1
            ids = torch.tensor([rollout.prompt.token_ids + rollout.response_ids.tolist()])
            ours, theirs = (
                torch.distributions.Categorical(logits=m(ids).logits[0, start:-1, : values.VOCAB_SIZE])
                for m in (student, teacher)
            )
            kl = torch.distributions.kl_divergence(ours, theirs)
            terms.append(kl - values.ENTROPY * ours.entropy())
        loss = torch.cat(terms).mean()
        optimizer.zero_grad()
        loss.backward()
        if not step:
            gradients = {f"grad.{name}": p.grad.clone() for name, p in student.named_parameters()}
        torch.nn.utils.clip_grad_norm_(student.parameters(), values.CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses, dict(student.named_parameters()), gradients


@pytest.fixture(scope="module")
def seen():
    """KL, and log-probabilities [T, V] of student and teacher, of each rollout of the first step."""
    from transformers import AutoModelForCausalLM

    values, logp = script(), []
    for name in ("tiny-student", "tiny-teacher"):
        model = AutoModelForCausalLM.from_pretrained(
            find_model(f"builtin:{name}", "").path, dtype=torch.float64
        ).eval()
        logp.append([])
        for rollout in values.make_rollouts(0):
            ids = torch.tensor([rollout.prompt.token_ids + rollout.response_ids.tolist()])
            start = len(rollout.prompt.token_ids) - 1
            with torch.no_grad():
                logits = model(ids).logits[0, start:-1, : values.VOCAB_SIZE]
            logp[-1].append(logits.log_softmax(-1))
    return list(zip(*logp, strict=True))


@pytest.mark.parametrize("setting", STAGES)
def test_losses_match_plain_torch(results, reference, setting):
    assert results[setting][0] == pytest.approx(reference[0], rel=1e-5)


@pytest.mark.parametrize("setting", STAGES)
def test_weights_after_two_steps_match_plain_torch(results, reference, setting):
    weights = {
        n: value for n, value in results[setting][1].items() if not n.startswith(("grad.", "details."))
    }
    assert weights.keys() == reference[1].keys()
    for name, expected in reference[1].items():
        # Adam divides by the gradient's size: where a gradient is about 0, rounding decides its direction.
        close = (weights[name] - expected).abs() < 2e-5
        assert close.float().mean() > 0.999, name
        assert (weights[name] - expected).abs().max() < 4e-3, name


def assert_same_gradient(tensors, expected):
    """To 1e-5 of the largest entry of all."""
    largest = max(value.abs().max() for value in expected.values())
    assert {name for name in tensors if name.startswith("grad.")} == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=float(1e-5 * largest), msg=name)


@pytest.mark.parametrize("setting", STAGES)
def test_gradients_match_plain_torch(results, reference, setting):
    assert_same_gradient(results[setting][1], reference[2])


@pytest.mark.parametrize("setting", UNTIED)
def test_a_student_with_a_head_of_its_own_matches_plain_torch(results, folder, setting):
    losses, parameters, gradients = plain_torch(folder / "untied")
    assert "grad.lm_head.weight" in gradients
    assert results[setting][0] == pytest.approx(losses, rel=1e-5)
    assert_same_gradient(results[setting][1], gradients)
    assert parameters.keys() <= results[setting][1].keys()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_do_not_depend_on_micro_batches_ranks_chunks_and_zero(results, split, objective):
    whole, parts = results[f"{WHOLE}:{objective}"][0], split[f"{SPLIT}:{objective}"][0]
    assert parts == pytest.approx(whole, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_do_not_depend_on_micro_batches_ranks_chunks_and_zero(results, split, objective):
    whole, parts = results[f"{WHOLE}:{objective}"][1], split[f"{SPLIT}:{objective}"][1]
    expected = {name: value for name, value in whole.items() if name.startswith("grad.")}
    assert_same_gradient(parts, expected)


def assert_seen(tensors, seen):
    """What was detailed at during an update, against both models in float64."""
    num_detailed = script().NUM_DETAILED
    assert len([name for name in tensors if name.startswith("details.")]) == 5 * num_detailed
    for index, (logq_TV, logp_TV) in enumerate(seen[:num_detailed]):
        kl_T = (logq_TV.exp() * (logq_TV - logp_TV)).sum(-1)
        torch.testing.assert_close(tensors[f"details.{index}.kl"].double(), kl_T, rtol=1e-4, atol=1e-5)
        for who, expected_TV in (("student", logq_TV), ("teacher", logp_TV)):
            ids_TK, logp_TK = (tensors[f"details.{index}.{who}_{what}"] for what in ("ids", "logp"))
            best_TK = expected_TV.topk(5).values
            torch.testing.assert_close(logp_TK.double(), best_TK, rtol=1e-4, atol=1e-4)
            named_TK = expected_TV.gather(-1, ids_TK.long())  # ids of nearly equal tokens may change places
            torch.testing.assert_close(named_TK, best_TK, rtol=1e-4, atol=1e-4)


def test_an_update_sees_what_both_models_would_rather_have_written(results, seen):
    assert_seen(results[STAGES[-1]][1], seen)


def test_two_ranks_see_the_same_together(split, seen):
    assert_seen(split[f"{SPLIT}:{OBJECTIVES[0]}"][1], seen)


def test_nobody_looks_unless_asked(results):
    assert not [name for name in results[STAGES[0]][1] if name.startswith("details.")]


@pytest.fixture(scope="module")
def preflight(tmp_path_factory, run_ranks):
    """What is said of the student's own files, another's and those of NaN, and of four teachers."""
    out = tmp_path_factory.mktemp("preflight")
    run_ranks(SCRIPT, out, "self-test")
    return json.loads((out / "losses.json").read_text())


def test_the_preflight_finds_no_kl_of_the_student_from_itself_and_refuses_any_other(preflight):
    itself, other, *_ = preflight
    assert itself.startswith("the student's KL from itself is 0.0e+00 nats")
    assert other.startswith("the student has a KL of")


def test_a_student_of_nan_is_named(preflight):
    assert preflight[2] == "student.model: its log-probabilities are not finite (nan)"


def test_a_teacher_that_knows_something_else_is_in_order(preflight):
    ((level, detail),) = preflight[3]
    assert level == "ok"
    assert detail.startswith("teacher: mean entropy ")


def test_a_teacher_that_is_the_student_is_warned_of(preflight):
    ((level, detail),) = preflight[4]
    assert level == "warn"
    assert detail.startswith("teacher is the student's own distribution on prompts: the KL is 0.0e+00 nats")


def test_a_uniform_teacher_is_warned_of_with_its_entropy(preflight):
    ((level, detail),) = preflight[5]
    assert level == "warn"
    uniform = f"{math.log(465):.3f}"
    assert detail.startswith(f"teacher is nearly uniform on prompts: its mean entropy is {uniform} nats, ")


def test_a_teacher_of_nan_is_refused(preflight):
    assert preflight[6].startswith("teacher.model: its log-probabilities are not finite")


def listed(probabilities, num_topk):
    """What a server lists of distributions [N, V]; the first token was sampled."""
    logp_NV = torch.tensor(probabilities, dtype=torch.float64).log().float()
    logp_NK, ids_NK = logp_NV.topk(num_topk)
    return TopK(logp_NV[:, 0], ids_NK, logp_NK)


@pytest.mark.parametrize("num_topk", [0, 4, 40])
def test_a_uniform_served_teacher_is_known_by_any_answer(num_topk):
    entropy = self_checks._least_entropy(listed([[0.01] * 100] * 3, num_topk), 100)
    assert entropy == pytest.approx(math.log(100), rel=1e-5)


@pytest.mark.parametrize("num_topk", [2, 4, 40])
def test_what_a_server_lists_bounds_the_entropy_from_below(num_topk):
    rows = torch.randn(5, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    exact = float(-(rows * rows.log()).sum(-1).mean())
    bound = self_checks._least_entropy(listed(rows.tolist(), num_topk), 100)
    assert 0.5 * exact < bound < exact


def test_a_sampled_token_alone_says_nothing_of_another_teacher():
    assert self_checks._least_entropy(listed([[0.2] + [0.8 / 99] * 99] * 3, 0), 100) == 0.0


# What bfloat16 must not change.


@pytest.fixture(scope="module")
def precision(tmp_path_factory, run_ranks):
    """Where one rank left buffers, KLs from itself and weights after one step, in every stage."""
    out = tmp_path_factory.mktemp("precision")
    run_ranks(SCRIPT, out, "precision")
    return out


def test_buffers_are_those_of_plain_transformers_in_every_stage_and_teacher(precision):
    from transformers import AutoModelForCausalLM

    path = find_model("builtin:tiny-student", "").path
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    expected = {name.removeprefix("model."): value for name, value in plain.named_buffers()}
    found = load_file(precision / "found.safetensors")
    holders = [
        "teacher.copy",
        "teacher.sharded",
        "teacher.int8",
        *(f"student.{stage}.model" for stage in range(4)),
    ]
    assert "rotary_emb.inv_freq" in expected
    for holder in holders:
        for name, value in expected.items():
            assert torch.equal(found[f"{holder}.{name}"], value), (holder, name)


@pytest.mark.parametrize("teacher", ["copy", "sharded"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_student_in_bfloat16_has_no_kl_from_itself_at_any_of_1024_positions(precision, stage, teacher):
    kl_N = load_file(precision / "found.safetensors")[f"kl.{stage}.{teacher}"]
    assert len(kl_N) == 1024
    assert kl_N.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_first_update_is_the_learning_rate_and_decay_spares_vectors(precision, stage, dtype):
    """AdamW's first step by its definition, w (1 - lr * decay) -+ lr, to the rounding of the weights."""
    from transformers import AutoModelForCausalLM

    lr, decay, precise = script().DECAY_LR, script().WEIGHT_DECAY, getattr(torch, dtype)
    before = AutoModelForCausalLM.from_pretrained(find_model("builtin:tiny-student", "").path, dtype=precise)
    after = load_file(precision / f"{dtype}_{stage}.safetensors")
    for name, weight in before.named_parameters():
        kept = weight.detach().float() * (1.0 - lr * (decay if weight.dim() > 1 else 0.0))
        off = ((after[name] - kept).abs() - lr).abs()
        rounding = after[name].abs() * torch.finfo(precise).eps + 1e-3 * lr
        assert (off <= rounding).float().mean() > 0.99, name
