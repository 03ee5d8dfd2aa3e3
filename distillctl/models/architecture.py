"""The sizes of a model, as its config.json gives them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.models.rope import switch_length
from distillctl.models.supported import require_decoder

UNLIMITED_POSITIONS = 2**31
"""Longest sequence, in tokens, of a model whose config.json gives no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a model. Memory is estimated from them."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    """Tokens of the longest sequence."""
    switch_length: tuple[str, int] | None
    """What `rope.switch_length` returns."""

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Bytes of the keys and values of all layers for one token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value


def model_shape(config: dict[str, Any], file: Path) -> ModelShape:
    """Sizes of a dense decoder. The number of parameters follows from the dimensions in `config`.

    `file` is the config.json that `config` was read from. Raises ConfigError for an unsupported model.
    """
    require_decoder(config, file)
    hidden = config["hidden_size"]
    num_layers = config["num_hidden_layers"]
    num_heads = config["num_attention_heads"]
    num_kv_heads = config.get("num_key_value_heads") or num_heads
    head_dim = config.get("head_dim") or hidden // num_heads
    intermediate = config["intermediate_size"]
    vocab = config["vocab_size"]
    attention = 2 * hidden * head_dim * (num_heads + num_kv_heads)
    per_layer = attention + 3 * hidden * intermediate + 2 * hidden
    embeddings = vocab * hidden * (1 if config.get("tie_word_embeddings", False) else 2)
    return ModelShape(
        num_parameters=num_layers * per_layer + embeddings + hidden,
        num_layers=num_layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        max_positions=config.get("max_position_embeddings") or UNLIMITED_POSITIONS,
        switch_length=switch_length(config),
    )
