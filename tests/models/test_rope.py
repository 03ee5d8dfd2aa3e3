"""Position embeddings that change with the length of the longest sequence: a run stays on one side."""

import json
import shutil

import pytest

from distillctl.launch import supervisor
from distillctl.models.locate import find_model
from distillctl.models.rope import switch_length

FACTORS = {"short_factor": [1.0] * 16, "long_factor": [4.0] * 16}
ORIGINAL = {"original_max_position_embeddings": 64}
LONG = {"rope_type": "longrope", **FACTORS}
CONFIGS = {
    "none": ({}, None),
    "default": ({"rope_parameters": {"rope_type": "default"}}, None),
    "yarn": ({"rope_scaling": {"type": "yarn", "factor": 4.0, **ORIGINAL}}, None),
    "phi3": ({"rope_scaling": {"type": "longrope"}, **ORIGINAL}, ("longrope", 64)),
    "its old name": ({"rope_scaling": {"type": "su"}, **ORIGINAL}, ("su", 64)),
    "inside": ({"rope_parameters": {**LONG, **ORIGINAL}}, ("longrope", 64)),
    "not said": ({"rope_parameters": LONG}, ("longrope", 512)),
    "dynamic": ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, ("dynamic", 512)),
    "by layer": (
        {"rope_parameters": {"full": {**LONG, **ORIGINAL}, "sliding": {"rope_type": "default"}}},
        ("longrope", 64),
    ),
    "no dictionary": ({"rope_scaling": "longrope", "rope_parameters": None}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_where_the_frequencies_change(case):
    config, expected = CONFIGS[case]
    assert switch_length({"max_position_embeddings": 512, **config}) == expected


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A copy of the tiny student whose embeddings change beyond 200 tokens, in a folder with data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "data.jsonl").write_text(json.dumps({"prompt": "What is 1 + 1?"}) + "\n")
    path = shutil.copytree(find_model("builtin:tiny-student", "").path, tmp_path / "model")
    parameters = {**LONG, "rope_theta": 10000.0, "original_max_position_embeddings": 200}
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "rope_parameters": parameters}))
    return path


class Started(Exception):
    """Everything was accepted."""


def train(key, response, **more):
    settings = {
        "train.device": "cpu", "eval.every": 0, "data.train_files": "data.jsonl", "data.train_batch_size": 1,
        key: "./model", "data.max_prompt_length": 100, "data.max_response_length": response, **more,
    }  # fmt: skip
    return ["train", "--preset", "tiny-from-small-arith", *(f"{k}={v}" for k, v in settings.items())]


@pytest.mark.parametrize("key", ["student.model", "teacher.model"])
def test_a_run_beyond_the_switch_is_refused_with_the_key_and_the_limit(distillctl, model, key):
    code, _, err = distillctl(*train(key, 101))
    assert code == 2
    assert err.startswith(
        f"error: data.max_prompt_length + data.max_response_length = 201, but {key} has longrope position "
        "embeddings, whose frequencies change beyond 200 tokens (original_max_position_embeddings)"
    )
    assert "to 200 together" in err


@pytest.mark.slow
def test_a_run_within_the_switch_has_an_engine_within_it(distillctl, model, monkeypatch):
    """vLLM takes the other factors for all sequences where `max_model_len` is beyond the switch."""

    def started(plan, *_):
        assert plan.engine(model).max_model_len == 200
        raise Started

    monkeypatch.setattr(supervisor, "run", started)
    with pytest.raises(Started):
        distillctl(*train("student.model", 100))


def test_a_server_that_generates_one_token_more_has_to_fit_too(distillctl, model):
    served = {"teacher.serve": "true", "loss.kind": "topk"}
    code, _, err = distillctl(*train("teacher.model", 100, **served))
    assert code == 2
    assert "= 200, and a server generates one more, but teacher.model has longrope" in err
    assert "to 199 together" in err


def test_an_evaluation_stays_within_the_switch(distillctl, model):
    arguments = ["eval", "--checkpoint", "model", "--data", "data.jsonl", "--max-tokens", 200]
    code, _, err = distillctl(*arguments)
    assert code == 2
    assert "no room for a prompt: its longrope position embeddings change beyond 200 tokens" in err
