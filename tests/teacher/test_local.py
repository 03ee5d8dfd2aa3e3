"""The local teacher against plain transformers, one unpadded sequence at a time."""

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
import torch

from distillctl.data_types import MicroBatch
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.models.locate import find_model
from distillctl.objective.inputs import Tokens
from distillctl.teacher.local import LocalTeacher
from distillctl.teacher.quantization import quantization_kl
from distillctl.train import self_checks
from distillctl.train.self_checks import quantization_cost

PATH = str(find_model("builtin:tiny-teacher", "").path)
CPU = torch.device("cpu")
VOCAB_SIZE = 465
LENGTHS = [(3, 9), (12, 1), (1, 20), (7, 5), (2, 2)]
"""Prompt and response tokens of each sequence."""

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="quantisation needs bitsandbytes: pip install 'distillctl[quant]'",
)


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(0)
    return [rng.integers(5, 400, prompt + response).tolist() for prompt, response in LENGTHS]


@pytest.fixture(scope="module")
def plain():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(PATH, dtype=torch.float32).eval()


def micro_batch(sequences, members):
    """Sequences `members`, one after another."""
    input_ids_T = torch.tensor([token for i in members for token in sequences[i]])
    starts = np.cumsum([0, *(len(sequences[i]) for i in members)])
    rows = [
        start + t
        for start, i in zip(starts, members, strict=False)
        for t in range(LENGTHS[i][0] - 1, len(sequences[i]) - 1)
    ]
    rows_N = torch.tensor(rows)
    return MicroBatch(
        input_ids_T=input_ids_T,
        rows_N=rows_N,
        tokens=Tokens(input_ids_T[rows_N + 1], torch.ones(len(rows)), torch.zeros(len(rows))),
        spans=tuple((LENGTHS[i][0], len(sequences[i])) for i in members),
        members=tuple(members),
    )


def expected_hidden(model, sequences, members):
    """The model's own last hidden states at the same rows."""
    states = []
    for i in members:
        with torch.no_grad():
            output = model(torch.tensor([sequences[i]]), output_hidden_states=True)
        states.append(output.hidden_states[-1][0, LENGTHS[i][0] - 1 : -1])
    return torch.cat(states)


