"""A model directory: what its files say, and that each is read once."""

import json
import shutil
import sys
from collections import Counter

import pytest
from tokenizers import Tokenizer

from distillctl.config.loading import load_preset
from distillctl.errors import ConfigError
from distillctl.launch.preflight import prepare, preview
from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir


@pytest.fixture
def opened():
    """Counts how often Python opens files of a folder while `counting` runs."""
    folders, count = [], Counter()

    def hook(event, arguments):
        if (
            event == "open"
            and folders
            and isinstance(arguments[0], str)
            and arguments[0].startswith(folders[0])
        ):
            count[arguments[0].removeprefix(folders[0])] += 1

    def counting(folder, run):
        folders.append(f"{folder}/")
        try:
            run()
        finally:
            folders.clear()  # an audit hook cannot be taken away
        return dict(count)

    sys.addaudithook(hook)
    return counting


@pytest.fixture
def pair(tmp_path):
    """Copies of the shipped models, which are checked like any other directory."""
    models = tmp_path / "models"
    for name in ("student", "teacher"):
        shutil.copytree(find_model(f"builtin:tiny-{name}", "test").path, models / name)
    return models


def config(folder, *overrides):
    (folder / "data.jsonl").write_text('{"prompt": "What is 2+3?", "data_source": "same"}\n')
    data = [f"data.train_files={folder}/data.jsonl", "data.train_batch_size=1", "eval.every=0"]
    models = [f"{name}.model={folder}/models/{name}" for name in ("student", "teacher")]
    return load_preset("tiny-from-small-arith", [*data, *models, "train.device=cpu", *overrides])


def test_what_a_run_checks_reads_each_file_of_its_models_once(opened, pair, tmp_path):
    again = {"teachers.same.model": f"{pair}/student", "teachers.same.serve": "true", "loss.kind": "topk"}
    settings = config(tmp_path, *(f"{key}={value}" for key, value in again.items()))
    count = opened(pair, lambda: prepare(settings, tmp_path / "run"))
    read = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    read |= {"chat_template.jinja", "model.safetensors"}
    assert count == {f"{model}/{file}": 1 for model in ("student", "teacher") for file in read}


def test_a_dry_run_reads_no_more(opened, pair, tmp_path):
    count = opened(pair, lambda: preview(config(tmp_path)))
    assert len(count) == 12
    assert set(count.values()) == {1}


def test_a_vocabulary_has_the_id_of_every_token_added_ones_included():
    path = find_model("builtin:tiny-student", "student.model").path
    vocab = ModelDir(path).vocabulary
    assert sorted(vocab.values()) == list(range(465))
    assert [vocab[t] for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [0, 1, 2]
    text = "2+3=5"
    encoding = Tokenizer.from_file(str(path / "tokenizer.json")).encode(text)
    assert [vocab[token] for token in encoding.tokens] == encoding.ids


@pytest.mark.parametrize("name", ["tiny-student", "tiny-teacher"])
def test_a_vocabulary_is_that_of_the_tokenizer_which_transformers_loads(name):
    from transformers import AutoTokenizer

    path = find_model(f"builtin:{name}", "student.model").path
    assert ModelDir(path).vocabulary == AutoTokenizer.from_pretrained(path).get_vocab()


def test_a_directory_without_tokenizer_json_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"no tokenizer\.json") as caught:
        _ = ModelDir(tmp_path).vocabulary
    assert "AutoTokenizer" in caught.value.hint
    assert "save_pretrained" in caught.value.hint


@pytest.mark.parametrize("content", ["version https://git-lfs.github.com/spec/v1\n", "{}"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        _ = ModelDir(tmp_path).vocabulary


def test_a_tokenizer_neither_cuts_nor_pads(tmp_path):
    tokenizer = Tokenizer.from_file(str(find_model("builtin:tiny-student", "test").path / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert ModelDir(tmp_path).num_tokens("2+3=5") == 5


def test_a_model_directory_may_lack_a_generation_config(tmp_path):
    assert ModelDir(tmp_path).generation_config == {}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    assert ModelDir(tmp_path).generation_config["eos_token_id"] == [1, 2]


def test_weights_that_come_later_are_found(tmp_path):
    """The directory of a hub model is looked at before its weights are downloaded."""
    model = ModelDir(tmp_path)
    assert model.weight_files == []
    for name in ("b.safetensors", "a.safetensors", "._a.safetensors"):
        (tmp_path / name).touch()
    assert model.weight_files == [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
