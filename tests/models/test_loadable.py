"""Models whose files lack something: found without their weights, by the classes that would load them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from distillctl.errors import ConfigError
from distillctl.models import loadable
from distillctl.models.load import load_model
from distillctl.models.loadable import Faults, Suspect, require_loadable
from distillctl.models.locate import find_model
from distillctl.models.model_dir import INDEX, ModelDir

SOURCE = find_model("builtin:tiny-student", "").path
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
WHOLE = Faults(missing=[], misshapen=[], unused=[], untied=[], renamed=[], foreign=[], doubled=[], classes=[])
HEAD = {"lm_head.weight": torch.ones(465, 96)}
O_BIAS, BIAS_0 = "model.layers.0.self_attn.o_proj.bias", "model.layers.0.self_attn.k_proj.bias"
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
MISSHAPEN |= {
    name: (lambda m, dtype=dtype: change(m, **{Q: torch.ones(96, 96).to(dtype)}), f"{Q} of {text}")
    for name, dtype, text in (
        ("eight bits", torch.float8_e4m3fn, "F8_E4M3"),
        ("other eight bits", torch.float8_e5m2, "F8_E5M2"),
        ("powers of two", torch.float8_e8m0fnu, "F8_E8M0"),
        ("complex numbers", torch.complex64, "C64"),
    )
}
UNUSED = {
    "more layers than config.json": (fewer_layers, 12, "model.layers.3."),
    "a reward's head": (lambda m: change(m, **{"score.weight": torch.ones(1, 96)}), 1, "score.weight"),
    "an output's bias": (lambda m: change(m, **{O_BIAS: torch.ones(96)}), 1, O_BIAS),
    "scales": (lambda m: change(m, **{f"{Q}_scale": torch.ones(1)}), 1, f"{Q}_scale"),
    "biases of another family": (
        lambda m: edit(m, model_type="llama", architectures=["LlamaForCausalLM"]), 12, BIAS_0
    ),
}  # fmt: skip


def renamed(model, change_name):
    found = load_file(model / "model.safetensors")
    save_file({change_name(name): tensor for name, tensor in found.items()}, model / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip


def without_prefix(name):
    return name.removeprefix("model.")


FOREIGN = {
    "no prefix": without_prefix,
    "a prefix too many": lambda name: f"model.{name}",
    "no prefix in one layer": lambda name: without_prefix(name) if ".0." in name else name,
}


def fp8(name, weight):
    return {f"{name}.weight": weight.to(torch.float8_e4m3fn), f"{name}.weight_scale": torch.ones(1)}


def gptq(name, weight):
    num_out, num_in = weight.shape
    packed = {"qweight": (num_in // 8, num_out), "qzeros": (1, num_out // 8), "g_idx": (num_in,)}
    found = {f"{name}.{part}": torch.zeros(shape, dtype=torch.int32) for part, shape in packed.items()}
    return found | {f"{name}.scales": torch.ones(1, num_out, dtype=torch.float16)}


def nf4(name, weight):
    packed = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)
    state = {f"{name}.weight.absmax": torch.ones(8), f"{name}.weight.quant_map": torch.ones(16)}
    key = f"{name}.weight.quant_state.bitsandbytes__nf4"
    return {f"{name}.weight": packed, **state, key: torch.zeros(9, dtype=torch.uint8)}


METHODS = {
    "fp8": (fp8, {"quant_method": "fp8"}),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4}),
    "nf4": (nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "all ignored": (lambda name, weight: {f"{name}.weight": weight},
                    {"quant_method": "compressed-tensors", "ignore": ["re:.*"]}),
}  # fmt: skip


def quantize(model, method, drop=()):
    """The names that the method's tensors have; those that contain one of `drop` are left out."""
    pack, settings = METHODS[method]
    found = {}
    for name, tensor in load_file(model / "model.safetensors").items():
        is_linear = name.endswith("_proj.weight")
        found |= pack(name.removesuffix(".weight"), tensor) if is_linear else {name: tensor}
    kept = {name: t for name, t in found.items() if not any(part in name for part in drop)}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})
    edit(model, quantization_config=settings)


def keep_scale(model):
    """Take out one weight and leave its scale."""
    tensors = load_file(model / "model.safetensors")
    del tensors[Q]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


