"""Model directories that cannot be used: refused by train and eval before anything starts."""

import codecs
import json
import shutil
import struct

import pytest

from distillctl.evaluate import responses
from distillctl.launch import supervisor
from distillctl.models.locate import builtin_models, find_model
from distillctl.models.model_dir import INDEX, ModelDir
from distillctl.models.weight_files import check_weights

PRESET = "tiny-from-small-arith"
ROW = {"prompt": "What is 1 + 1?"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory with data and a copy of the shipped student; what would start fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for module, name in ((supervisor, "run"), (responses, "running_engine")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("something was started"))
    (tmp_path / "data.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(ROW) + "\n")
    shutil.copytree(find_model("builtin:tiny-student", "").path, tmp_path / "model")
    return tmp_path


def train_with(key):
    return ["train", "--preset", PRESET, "train.device=cpu", "eval.every=0", "data.train_files=data.jsonl",
            "data.train_batch_size=2", f"{key}=./model"]  # fmt: skip


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
EVAL = ["eval", "--checkpoint", "model", "--data", "data.jsonl", "--max-tokens", 16]


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def without(file, *names):
    tree = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in tree.items() if name not in names}))


def rename_weights(model, suffix):
    (model / "model.safetensors").rename(model / f"pytorch_model{suffix}")


def cut(model, size):
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:size])


def longer(model):
    with (model / "model.safetensors").open("ab") as file:
        file.write(b"x")


def header(model, text, tail=b"", name="model.safetensors"):
    (model / name).write_bytes(struct.pack("<Q", len(text)) + text + tail)


def entries(model, change):
    """Rewrite the header of the weights, whose data stay: `change` gets it and may return another text."""
    data = (model / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tree = json.loads(data[8 : 8 + size])
    header(model, (change(tree) or json.dumps(tree)).encode(), data[8 + size :])


def overlap(tree):
    """The second tensor of the file begins within the first; both have the size of their shape."""
    first, second = [
        e for e in sorted(tree.values(), key=lambda e: e.get("data_offsets", [])) if "shape" in e
    ][:2]
    size = second["data_offsets"][1] - second["data_offsets"][0]
    start = first["data_offsets"][1] - 4
    second["data_offsets"] = [start, start + size]


def beyond(tree):
    """A hole between the last two tensors."""
    last = max((e for e in tree.values() if "shape" in e), key=lambda e: e["data_offsets"])
    last["data_offsets"] = [offset + 4 for offset in last["data_offsets"]]


def twice(tree):
    text = json.dumps({NORM: tree[NORM]})[1:-1]
    return json.dumps(tree)[:-1] + ", " + text + "}"


def added(name="x", **changed):
    """One more tensor, by itself a whole one of no values."""

    def change(tree):
        end = max(e["data_offsets"][1] for e in tree.values() if "shape" in e)
        tree[name] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]} | changed

    return change


def mark(file):
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())


def lose(model):
    """Rename the last norm to a tensor that quantised layers may have."""
    entries(model, lambda tree: tree.update({"model.layers.0.self_attn.k_scale": tree.pop(NORM)}))


def beside(model, name):
    """A second file with a tensor of its own."""
    header(model, json.dumps({"exp_avg": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode(),
           b"\0" * 4, name)  # fmt: skip


def stray(model):
    """A second file with the same tensors, which transformers ignores and vLLM loads."""
    shutil.copy(model / "model.safetensors", model / "other.safetensors")


def shards(model, weight_map):
    """Make it a model of one shard with an index."""
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))


