"""Finding models: shipped, in a directory, or on the hub."""

import os
import shutil
import struct
import subprocess
import sys

import pytest

from distillctl.errors import ConfigError
from distillctl.models.locate import find_model


@pytest.fixture
def model(tmp_path):
    """A directory that looks like a model: config.json and a weights file."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    header = b'{"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


@pytest.mark.parametrize("name", ["tiny-student", "tiny-teacher"])
def test_shipped_models_are_found_by_name(name):
    path = find_model(f"builtin:{name}", "student.model").path
    assert (path / "config.json").is_file()
    assert (path / "model.safetensors").is_file()


def test_an_unknown_shipped_model_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"student\.model.*'tiny'") as caught:
        find_model("builtin:tiny", "student.model")
    assert caught.value.hint == "shipped: builtin:tiny-student, builtin:tiny-teacher"


def test_a_directory_is_taken_as_an_absolute_path(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    assert find_model("model", "student.model").path == model.resolve()


def test_a_directory_may_have_the_shape_of_a_hub_id(model, monkeypatch):
    monkeypatch.chdir(model.parent.parent)
    assert find_model(f"{model.parent.name}/model", "student.model").path == model.resolve()


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
        find_model(str(model), "teacher.model")
    assert "model" in caught.value.message


def test_a_directory_without_weights_will_do_where_none_are_needed(model):
    (model / "model.safetensors").unlink()
    assert find_model(str(model), "teacher.model", weights=False).path == model


@pytest.mark.parametrize("spec", ["./gone", "/gone/model", "~/gone", "gone", "a/b/c", "a b/c", "org/.."])
def test_what_is_neither_a_directory_nor_a_hub_id_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"student\.model: .*neither a model directory nor a hub id"):
        find_model(spec, "student.model")


def test_a_model_in_a_folder_that_is_not_utf8_is_refused(tmp_path, monkeypatch):
    """Also where only the real path is not: tokenizers takes no such path."""
    shutil.copytree(find_model("builtin:tiny-student", "x").path, tmp_path / "m\udcff")
    (tmp_path / "link").symlink_to("m\udcff")
    monkeypatch.chdir(tmp_path / "m\udcff")
    for spec in (".", str(tmp_path / "link")):
        with pytest.raises(ConfigError, match=r"student\.model: .*/m.* is not UTF-8"):
            find_model(spec, "student.model")


def test_files_that_a_mac_hides_beside_the_weights_are_not_read(tmp_path):
    shutil.copytree(find_model("builtin:tiny-student", "x").path, tmp_path / "m")
    (tmp_path / "m/._model.safetensors").write_bytes(b"\0\5\26\7 of a resource fork")
    assert find_model(str(tmp_path / "m"), "student.model").path == tmp_path / "m"


# The cache of the hub, without network

OFFLINE = """
from pathlib import Path
from distillctl.models.locate import fetch_weights, find_model
model = find_model("org/name", "student.model", weights=False)
Path("refs/main").write_text("1" * 40)
fetch_weights(model, "student.model")
print(model.path, model.weight_files)
"""


@pytest.fixture
def cached(tmp_path):
    """Runs `OFFLINE` with the shipped student in a cache: stdout and the last line of stderr."""
    repo = tmp_path / "hub" / "models--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("0" * 40)

    def run(*left_out):
        snapshot = repo / "snapshots" / ("0" * 40)
        shutil.copytree(
            find_model("builtin:tiny-student", "test").path,
            snapshot,
            ignore=shutil.ignore_patterns(*left_out),
        )
        env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", OFFLINE], env=env, cwd=repo, capture_output=True, text=True, check=False
        )
        return snapshot, done.stdout.strip(), done.stderr.strip().split("\n")[-1]

    return run


def test_the_weights_of_the_same_revision_are_taken(cached):
    """The branch moves on while the checks run."""
    snapshot, out, _ = cached()
    assert out == f"{snapshot} {[snapshot / 'model.safetensors']}"


def test_a_hub_model_may_be_cached_without_weights_until_they_are_needed(cached):
    snapshot, out, error = cached("*.safetensors", "tokenizer*")
    assert out == ""
    assert error.endswith(f"ConfigError: student.model: {snapshot} has no .safetensors weights")