# On a CPU device offloading moves nothing: what is checked is that it changes no value.
@pytest.mark.parametrize("offload", [False, True], ids=["resident", "offload"])
def test_hidden_states_match_plain_transformers(plain, sequences, offload):
    teacher = LocalTeacher(PATH, torch.float32, CPU, offload=offload)
    groups = [[2, 0, 4], [1, 3]]
    for _ in range(2):  # two steps: there and back again
        scored = teacher.score([micro_batch(sequences, members) for members in groups])
        for s, members in zip(scored, groups, strict=True):
            expected = expected_hidden(plain, sequences, members)
            torch.testing.assert_close(s.hidden_NG, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("offload", [False, True], ids=["resident", "offload"])
def test_head_turns_hidden_states_into_the_models_logits(plain, sequences, offload):
    teacher = LocalTeacher(PATH, torch.float32, CPU, offload=offload)
    (scored,) = teacher.score([micro_batch(sequences, [2])])
    logits = scored.hidden_NG @ scored.head_VG.T
    with torch.no_grad():
        expected = plain(torch.tensor([sequences[2]])).logits[0, LENGTHS[2][0] - 1 : -1]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_scores_carry_no_gradient(sequences):
    teacher = LocalTeacher(PATH, torch.float32, CPU)
    (scored,) = teacher.score([micro_batch(sequences, [0])])
    assert not scored.hidden_NG.requires_grad
    assert not scored.head_VG.requires_grad


def test_a_head_with_a_bias_is_refused(tmp_path):
    from transformers import PhiConfig, PhiForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    PhiForCausalLM(PhiConfig(vocab_size=11, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the head of phi has a bias"):
        LocalTeacher(str(tmp_path), torch.float32, CPU)


def test_kl_of_an_unquantised_teacher_is_zero(sequences):
    teacher = LocalTeacher(PATH, torch.float32, CPU)
    assert quantization_kl(PATH, torch.float32, CPU, teacher, sequences, VOCAB_SIZE) == pytest.approx(
        0, abs=1e-6
    )


@needs_bitsandbytes
@pytest.mark.parametrize(("quantization", "largest"), [("int8", 0.05), ("int4", 1.0)])
def test_quantising_costs_a_little(sequences, quantization, largest):
    teacher = LocalTeacher(PATH, torch.float32, CPU, quantization=quantization)
    kl = quantization_kl(PATH, torch.float32, CPU, teacher, sequences, VOCAB_SIZE)
    assert 1e-6 < kl < largest


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantisation_kl_matches_dense_float64(plain, quantization):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_8bit=quantization == "int8",
        load_in_4bit=quantization == "int4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    reference = AutoModelForCausalLM.from_pretrained(
        PATH, dtype=torch.float32, quantization_config=settings, device_map={"": "cpu"}
    ).eval()
    # Longer than one chunk of logits, and more than one sequence.
    rng = np.random.default_rng(1)
    sequences = [rng.integers(5, 400, length).tolist() for length in (150, 64, 3)]
    terms = []
    for ids in sequences:
        with torch.no_grad():
            logits, other = (m(torch.tensor([ids])).logits[0, :, :400].double() for m in (plain, reference))
        p, q = (torch.distributions.Categorical(logits=values) for values in (logits, other))
        terms.append(torch.distributions.kl_divergence(p, q))
    teacher = LocalTeacher(PATH, torch.float32, CPU, quantization=quantization)
    kl = quantization_kl(PATH, torch.float32, CPU, teacher, sequences, 400)
    assert kl == pytest.approx(torch.cat(terms).mean().item(), rel=1e-3)


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_head_is_never_quantised(tmp_path, tied, quantization):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=70, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    teacher = LocalTeacher(str(tmp_path), torch.float32, CPU, quantization=quantization, offload=True)
    torch.testing.assert_close(teacher.head_VG, model.lm_head.weight.detach(), rtol=0, atol=0)


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_teacher_scores_the_same_with_offload(sequences, quantization):
    batches = [micro_batch(sequences, [2, 0, 4]), micro_batch(sequences, [1, 3])]
    resident, offloaded = (
        LocalTeacher(PATH, torch.float32, CPU, quantization=quantization, offload=offload)
        for offload in (False, True)
    )
    for _ in range(2):
        for ours, theirs in zip(resident.score(batches), offloaded.score(batches), strict=True):
            torch.testing.assert_close(ours.hidden_NG, theirs.hidden_NG, rtol=0, atol=0)


def test_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(EnvironmentUnfit, match="bitsandbytes") as error:
        LocalTeacher(PATH, torch.float32, CPU, quantization="int8")
    assert "pip install 'distillctl[quant]'" in error.value.hint


# What the preflight says of a quantised teacher.


def check_of(teacher, sequences):
    batch = micro_batch(sequences, range(len(sequences)))
    return quantization_cost("math", teacher, PATH, torch.float32, batch, VOCAB_SIZE)


@needs_bitsandbytes
def test_the_preflight_tells_the_kl_of_a_quantised_teacher(sequences):
    teacher = LocalTeacher(PATH, torch.float32, CPU, quantization="int8")
    kl = quantization_kl(PATH, torch.float32, CPU, teacher, sequences, VOCAB_SIZE)
    check = check_of(teacher, sequences)
    assert (check.name, check.level) == ("quantised teacher", "ok")
    assert check.detail == f"math: costs a KL of {kl:.1e} nats per token"


@needs_bitsandbytes
def test_the_preflight_warns_of_a_large_kl(sequences, monkeypatch):
    monkeypatch.setattr(self_checks, "LARGE_QUANTIZATION_KL", 1e-6)
    teacher = LocalTeacher(PATH, torch.float32, CPU, quantization="int8")
    assert check_of(teacher, sequences).level == "warn"


def test_no_full_precision_copy_is_loaded_where_there_is_no_room(sequences, monkeypatch):
    """The tiny teacher has 0.9 million weights, 3.5 MB in float32, beside 1 GiB to work with."""
    teacher = LocalTeacher(PATH, torch.float32, CPU)
    monkeypatch.setattr(self_checks, "memory_bytes", lambda: 2**30 + 2**20)
    monkeypatch.setattr(self_checks, "quantization_kl", None)
    check = check_of(teacher, sequences)
    assert check.level == "warn"
    assert check.detail == (
        "math: not compared with full precision: a copy of it needs 1.0 GiB, but 1.0 GiB are free"
    )


@pytest.mark.parametrize(("dtype", "num_bytes"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_room_a_copy_needs_is_that_of_its_weights_in_its_precision(plain, monkeypatch, dtype, num_bytes):
    size = num_bytes * sum(parameter.numel() for parameter in plain.parameters())  # tied: the head once
    for free, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr(self_checks, "memory_bytes", lambda free=free: free + self_checks.WORKSPACE_BYTES)
        assert (self_checks.no_room(PATH, dtype, CPU) == "") == fits


def test_what_config_json_asks_to_return_changes_nothing(sequences, tmp_path):
    folder = shutil.copytree(PATH, tmp_path / "teacher")
    asked = {"return_dict": False, "use_cache": True, "output_attentions": True, "output_hidden_states": True}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | asked | {"torchscript": True}))
    batch = micro_batch(sequences, [0, 1])
    (expected,), (found,) = (
        LocalTeacher(str(path), torch.float32, CPU).score([batch]) for path in (PATH, folder)
    )
    assert torch.equal(found.hidden_NG, expected.hidden_NG)