FIRST, NORM = "model-00001-of-00002.safetensors", "model.norm.weight"
IGNORES_ALL = {"quant_method": "compressed-tensors", "ignore": ["re:.*"]}
NESTED = {"text_config": {"parts": [{"auto_map": {"AutoModel": "x.Y"}}]}}
# What is done to the directory, and what the refusal says.
ANY = {
    "no config.json": (lambda m: (m / "config.json").unlink(), "no config.json"),
    "config.json is not JSON": (lambda m: (m / "config.json").write_text("{"), "config.json cannot be read"),
    "config.json is a list": (lambda m: (m / "config.json").write_text("[]"), "is not a JSON object"),
    "config.json is not UTF-8": (lambda m: (m / "config.json").write_bytes(b"\xff"), "json:1: not UTF-8"),
    "sizes are missing": (lambda m: without(m / "config.json", "hidden_size"), "has no hidden_size"),
    "no model_type": (lambda m: without(m / "config.json", "model_type"), "has no model_type"),
    "a size is a text": (lambda m: edit(m / "config.json", hidden_size="96"), 'hidden_size is "96"'),
    "a size is zero": (lambda m: edit(m / "config.json", num_attention_heads=0), "num_attention_heads is 0"),
    "an unknown architecture": (lambda m: edit(m / "config.json", model_type="mine"), "no model_type 'mine'"),
    "no decoder": (lambda m: edit(m / "config.json", architectures=["BertForMaskedLM"]), "is not a causal"),
    "code of its own": (lambda m: edit(m / "config.json", auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "code of its own, further in": (lambda m: edit(m / "config.json", **NESTED), "auto_map"),
    "code of its own for the tokenizer": (lambda m: edit(m / "tokenizer_config.json", **NESTED), "auto_map"),
    "ten million layers": (lambda m: edit(m / "config.json", num_hidden_layers=10**7),
                           "lacks 9999996 of the 10000000 layers that its config.json asks for"),
    "overlapping tensors": (lambda m: entries(m, overlap), "overlaps the one before it"),
    "a hole": (lambda m: entries(m, beyond), "leaves a hole before it"),
    "a tensor twice": (lambda m: entries(m, twice), f"its header names '{NORM}' twice"),
    "an unknown dtype": (lambda m: entries(m, lambda t: t[NORM].update(dtype="F31")), 'unknown dtype "F31"'),
    "no dtype": (lambda m: entries(m, lambda t: t[NORM].pop("dtype") and None), "unknown dtype null"),
    "no shape": (lambda m: entries(m, lambda t: t[NORM].pop("shape") and None), "has no shape for"),
    "a dtype that is a list": (lambda m: entries(m, added(dtype=[])), "unknown dtype []"),
    "a dtype that is an object": (lambda m: entries(m, added(dtype={})), "unknown dtype {}"),
    "a huge dimension": (lambda m: entries(m, added(shape=[10**400])), "has no shape for 'x'"),
    "many huge dimensions": (lambda m: entries(m, added(shape=[10**300] * 10_000)), "has no shape for 'x'"),
    "too many dimensions": (lambda m: entries(m, added(shape=[1] * 65)), "has no shape for 'x'"),
    "a huge product": (lambda m: entries(m, added(shape=[2**62] * 64)), "more values than the file has bits"),
    "a huge place": (lambda m: entries(m, added(data_offsets=[0, 10**4000])), "has no place for 'x'"),
    "half a byte": (lambda m: entries(m, added(dtype="F4", shape=[3])), "0 bytes instead of the 1.5 of F4"),
    "a name that is no text": (lambda m: entries(m, added("\ud800")), "has the name '\\ud800', which is not"),
    "a layer of many digits": (lambda m: entries(m, added(f"model.layers.{'9' * 5000}.w")),
                               "its header has a name of 5015 characters"),
    "another shape": (lambda m: entries(m, lambda t: t[NORM].update(shape=[95])), "of the 380 of F32 [95]"),
    "weights under another name": (lambda m: (m / "model.safetensors").rename(m / "a.safetensors"),
                                   "has neither model.safetensors nor"),
    "weights in two files": (stray, "twice, in other.safetensors too"),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "no .safetensors weights"),
    "pickled weights": (lambda m: rename_weights(m, ".bin"), "weights, only pytorch_model.bin"),
    "empty weights": (lambda m: cut(m, 0), "not a whole safetensors file: it has 0 bytes"),
    "weights cut in the header": (lambda m: cut(m, 100), "its header would have"),
    "truncated weights": (lambda m: cut(m, -1), "it is truncated"),
    "longer weights": (lambda m: longer(m), "longer than its header"),
    "a header of zeros": (lambda m: header(m, b"\0" * 64), "its header is not JSON"),
    "a header that is a list": (lambda m: header(m, b"[]"), "its header is not a JSON object"),
    "a header without tensors": (lambda m: header(m, b"{}"), "it holds no tensors"),
    "a tensor without place": (lambda m: header(m, b'{"w": {}}'), "has no place for 'w'"),
    "an LFS pointer": (lambda m: (m / "model.safetensors").write_bytes(LFS), "a pointer of Git LFS"),
    "a missing shard": (lambda m: shards(m, {"a": FIRST, "b": "2.safetensors"}), "lacks 2."),
    "a shard elsewhere": (lambda m: shards(m, {"a": "../data.jsonl"}), "lacks ../data.jsonl"),
    "a shard that lacks a tensor": (lambda m: shards(m, {"a": FIRST}), "lacks a, which"),
    "an index of nothing": (lambda m: shards(m, {}), "has no weight_map"),
    "weights of another size": (lambda m: edit(m / "config.json", hidden_size=192), "does not belong to its"),
    "no tokenizer": (lambda m: (m / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "a tokenizer that is not JSON": (lambda m: (m / "tokenizer.json").write_text("x"), "json cannot"),
    "a tokenizer without a model": (lambda m: (m / "tokenizer.json").write_text("{}"), "it has no 'model'"),
    **{f"a byte order mark in {name}": (lambda m, name=name: mark(m / name), f"{name}: begins with a byte")
       for name in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json",
                    "chat_template.jinja")},
    "a quantisation that is a text": (lambda m: edit(m / "config.json", quantization_config="none"),
                                      'has quantization_config="none", which is not a JSON object'),
    "a tokenizer of another kind": (lambda m: edit(m / "tokenizer.json", model=3), "is not a tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize("case", ANY)
@pytest.mark.parametrize("key", ["student.model", "teacher.model"])
def test_models_that_cannot_be_trained_with(refused, folder, case, key):
    change, words = ANY[case]
    change(folder / "model")
    message, _ = refused(*train_with(key))
    assert words in message
    assert "model" in message


@pytest.mark.slow
def test_a_teacher_without_a_head_of_its_own_is_refused_before_anything_starts(refused, folder):
    """Of tensors that are missing transformers says so in a log only, and gives them random values."""
    edit(folder / "model" / "config.json", tie_word_embeddings=False)
    message, fix = refused(*train_with("teacher.model"))
    assert message == (
        f"teacher.model: {folder / 'model'} lacks 1 tensor (lm_head.weight), which its config.json asks for"
    )
    assert "tie_word_embeddings" in fix


@pytest.mark.slow
def test_a_model_that_lacks_a_tensor_is_not_evaluated(refused, folder):
    entries(folder / "model", lambda tree: tree.update({"model.other.weight": tree.pop(NORM)}))
    message, _ = refused(*EVAL)
    assert message.startswith(f"--checkpoint: {folder / 'model'} lacks 1 tensor ({NORM}), ")


@pytest.mark.slow
def test_a_quantised_model_that_lacks_a_tensor_is_not_evaluated(refused, folder):
    """The engine looks for what is missing in other models alone."""
    edit(folder / "model" / "config.json", quantization_config=IGNORES_ALL)
    lose(folder / "model")
    assert f"lacks 1 tensor ({NORM}), which its config.json asks for" in refused(*EVAL)[0]


@pytest.mark.parametrize("case", ANY)
def test_models_that_cannot_be_evaluated(refused, folder, case):
    change, words = ANY[case]
    change(folder / "model")
    message, _ = refused(*EVAL)
    assert words in message or case == "no config.json"  # then it may be a run or a checkpoint, too


TEMPLATES = {
    "that does not parse": ("{% if", "TemplateSyntaxError"),
    "that refuses": ("{{ raise_exception('no such role') }}", "no such role"),
    "that divides by zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "that adds text to a list": ("{{ messages + 'a' }}", "TypeError"),
    "that reaches beyond its sandbox": (
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "SecurityError",
    ),
    "that counts without end": ("{% for i in range(999999999) %}{% endfor %}", "OverflowError"),
}


@pytest.mark.parametrize("case", TEMPLATES)
@pytest.mark.parametrize("command", ["train", "eval", "baseline"])
def test_a_template_that_does_not_render(refused, folder, command, case):
    template, words = TEMPLATES[case]
    (folder / "model" / "chat_template.jinja").write_text(template)
    others = ["eval", "--checkpoint", "builtin:tiny-student", "--baseline", "model", *EVAL[3:]]
    message, _ = refused(*{"train": train_with("student.model"), "eval": EVAL, "baseline": others}[command])
    assert message.startswith("data/0: the chat template does not render the messages: ")
    assert words in message


def test_a_role_that_the_template_refuses_is_found_in_any_row(refused, folder):
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    (folder / "model" / "chat_template.jinja").write_text(template + "{% endfor %}")
    system = {"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [ROW] * 50 + [system]))
    assert refused(*train_with("student.model"))[0].startswith("data/50: the chat template")


def test_a_baseline_without_a_template_is_refused_before_the_first_model_is_evaluated(refused, folder):
    (folder / "model" / "chat_template.jinja").unlink()
    arguments = ["eval", "--checkpoint", "builtin:tiny-student", "--baseline", "model", *EVAL[3:]]
    assert "has no chat template" in refused(*arguments)[0]


def test_no_prompt_that_a_model_takes(refused, folder):
    (folder / "data.jsonl").write_text(json.dumps({"prompt": "word " * 2000}) + "\n")
    assert "all 1 prompts are longer than the 496 tokens" in refused(*EVAL)[0]


@pytest.mark.parametrize("name", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_a_mixture_of_experts_is_refused(refused, folder, name):
    edit(folder / "model" / "config.json", **{name: 8})
    assert f"{name}=8: it is a mixture of experts" in refused(*train_with("student.model"))[0]


ENGINE = {
    "the optimizer's tensors": (lambda m: beside(m, "optimizer.safetensors"),
                                "has optimizer.safetensors beside model.safetensors, which the engine would"),
    "an adapter": (lambda m: beside(m, "adapter_model.safetensors"), "has adapter_model.safetensors beside"),
    "an index of other files": (lambda m: (m / INDEX).write_text(json.dumps({"weight_map": {NORM: FIRST}})),
                                f"has model.safetensors and an {INDEX} of other files"),
}  # fmt: skip
"""What transformers loads and the engine does not start with."""


@pytest.mark.parametrize("case", ENGINE)
@pytest.mark.parametrize("arguments", [train_with("student.model"), EVAL], ids=["train", "eval"])
def test_files_that_the_engine_does_not_start_with(refused, folder, arguments, case):
    change, words = ENGINE[case]
    change(folder / "model")
    assert words in refused(*arguments)[0]


STUDENT = {
    "quantised weights": (lambda m: edit(m / "config.json", quantization_config=IGNORES_ALL),
                          "quantised weights cannot be trained"),
    "a named stop token": (lambda m: edit(m / "generation_config.json", eos_token_id=["x"]), "eos_token_id"),
    "no template": (lambda m: (m / "chat_template.jinja").unlink(), "has no chat template"),
    "an empty template": (lambda m: (m / "chat_template.jinja").write_text(""), "has no chat template"),
    "a template not UTF-8": (lambda m: (m / "chat_template.jinja").write_bytes(b"\xff"), "not UTF-8"),
    "a logit transform": (lambda m: edit(m / "config.json", final_logit_softcapping=30.0), "softcapping"),
}  # fmt: skip


@pytest.mark.parametrize("case", STUDENT)
def test_models_that_cannot_be_students(refused, folder, case):
    change, words = STUDENT[case]
    change(folder / "model")
    assert words in refused(*train_with("student.model"))[0]


def test_a_template_that_is_no_text(refused, folder):
    (folder / "model" / "chat_template.jinja").unlink()
    edit(folder / "model" / "tokenizer_config.json", chat_template=3)
    assert "chat_template is not text" in refused(*train_with("student.model"))[0]


def test_tokenizers_that_differ(refused, folder):
    file = folder / "model" / "tokenizer.json"
    tree = json.loads(file.read_text())
    vocab = tree["model"]["vocab"]
    vocab["!"], vocab["#"] = vocab["#"], vocab["!"]
    file.write_text(json.dumps(tree))
    assert "have different tokenizers: 2 tokens differ" in refused(*train_with("teacher.model"))[0]


@pytest.mark.parametrize(
    "spec", ["./gone", "gone", "a/b/c", "builtin:gone", "data.jsonl", "x" * 5000, "~nobody/x"]
)
def test_models_that_are_not_there(refused, spec):
    message, _ = refused(*train_with("student.model")[:-1], f"student.model={spec}")
    assert message.startswith("student.model: ")


def test_a_hub_model_without_network(refused):
    message, fix = refused(*train_with("student.model")[:-1], "student.model=nobody/gone", code=3)
    assert message.startswith("student.model: nobody/gone is not cached and could not be downloaded")
    assert "student.model=PATH" in fix


@pytest.mark.parametrize("name", builtin_models())
def test_a_model_in_shards_is_accepted(folder, name):
    """Also with an index left over beside a single file, which is what is loaded then."""
    source = folder / name
    shutil.copytree(find_model(f"builtin:{name}", "").path, source)
    data = (source / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    names = [name for name in json.loads(data[8 : 8 + size]) if name != "__metadata__"]
    (source / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "gone.safetensors")}))
    assert find_model(str(source), "student.model").path == source.resolve()
    shards(source, dict.fromkeys(names, FIRST))
    assert find_model(str(source), "student.model").path == source.resolve()


def test_a_dimension_of_none_makes_a_tensor_of_none(folder):
    entries(folder / "model", added(shape=[0, 2**40]))
    check_weights(ModelDir(folder / "model"), "student.model")


BAD_EVAL = {
    "out is a file": (["--out", "data.jsonl"], "data.jsonl: is not a directory"),
    "out below a file": (["--out", "data.jsonl/x"], "data.jsonl/x cannot be"),
    "no data": (["--data", "gone.jsonl"], "gone.jsonl: no such file"),
    "another model that is broken": (["--baseline", "./gone"], "./gone is neither"),
    "no room for a prompt": (["--max-tokens", 512], "leaves model no room for a prompt"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_EVAL)
def test_bad_evaluations(refused, case):
    arguments, words = BAD_EVAL[case]
    others = EVAL if "--max-tokens" not in arguments else EVAL[: EVAL.index("--max-tokens")]
    assert words in refused(*others, *arguments)[0]
