"""Finding models, their sizes, and what is missing on this machine."""

import importlib.util
import json
import math
import shutil
import struct

import pytest

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.host import hardware
from distillctl.host.packages import require_packages
from distillctl.models.architecture import model_shape
from distillctl.models.locate import model_path

TINY = ["tiny-student", "tiny-teacher"]


def stored_parameters(folder):
    """Numbers in a directory's safetensors files, from their headers: an 8-byte length, then JSON."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return count


@pytest.fixture
def model(tmp_path):
    """A directory that looks like a model: config.json and a weights file."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    header = b'{"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


@pytest.mark.parametrize("name", TINY)
def test_shipped_models_are_found_by_name(name):
    path = model_path(f"builtin:{name}", "student.model")
    assert (path / "config.json").is_file()
    assert (path / "model.safetensors").is_file()


def test_an_unknown_shipped_model_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"student\.model.*'tiny'") as caught:
        model_path("builtin:tiny", "student.model")
    assert caught.value.hint == "shipped: builtin:tiny-student, builtin:tiny-teacher"


def test_a_directory_is_taken_as_an_absolute_path(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    assert model_path("model", "student.model") == model.resolve()


def test_a_directory_may_have_the_shape_of_a_hub_id(model, monkeypatch):
    monkeypatch.chdir(model.parent.parent)
    assert model_path(f"{model.parent.name}/model", "student.model") == model.resolve()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"config.json": None}, "no config.json"),
        ({"config.json": "{"}, "cannot be read"),
        ({"config.json": "[]"}, "not a JSON object"),
        ({"model.safetensors": None}, "no .safetensors weights"),
        ({"model.safetensors": None, "pytorch_model.bin": "x"}, "no .safetensors weights"),
        ({"config.json": '{"auto_map": {"AutoModel": "modeling.Mine"}}'}, "auto_map"),
    ],
)
def test_unusable_directories_are_refused_under_their_key(model, content, message):
    for name, text in content.items():
        if text is None:
            (model / name).unlink()
        else:
            (model / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        model_path(str(model), "teacher.model")
    assert "model" in caught.value.message


def test_a_directory_without_weights_will_do_where_none_are_needed(model):
    (model / "model.safetensors").unlink()
    assert model_path(str(model), "teacher.model", weights=False) == model


@pytest.mark.parametrize("spec", ["./gone", "/gone/model", "~/gone", "gone", "a/b/c", "a b/c", "org/.."])
def test_what_is_neither_a_directory_nor_a_hub_id_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"student\.model: .*neither a model directory nor a hub id"):
        model_path(spec, "student.model")


@pytest.mark.parametrize("name", TINY)
def test_parameters_counted_from_the_dimensions_match_the_weights(name):
    path = model_path(f"builtin:{name}", "student.model")
    assert model_shape(path).num_parameters == pytest.approx(stored_parameters(path), rel=0.01)


def test_the_teacher_is_larger_than_the_student():
    student, teacher = (model_shape(model_path(f"builtin:{name}", "")) for name in TINY)
    assert teacher.num_parameters > student.num_parameters


def test_kv_bytes_follow_from_layers_and_heads():
    shape = model_shape(model_path("builtin:tiny-student", "student.model"))
    one_layer = 2 * shape.num_kv_heads * shape.head_dim
    assert shape.kv_bytes_per_token(4) == 4 * shape.num_layers * one_layer


def test_other_architectures_are_refused_by_what_they_lack(model):
    (model / "config.json").write_text('{"model_type": "gpt2", "n_embd": 64, "vocab_size": 10}')
    with pytest.raises(ConfigError, match=r"has no hidden_size, num_hidden_layers") as caught:
        model_shape(model)
    assert "Llama and Qwen" in caught.value.hint


@pytest.mark.parametrize(("device", "extra"), [("cpu", "cpu"), ("cuda", "gpu")])
def test_missing_engines_name_the_pip_line(monkeypatch, device, extra):
    """The import system is asked for names that are not there; test_packaging has the real case."""
    found = importlib.util.find_spec
    gone = ("vllm", "deepspeed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else found(name))
    with pytest.raises(EnvironmentUnfit, match="vllm and deepspeed not installed") as caught:
        require_packages(device)
    assert caught.value.hint == f"pip install 'distillctl[{extra}]'"
    assert caught.value.exit_code == 3


def test_memory_is_what_is_free_and_not_more_than_there_is():
    with open("/proc/meminfo") as lines:
        total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    assert 0 < hardware.memory_bytes() <= total


def test_a_model_in_a_folder_that_is_not_utf8_is_refused(tmp_path, monkeypatch):
    """Also where only the real path is not: tokenizers takes no such path."""
    shutil.copytree(model_path("builtin:tiny-student", "x"), tmp_path / "m\udcff")
    (tmp_path / "link").symlink_to("m\udcff")
    monkeypatch.chdir(tmp_path / "m\udcff")
    for spec in (".", str(tmp_path / "link")):
        with pytest.raises(ConfigError, match=r"student\.model: .*/m.* is not UTF-8"):
            model_path(spec, "student.model")


def test_files_that_a_mac_hides_beside_the_weights_are_not_read(tmp_path):
    shutil.copytree(model_path("builtin:tiny-student", "x"), tmp_path / "m")
    (tmp_path / "m/._model.safetensors").write_bytes(b"\0\5\26\7 of a resource fork")
    assert model_path(str(tmp_path / "m"), "student.model") == tmp_path / "m"
