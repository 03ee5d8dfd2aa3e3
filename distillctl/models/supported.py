"""Which models are supported: dense decoders of the Llama and Qwen families.

A model that trains, is evaluated, or scores in the ranks has

- an architecture of the installed transformers, without code from its repository (`auto_map`);
- `...ForCausalLM` as its class, the sizes `DIMENSIONS` in config.json, and no experts (`EXPERT_COUNTS`);
- logits that are its LM head's matrix times the hidden state: neither a bias nor `LOGIT_TRANSFORMS` after it;
- plain causal attention, with or without a sliding window, and none of `ATTENTION_EXTRAS`;
- safetensors weights and a tokenizer.json; a student also a chat template and weights that are not quantised.

A teacher behind a vLLM server may have any architecture that vLLM has. Imports no torch.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError

DIMENSIONS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
"""Sizes that config.json must give. Parameters and memory are computed from them."""
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Keys of mixtures of experts (Qwen-MoE, Mixtral, DeepSeek), whose parameters are not counted."""
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Keys of architectures (Gemma 2, Cohere, Granite) that change the logits after the LM head."""
ATTENTION_EXTRAS = ("softcap", "s_aux")
"""Arguments of attention layers (Gemma 2, gpt-oss) that the packed attention does not take."""
USE_SUPPORTED = "use a model of the Llama or Qwen families"
"""The hint of every error for an unsupported model."""
_OPTIONAL_DIMENSIONS = ("num_key_value_heads", "head_dim", "max_position_embeddings")
_CODE = "auto_map"
"""Key of a configuration that names classes in the repository's own code."""


def require_decoder(config: dict[str, Any], file: Path) -> None:
    """Raise ConfigError unless a config.json, read from `file`, describes a dense decoder of transformers."""
    hint = "dense decoders of the Llama and Qwen families are supported"
    if needs_code(config):
        raise code_refused(str(file.parent))
    missing = [name for name in ("model_type", *DIMENSIONS) if name not in config]
    if missing:
        raise ConfigError(f"{file} has no {', '.join(missing)}", hint)
    optional = [name for name in _OPTIONAL_DIMENSIONS if config.get(name) is not None]
    for name in (*DIMENSIONS, *optional):
        if type(config[name]) is not int or config[name] < 1:
            raise ConfigError(
                f"{file}: {name} is {json.dumps(config[name])[:80]}, not a positive integer", hint
            )
    for name in EXPERT_COUNTS:
        if config.get(name) not in (None, 0):
            raise ConfigError(
                f"{file}: {name}={json.dumps(config[name])[:80]}: it is a mixture of experts", hint
            )
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or any(not str(name).endswith("ForCausalLM") for name in classes):
        raise ConfigError(
            f"{file}: architectures={json.dumps(classes)[:80]} is not a causal language model", hint
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


def needs_code(tree: object) -> bool:
    """Whether a configuration asks for code from its repository, at any depth."""
    left = [tree]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if _CODE in value:
                return True
            left += value.values()
        elif isinstance(value, list):
            left += value
    return False


def code_refused(model: str) -> ConfigError:
    """The error for a model that needs code from its repository."""
    return ConfigError(
        f"{model} needs code from its repository (auto_map), which is never run",
        "use a model whose architecture transformers has",
    )