Q_MODULE = Q.removesuffix(".weight")
LOST = {
    "fp8 all of a matrix": ("fp8", [Q_MODULE + ".weight"], [Q]),
    "fp8 a scale": ("fp8", [f"{Q}_scale"], [f"{Q}_scale"]),
    "fp8 a norm": ("fp8", ["model.norm"], ["model.norm.weight"]),
    "fp8 a bias": ("fp8", [BIAS], [f"model.{BIAS}"]),
    "gptq all of a matrix": ("gptq", [f"{Q_MODULE}.q", f"{Q_MODULE}.s", f"{Q_MODULE}.g"], [Q]),
    "gptq a part": ("gptq", [f"{Q_MODULE}.qzeros"], [f"{Q_MODULE}.qzeros"]),
    "nf4 all of a matrix": ("nf4", [f"{Q_MODULE}.weight"], [Q]),
    "all ignored, a matrix": ("all ignored", [Q], [Q]),
    "all ignored, a layer": ("all ignored", ["layers.3."], LAYER_3),
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
    shutil.copytree(SOURCE, root / "older buffers")
    change(root / "older buffers", **{f"model.layers.0.self_attn.rotary_emb.{name}_cached": torch.ones(9, 16)
                                      for name in ("cos", "sin")})  # fmt: skip
    shutil.copytree(SOURCE, root / "embeddings as a head")
    renamed_embeddings(root / "embeddings as a head")
    shutil.copytree(SOURCE, root / "in shards")
    in_shards(root / "in shards")
    shutil.copytree(SOURCE, root / "another class")
    edit(root / "another class", architectures=["LlamaForCausalLM"])
    shutil.copytree(SOURCE, root / "another name first")
    edit(root / "another name first", architectures=["MyForCausalLM", "Qwen2ForCausalLM"])
    for name, change_name in FOREIGN.items():
        shutil.copytree(SOURCE, root / name)
        renamed(root / name, change_name)
    shutil.copytree(SOURCE, root / "both prefixes")
    change(root / "both prefixes", **{"embed_tokens.weight": torch.zeros(465, 96)})
    for name in METHODS:
        shutil.copytree(SOURCE, root / name)
        quantize(root / name, name)
    for name, (method, drop, _) in LOST.items():
        shutil.copytree(SOURCE, root / name)
        quantize(root / name, method, drop)
    for part in ("weight_zero_point", "weight_g_idx", "input_scale", "k_scale"):
        shutil.copytree(SOURCE, root / f"one {part}")
        quantize(root / f"one {part}", "fp8")
        change(root / f"one {part}", **{f"{Q_MODULE}.{part}": torch.ones(1)})
    shutil.copytree(SOURCE, root / "a weight without its scale")
    quantize(root / "a weight without its scale", "fp8", ["_scale"])
    shutil.copytree(SOURCE, root / "fp8 but for the bytes")
    quantize(root / "fp8 but for the bytes", "fp8")
    keep_scale(root / "fp8 but for the bytes")
    shutil.copytree(SOURCE, root / "not packed")
    edit(root / "not packed", quantization_config=METHODS["nf4"][1])
    paths = sorted(root.iterdir())
    found = loadable._found([suspect(path) for path in paths])
    return {path.name: (path, faults) for path, faults in zip(paths, found, strict=True)}


def suspect(path, **options):
    return Suspect(ModelDir(path), "teacher.model", **{"engine": False, **options})


@pytest.mark.slow
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


@pytest.mark.parametrize("method", METHODS)
def test_a_quantised_model_is_whole(models, method):
    assert models[method][1] == WHOLE


@pytest.mark.parametrize("part", ["weight_zero_point", "weight_g_idx", "input_scale", "k_scale"])
def test_a_part_that_one_layer_alone_has_is_lacked_by_no_other(models, part):
    assert models[f"one {part}"][1] == WHOLE


@pytest.mark.parametrize("case", LOST)
def test_what_a_quantised_model_lacks_is_named(models, case):
    assert models[case][1].missing == LOST[case][2]


def test_a_scale_alone_is_no_weight(models):
    assert models["fp8 but for the bytes"][1] == replace(WHOLE, missing=[Q])


@pytest.mark.parametrize("case", ["a weight without its scale", "not packed"])
def test_matrices_that_the_method_cannot_read_are_named(models, case):
    dtype = "F32" if case == "not packed" else "F8_E4M3"
    assert len(models[case][1].misshapen) == 28
    assert models[case][1].misshapen[0] == f"model.layers.0.mlp.down_proj.weight of {dtype}"


@pytest.mark.parametrize("case", FOREIGN)
def test_names_that_transformers_alone_maps_are_found(models, case):
    count = {"no prefix in one layer": 12}.get(case, 50)
    found = models[case][1]
    assert found == replace(WHOLE, foreign=found.foreign)
    assert len(found.foreign) == count
    assert all(FOREIGN[case](f"model.{name.split('model.')[-1]}") == name for name in found.foreign)


def test_two_tensors_for_one_parameter_are_found(models):
    names = ["embed_tokens.weight"]
    assert models["both prefixes"][1] == replace(WHOLE, foreign=names, doubled=names)


@pytest.fixture
def answers(monkeypatch, models):
    """`require_loadable` on the models without another child."""
    monkeypatch.setattr(loadable, "_found", lambda found: [models[one.model.path.name][1] for one in found])
    return lambda name, *, engine: require_loadable([suspect(models[name][0], engine=engine)])


def test_a_refusal_names_the_key_the_first_tensors_and_their_number(answers, models):
    with pytest.raises(ConfigError) as error:
        answers("norms of another family", engine=False)
    path = models["norms of another family"][0]
    assert error.value.message.startswith(
        f"teacher.model: {path} lacks 8 tensors (model.layers.0.self_attn.k_norm.weight, "
    )
    assert "and 3 more)" in error.value.message


def test_buffers_that_the_engine_passes_over_are_said_and_no_obstacle(answers):
    (note,) = answers("older buffers", engine=True)
    assert "hold 2 tensors (model.layers.0.self_attn.rotary_emb.cos_cached" in note


def test_the_models_class_need_not_be_the_first_that_is_named(models):
    assert models["another name first"][1] == WHOLE


def test_what_is_not_used_is_said(answers):
    (note,) = answers("more layers than config.json", engine=False)
    start = "teacher.model: the files hold 12 tensors (model.layers.3.input_layernorm.weight, "
    assert note.startswith(start)
    (note,) = answers("an output's bias", engine=True)
    assert note == f"teacher.model: the files hold 1 tensor ({O_BIAS}), which the model does not use"


@pytest.mark.parametrize("case", ["a reward's head", "scales"])
def test_tensors_that_the_engine_does_not_start_with_are_refused(answers, models, case):
    with pytest.raises(ConfigError) as error:
        answers(case, engine=True)
    assert error.value.message == (
        f"teacher.model: config.json of {models[case][0]} describes a model without a place for 1 tensor "
        f"({UNUSED[case][2]}) of the files; the engine does not start with them"
    )


@pytest.mark.parametrize(("case", "count"), [("no prefix", 50), ("no prefix in one layer", 12)])
def test_names_that_the_engine_does_not_know_are_refused_for_it_alone(answers, case, count):
    assert answers(case, engine=False) == []
    with pytest.raises(ConfigError, match=rf"holds {count} tensors \(.*the engine does not know") as error:
        answers(case, engine=True)
    assert "save it again" in error.value.hint


def test_two_tensors_for_one_parameter_are_refused(answers):
    with pytest.raises(
        ConfigError, match=r"holds 1 tensor \(embed_tokens\.weight\) and the same under another"
    ):
        answers("both prefixes", engine=False)


def test_a_class_that_the_engine_alone_would_take_is_refused_for_it(answers):
    """It starts, without the biases that the other class has no place for."""
    assert answers("another class", engine=False) == []
    with pytest.raises(ConfigError, match=r"names LlamaForCausalLM in architectures.* of Qwen2ForCausalLM,"):
        answers("another class", engine=True)


def test_a_quantised_student_is_refused(models):
    with pytest.raises(ConfigError, match="quantised weights cannot be trained"):
        require_loadable([suspect(models["fp8"][0], engine=True, trained=True)])


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
    with pytest.raises(
        ConfigError, match=r"ties lm_head\.weight .* but the files hold the embeddings under this name"
    ):
        answers("embeddings as a head", engine=True)


@pytest.mark.slow
def test_a_model_whose_buffers_alone_take_gigabytes_is_not_built(tmp_path):
    shutil.copytree(SOURCE, tmp_path / "huge")
    edit(tmp_path / "huge", head_dim=2 * 10**9)
    with pytest.raises(ConfigError, match=r"teacher.model: transformers does not load .*huge.* memory"):
        require_loadable([suspect(tmp_path / "huge", engine=True)])
