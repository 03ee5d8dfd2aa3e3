"""Models whose files lack something: found without their weights, by the classes that would load them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from distillctl.errors import ConfigError
from distillctl.machine import model_path
from distillctl.model_files import INDEX
from distillctl.teacher import loadable
from distillctl.teacher.loadable import Faults, Suspect, require_loadable
from distillctl.teacher.local import load_model

SOURCE = model_path("builtin:tiny-student", "")
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "eos_token_id": 2,
    "pad_token_id": 0, "bos_token_id": None,
}  # fmt: skip
FAMILIES = ["Qwen2", "Qwen3", "Llama", "Mistral", "Phi3", "Olmo2", "Starcoder2", "Gemma3Text", "Glm4"]


def edit(model, **values):
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change(model, drop=(), **tensors):
    """Take out the tensors whose names contain one of `drop`, put in others."""
    found = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in found.items() if not any(part in name for part in drop)}
    save_file(kept | tensors, model / "model.safetensors", metadata={"format": "pt"})


def fewer_layers(model):
    edit(model, num_hidden_layers=3, layer_types=["full_attention"] * 3)


def renamed_embeddings(model):
    embeddings = load_file(model / "model.safetensors")[EMBEDDINGS]
    change(model, ["embed_tokens"], **{"lm_head.weight": embeddings})


def in_shards(model, drop=""):
    """Two shards and an index that does not name what is dropped."""
    found = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(name for name in found if name != drop)
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: found[name] for name in names if where[name] == shard}, model / shard)
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


Q, UP, BIAS = "model.layers.2.self_attn.q_proj.weight", "mlp.up_proj.weight", "layers.1.self_attn.k_proj.bias"
WHOLE = Faults(missing=[], misshapen=[], unused=[], untied=[], renamed=[])
HEAD = {"lm_head.weight": torch.ones(465, 96)}
EMBEDDINGS = "model.embed_tokens.weight"
LAYER_3 = [name for name in load_file(SOURCE / "model.safetensors") if ".3." in name]
BROKEN = {
    "a head of its own": (lambda m: edit(m, tie_word_embeddings=False), ["lm_head.weight"]),
    "one tensor of one layer": (lambda m: change(m, [Q]), [Q]),
    "a bias": (lambda m: change(m, [BIAS]), [f"model.{BIAS}"]),
    "one kind in all layers": (lambda m: change(m, [UP]), [f"model.layers.{i}.{UP}" for i in range(4)]),
    "the embeddings": (lambda m: change(m, ["embed_tokens"]), ["lm_head.weight", EMBEDDINGS]),
    "a whole layer": (lambda m: change(m, ["layers.3."]), LAYER_3),
    "the final norm": (lambda m: change(m, ["model.norm"]), ["model.norm.weight"]),
    "a tensor that the index leaves out": (lambda m: in_shards(m, Q), [Q]),
    "norms of another family": (
        lambda m: edit(m, model_type="qwen3", head_dim=32, architectures=["Qwen3ForCausalLM"]),
        [f"model.layers.{i}.self_attn.{n}_norm.weight" for i in range(4) for n in "kq"],
    ),
}  # fmt: skip
MISSHAPEN = {
    "another inner size": (lambda m: edit(m, intermediate_size=10**9), "down_proj.weight [96, 320] inst"),
    "other heads": (lambda m: edit(m, num_key_value_heads=3), "self_attn.k_proj.bias [32] instead of [96]"),
    "a reshaped tensor": (lambda m: change(m, **{Q: torch.ones(48, 192)}), f"{Q} [48, 192] instead of"),
    "integers": (lambda m: change(m, **{Q: torch.ones(96, 96, dtype=torch.int8)}), f"{Q} of I8"),
}  # fmt: skip
UNUSED = {
    "more layers than config.json": (fewer_layers, 12, "model.layers.3."),
    "a reward's head": (lambda m: change(m, **{"score.weight": torch.ones(1, 96)}), 1, "score.weight"),
}  # fmt: skip


def family(name, tied, folder):
    config = getattr(transformers, f"{name}Config")(**SIZES, head_dim=16, tie_word_embeddings=tied)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Model directories, broken and healthy, and what one child found in them, by name."""
    root = tmp_path_factory.mktemp("models")
    for name, (spoil, *_) in (BROKEN | MISSHAPEN | UNUSED).items():
        shutil.copytree(SOURCE, root / name)
        spoil(root / name)
    for name in FAMILIES:
        for tied in (True, False):
            family(name, tied, root / f"{name} {tied}")
    for name, head in {"a tied head kept": {}, "an own head": HEAD}.items():
        shutil.copytree(SOURCE, root / name)
        tensors = load_file(root / name / "model.safetensors")
        change(root / name, **({"lm_head.weight": tensors[EMBEDDINGS].clone()} | head))
    shutil.copytree(SOURCE, root / "old buffers")
    change(root / "old buffers", **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)})
    shutil.copytree(SOURCE, root / "embeddings as a head")
    renamed_embeddings(root / "embeddings as a head")
    shutil.copytree(SOURCE, root / "in shards")
    in_shards(root / "in shards")
    paths = sorted(root.iterdir())
    found = loadable._found(paths, {path: Suspect(path, "teacher.model", engine=False) for path in paths})
    return {path.name: (path, faults) for path, faults in found.items()}


