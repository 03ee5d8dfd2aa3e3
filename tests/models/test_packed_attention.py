"""Packed rows: every sequence gets what it gets alone, forward and backward."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distillctl.errors import ConfigError
from distillctl.models.packed_attention import PACKED, packed_arguments

LENGTHS = (5, 1, 17, 9)
SHAPE = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def pair(kind, **options):
    """The same random model with the packed attention and with transformers' eager one."""
    torch.manual_seed(0)
    packed, eager = (
        AutoModelForCausalLM.from_config(
            AutoConfig.for_model(kind, **SHAPE, **options),  # one each: the attention is kept in it
            attn_implementation=attention, dtype=torch.float64,
        )
        for attention in (PACKED, "eager")
    )  # fmt: skip
    eager.load_state_dict(packed.state_dict())
    return packed, eager


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    ],
    ids=["llama", "qwen2", "qwen3", "all layers with a window", "one layer with a window"],
)
def test_sequences_in_one_row_are_as_each_alone(kind, options):
    packed, eager = pair(kind, **options)
    ids_T = torch.randint(40, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    logits_TV = packed(**packed_arguments(ids_T, LENGTHS)).logits[0]
    parts = [eager(ids[None], use_cache=False).logits[0] for ids in ids_T.split(list(LENGTHS))]
    expected_TV = torch.cat(parts)
    # Eager attention takes its softmax in float32.
    torch.testing.assert_close(logits_TV, expected_TV, rtol=0, atol=1e-6)
    for logits in (logits_TV, expected_TV):
        logits.log_softmax(-1)[:, 3].sum().backward()
    for ours, theirs in zip(packed.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-5)


def test_the_name_of_the_attention_is_not_saved_with_a_model(tmp_path):
    pair("llama")[0].save_pretrained(tmp_path)
    assert PACKED not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"


def test_an_attention_that_does_more_is_refused():
    packed, _ = pair("gemma2", head_dim=16)
    with pytest.raises(ConfigError, match="softcap"):
        packed(**packed_arguments(torch.zeros(3, dtype=torch.int64), (3,)))
