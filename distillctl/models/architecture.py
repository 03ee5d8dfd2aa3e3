"""The sizes of a model, read from its config.json, and the architectures that are supported. No torch."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.files.reading import read_json
from distillctl.models.rope import switch_length
from distillctl.models.weight_files import code_refused, needs_code


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes from a model's config.json that memory estimates need."""

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
    """As `rope.switch_length`."""

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Keys and values of all layers for one token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value


_DIMENSIONS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Of mixtures (Qwen-MoE, Mixtral, DeepSeek), whose parameters are not counted here."""
_OPTIONAL_DIMENSIONS = ("num_key_value_heads", "head_dim", "max_position_embeddings")


def _require_decoder(config: dict[str, Any], file: Path) -> None:
    """Refuse what is no decoder that transformers has, or lacks the sizes that are counted with."""
    hint = "dense decoders of the Llama and Qwen families are supported"
    if needs_code(config):
        raise code_refused(str(file.parent))
    missing = [name for name in ("model_type", *_DIMENSIONS) if name not in config]
    if missing:
        raise ConfigError(f"{file} has no {', '.join(missing)}", hint)
    optional = [name for name in _OPTIONAL_DIMENSIONS if config.get(name) is not None]
    for name in (*_DIMENSIONS, *optional):
        if type(config[name]) is not int or config[name] < 1:
            raise ConfigError(
                f"{file}: {name} is {json.dumps(config[name])[:80]}, not a positive integer", hint
            )
    for name in _EXPERTS:
        if config.get(name) not in (None, 0):
            raise ConfigError(
                f"{file}: {name}={json.dumps(config[name])[:80]}: it is a mixture of experts", hint
            )
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or any(not str(name).endswith("ForCausalLM") for name in classes):
        raise ConfigError(
            f"{file}: architectures={json.dumps(classes)[:80]} is no causal language model", hint
        )
    if not _is_known(str(config["model_type"])):
        raise ConfigError(f"{file}: transformers has no model_type {config['model_type']!r}", hint)


def _is_known(model_type: str) -> bool:
    """Whether the installed transformers has the architecture, by its folders: its import takes seconds."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return True  # require_packages says so
    models = Path(spec.submodule_search_locations[0]) / "models"
    return model_type.isidentifier() and (models / model_type).is_dir()


def model_shape(path: Path) -> ModelShape:
    """Sizes of a dense decoder of the Llama or Qwen families; parameters are counted from the dimensions.

    Raises ConfigError for other architectures.
    """
    config = read_json(path / "config.json")
    _require_decoder(config, path / "config.json")
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    inner, vocab = config["intermediate_size"], config["vocab_size"]
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    per_layer = attention + 3 * hidden * inner + 2 * hidden
    embeddings = vocab * hidden * (1 if config.get("tie_word_embeddings", False) else 2)
    return ModelShape(
        num_parameters=layers * per_layer + embeddings + hidden,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        max_positions=config.get("max_position_embeddings") or 2**31,
        switch_length=switch_length(config),
    )