@pytest.mark.parametrize("case", BROKEN)
def test_missing_tensors_are_named(models, case):
    assert sorted(models[case][1].missing) == sorted(BROKEN[case][1])
    assert models[case][1].misshapen == []


@pytest.mark.parametrize("case", MISSHAPEN)
def test_tensors_of_another_shape_or_kind_are_named(models, case):
    assert any(MISSHAPEN[case][1] in tensor for tensor in models[case][1].misshapen)
    assert models[case][1].missing == []


@pytest.mark.parametrize("case", UNUSED)
def test_tensors_without_use_are_named_and_counted(models, case):
    _, count, name = UNUSED[case]
    _, found = models[case]
    assert (found.missing, found.misshapen, len(found.unused)) == ([], [], count)
    assert found.unused[0].startswith(name)


@pytest.mark.parametrize("name", [f"{name} {tied}" for name in FAMILIES for tied in (True, False)])
def test_a_healthy_model_of_any_family_is_whole(models, name):
    assert models[name][1] == WHOLE


@pytest.mark.parametrize("name", ["a tied head kept", "old buffers", "in shards"])
def test_what_older_versions_saved_besides_is_no_fault(models, name):
    assert models[name][1] == WHOLE


def test_a_tied_head_with_values_of_its_own_is_found(models):
    assert models["an own head"][1] == replace(WHOLE, untied=["lm_head.weight"])


@pytest.mark.parametrize("case", [*BROKEN, "reshaped"])
def test_no_broken_model_is_loaded(models, case):
    """The ranks look again: whatever the launcher was shown, they have nothing random."""
    if case == "reshaped":
        path, names = models["a reshaped tensor"][0], MISSHAPEN["a reshaped tensor"][1]
    else:
        path, names = models[case][0], BROKEN[case][1][0]
    with pytest.raises(ConfigError, match=r"config\.json") as error:
        load_model(str(path), torch.float32)
    assert names in error.value.message


@pytest.fixture
def answers(monkeypatch, models):
    """`require_loadable` on the models without another child."""
    monkeypatch.setattr(loadable, "_found", lambda paths, _: {path: models[path.name][1] for path in paths})
    return lambda name, *, engine: require_loadable(
        [Suspect(models[name][0], "teacher.model", engine=engine)]
    )


def test_a_refusal_names_the_key_the_first_tensors_and_their_number(answers, models):
    with pytest.raises(ConfigError) as error:
        answers("norms of another family", engine=False)
    path = models["norms of another family"][0]
    assert error.value.message.startswith(
        f"teacher.model: {path} lacks 8 tensors (model.layers.0.self_attn.k_norm.weight, "
    )
    assert "and 3 more)" in error.value.message


def test_what_is_not_used_is_said(answers):
    (note,) = answers("more layers than config.json", engine=False)
    start = "teacher.model: the files hold 12 tensors (model.layers.3.input_layernorm.weight, "
    assert note.startswith(start)
    (note,) = answers("a reward's head", engine=True)
    assert (
        note == "teacher.model: the files hold 1 tensor (score.weight), which its config.json has no use for"
    )


def test_layers_that_the_engine_does_not_start_with_are_refused(answers):
    with pytest.raises(ConfigError, match=r"num_hidden_layers=3, but the files hold 12 tensors \(model\.l"):
        answers("more layers than config.json", engine=True)


def test_a_head_that_a_tied_configuration_ignores_is_said_of_a_teacher_and_refused_for_the_engine(answers):
    """transformers uses it, vLLM does not: the two would sample from and train different models."""
    (note,) = answers("an own head", engine=False)
    assert "ties 1 tensor (lm_head.weight), but the files hold other values, which are used" in note
    with pytest.raises(ConfigError, match=r"ties lm_head\.weight \(tie_word_embeddings\), but"):
        answers("an own head", engine=True)


def test_embeddings_under_the_name_of_the_head_are_refused_for_the_engine_alone(answers):
    """transformers ties them the other way round; vLLM would leave its embeddings as they came."""
    assert answers("embeddings as a head", engine=False) == []
    with pytest.raises(ConfigError, match=r"ties lm_head\.weight .* under which name alone the files hold"):
        answers("embeddings as a head", engine=True)


def test_a_model_whose_buffers_alone_take_gigabytes_is_not_built(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "huge")
    edit(tmp_path / "huge", head_dim=2 * 10**9)
    with pytest.raises(ConfigError, match=r"student.model: transformers does not load .*huge.* memory"):
        require_loadable([Suspect(tmp_path / "huge", "student.model", engine=True)])
