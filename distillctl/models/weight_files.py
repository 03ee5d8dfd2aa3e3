"""Whether all weights of a model directory are there, from the headers of its safetensors files alone.

Only the model's class knows which tensors it needs and in what shapes; `models.loadable` checks these
afterwards. Imports no torch.
"""

from __future__ import annotations

import json
import re
from typing import Any

from distillctl.errors import ConfigError
from distillctl.models.model_dir import INDEX, ModelDir
from distillctl.models.safetensors_header import AGAIN, read_header

SINGLE = "model.safetensors"
_LAYER = re.compile(r"(?:.*?\.)?(?:layers|h|blocks)\.(\d+)\.")
"""Matches the beginning of the name of a layer's tensor."""
_MANY_LAYERS = 1000
"""More layers than any model has. Building this many on the meta device takes seconds."""


def check_weights(model: ModelDir, key: str) -> None:
    """Raise ConfigError naming `key` unless all safetensors of a model are there and complete."""
    files = model.weight_files
    if not files and not model.has_weight_index:
        pickled = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in model.path.glob(pattern)]
        found = f", only {pickled[0]}" if pickled else ""
        raise ConfigError(
            f"{key}: {model} has no .safetensors weights{found}",
            "convert them with model.save_pretrained(); pickled weights are not loaded",
        )
    headers = {file.name: read_header(file, key) for file in files}
    tensors = _loaded(model, key, headers)
    _check_quantization(model, key)
    _check_embeddings(model, key, tensors)
    _check_layers(model, key, tensors)


def loaded_files(model: ModelDir) -> list[str]:
    """Names of the files that transformers loads a model from."""
    if (model.path / SINGLE).is_file():
        return [SINGLE]
    return sorted(set(model.weight_index["weight_map"].values()))


def require_engine_files(model: ModelDir, key: str) -> None:
    """Raise ConfigError unless vLLM loads the same files as transformers.

    vLLM loads the files that the index names. Without an index it loads all of them (`_prepare_weights` and
    `filter_duplicate_safetensors_files` of its loader).
    """
    ours = loaded_files(model)
    if model.has_weight_index:
        shard_of = model.weight_index.get("weight_map")
        if ours == [SINGLE] and (not isinstance(shard_of, dict) or set(shard_of.values()) != {SINGLE}):
            raise ConfigError(
                f"{key}: {model} has {SINGLE} and an {INDEX} of other files: the engine would load those",
                f"remove {INDEX}, or {SINGLE} where the index is the right one",
            )
        return
    others = sorted({file.name for file in model.weight_files} - set(ours))
    if others:
        raise ConfigError(
            f"{key}: {model} has {', '.join(others[:5])} beside {SINGLE}, which the engine would load too",
            f"move files that do not belong to the model to another folder: {others[0]}",
        )


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to; None for a tensor outside the layers."""
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def is_beyond(name: str, num_layers: object) -> bool:
    """Whether a tensor belongs to a layer after the last of `num_layers`, as config.json counts them."""
    layer = layer_of(name)
    return layer is not None and isinstance(num_layers, int) and layer >= num_layers


def _loaded(model: ModelDir, key: str, headers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entries of the tensors that are loaded, from the single file or the shards that the index names.

    Raises ConfigError when two files hold the same tensor, because an engine could take either.
    """
    if SINGLE in headers:
        used = {SINGLE}
    elif model.has_weight_index:
        used = _check_index(model, key, headers)
    else:
        raise ConfigError(
            f"{key}: {model} has neither {SINGLE} nor {INDEX}, only {min(headers)}",
            "a model's weights are found by these names; save it again with model.save_pretrained()",
        )
    tensors: dict[str, Any] = {}
    for file in sorted(used) + sorted(headers.keys() - used if len(used) == 1 else []):
        for name, entry in headers[file].items():
            if name in tensors:
                raise ConfigError(
                    f"{key}: {model} holds {name[:80]} twice, in {file} too",
                    "remove the file that does not belong to the model",
                )
            if file in used:
                tensors[name] = entry
    return tensors


def _check_quantization(model: ModelDir, key: str) -> None:
    settings = model.config.get("quantization_config")
    if settings is not None and not isinstance(settings, dict):
        raise ConfigError(
            f"{key}: config.json of {model} has quantization_config={json.dumps(settings)[:80]}, which is "
            "not a JSON object",
            f"remove it where the weights are not quantised, or {AGAIN}",
        )


def _check_embeddings(model: ModelDir, key: str, tensors: dict[str, Any]) -> None:
    """Raise ConfigError when the embeddings do not have the sizes of config.json.

    The embeddings are found under the name that the Llama and Qwen families use.
    """
    shape = tensors.get("model.embed_tokens.weight", {}).get("shape")
    config = model.config
    sizes = [config.get("vocab_size"), config.get("hidden_size")]
    are_sizes = all(type(size) is int for size in sizes)  # otherwise `model_shape` says what is wrong
    if are_sizes and shape not in (None, sizes):
        raise ConfigError(
            f"{key}: {model} does not belong to its config.json: embeddings of {shape}, vocab_size and "
            f"hidden_size are {sizes}",
            AGAIN,
        )


def _check_layers(model: ModelDir, key: str, tensors: dict[str, Any]) -> None:
    """Raise ConfigError when config.json asks for many more layers than the files hold.

    Building a model with millions of layers would take hours.
    """
    wanted = model.config.get("num_hidden_layers")
    found = {layer for layer in map(layer_of, tensors) if layer is not None}
    if type(wanted) is not int or wanted <= len(found) + _MANY_LAYERS:
        return
    first = next(i for i in range(wanted) if i not in found)
    raise ConfigError(
        f"{key}: {model} lacks {wanted - len(found)} of the {wanted} layers that its config.json asks for "
        f"(num_hidden_layers), from layer {first} on",
        AGAIN,
    )


def _check_index(model: ModelDir, key: str, tensors: dict[str, dict[str, Any]]) -> set[str]:
    """The shards that the index names. Raises ConfigError unless every tensor is in its shard."""
    shard_of = model.weight_index.get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ConfigError(f"{key}: {model.path / INDEX} has no weight_map", AGAIN)
    missing = sorted({str(shard) for shard in shard_of.values()} - tensors.keys())
    if missing:
        more = f" and {len(missing) - 1} more shards" if len(missing) > 1 else ""
        raise ConfigError(f"{key}: {model} lacks {missing[0]}{more}, which {INDEX} names", AGAIN)
    for name, shard in shard_of.items():
        if name not in tensors[str(shard)]:
            raise ConfigError(f"{key}: {model.path / str(shard)} lacks {name}, which {INDEX} names", AGAIN)
    return {str(shard) for shard in shard_of.values()}
