"""Dropout is off wherever it comes from, and comes back where the configuration is saved."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedConfig, Qwen2Config

from distillctl.models.dropout import saved_as_given, switch_off, without_rates
from distillctl.models.load import load_model
from distillctl.models.locate import find_model
from distillctl.models.packed_attention import packed_arguments

RATES = {"attention_dropout": 0.5, "resid_pdrop": 0.2, "dropout_rate": 1, "encoder_layerdrop": 0.1}
OTHERS = {"use_dropout": True, "classifier_dropout": None, "hidden_act": "silu"}


def test_every_rate_is_switched_off_those_of_nested_configurations_too():
    given = Qwen2Config(**RATES, **OTHERS)
    given.text_config = PreTrainedConfig(hidden_dropout_prob=0.3)
    given.parts = {"embd_pdrop": 0.4, 1: "one"}
    found = without_rates(given)
    assert [getattr(found, name) for name in RATES] == [0.0] * 4
    assert [getattr(found, name) for name in OTHERS] == [True, None, "silu"]
    assert (found.text_config.hidden_dropout_prob, found.parts["embd_pdrop"]) == (0.0, 0.0)
    assert [getattr(given, name) for name in RATES] == [*RATES.values()]
    assert (given.text_config.hidden_dropout_prob, given.parts["embd_pdrop"]) == (0.3, 0.4)


def test_rates_that_a_class_has_by_itself_are_switched_off():
    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=9))
    model.transformer.extra_dropout = 0.5
    switch_off(model, model.config)
    rates = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.0] * len(rates)
    assert len(rates) == 4
    assert model.transformer.extra_dropout == 0.0


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The tiny student with dropout in its config.json, loaded as a rank does."""
    path = shutil.copytree(
        find_model("builtin:tiny-student", "").path, tmp_path_factory.mktemp("m") / "model"
    )
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.5}))
    return load_model(str(path), torch.float32)


def test_a_model_in_training_gives_the_logits_of_plain_transformers_in_evaluation(loaded):
    ids_T = torch.arange(5, 60)
    plain = AutoModelForCausalLM.from_pretrained(
        find_model("builtin:tiny-student", "").path, dtype=torch.float32
    )
    with torch.no_grad():
        expected_1TV = plain.eval()(ids_T[None]).logits
        found_1TV = loaded.train()(**packed_arguments(ids_T, [len(ids_T)])).logits
    torch.testing.assert_close(found_1TV, expected_1TV, rtol=1e-4, atol=1e-4)


def test_the_configuration_that_is_saved_has_the_rates(loaded):
    assert loaded.config.attention_dropout == 0.0
    with saved_as_given(loaded):
        assert loaded.config.attention_dropout == 0.5
    assert loaded.config.attention_dropout == 0.0
