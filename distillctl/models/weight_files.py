"""Whether the weights in a model directory are all there, from the headers of its safetensors files alone.

Imports no torch. What only the model's own class knows, which tensors it needs and of what shapes, is looked
at afterwards (`models.loadable`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.files.reading import read_json
from distillctl.models.safetensors_header import AGAIN, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Which shard holds which tensor, in a model of more than one file."""
_LAYER = re.compile(r"(?:.*?\.)?(?:layers|h|blocks)\.(\d+)\.")
"""How tensors of a layer begin."""
_MANY_LAYERS = 1000
"""No model has so many; to build them without memory takes seconds."""
_CODE = "auto_map"
"""Key of a configuration that names classes in the repository's own code."""


def check_weights(path: Path, key: str) -> None:
    """Raise ConfigError naming `key` unless the directory's safetensors are all there and whole."""
    files = weight_files(path)
    if not files and not (path / INDEX).is_file():
        pickled = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)]
        found = f", only {pickled[0]}" if pickled else ""
        raise ConfigError(
            f"{key}: {path} has no .safetensors weights{found}",
            "convert them with model.save_pretrained(); pickled weights are not loaded",
        )
    headers = {file.name: read_header(file, key) for file in files}
    tensors = _loaded(path, key, headers)
    _check_quantization(path, key)
    _check_embeddings(path, key, tensors)
    _check_layers(path, key, tensors)


def weight_files(path: Path) -> list[Path]:
    """A directory's safetensors; hidden files, such as a Mac writes beside each, are read by nobody."""
    return sorted(file for file in path.glob("*.safetensors") if not file.name.startswith("."))


def loaded_files(path: Path) -> list[str]:
    """Names of the files that transformers loads a model from."""
    if (path / SINGLE).is_file():
        return [SINGLE]
    return sorted(set(read_json(path / INDEX)["weight_map"].values()))


def require_engine_files(path: Path, key: str) -> None:
    """Raise ConfigError unless vLLM loads the files that transformers does.

    It takes those that the index names where there is one, and else all there are (`_prepare_weights` and
    `filter_duplicate_safetensors_files` of its loader).
    """
    ours = loaded_files(path)
    if (path / INDEX).is_file():
        shard_of = read_json(path / INDEX).get("weight_map")
        if ours == [SINGLE] and (not isinstance(shard_of, dict) or set(shard_of.values()) != {SINGLE}):
            raise ConfigError(
                f"{key}: {path} has {SINGLE} and an {INDEX} of other files: the engine would load those",
                f"remove {INDEX}, or {SINGLE} where the index is the right one",
            )
        return
    others = sorted({file.name for file in weight_files(path)} - set(ours))
    if others:
        raise ConfigError(
            f"{key}: {path} has {', '.join(others[:5])} beside {SINGLE}, which the engine would load too",
            f"move what does not belong to the model to another folder: {others[0]}",
        )


def layer_of(name: str) -> int | None:
    """The number of the layer that a tensor belongs to; None for any other."""
    match = _LAYER.match(name)
    return int(match[1]) if match else None


def code_refused(model: str) -> ConfigError:
    return ConfigError(
        f"{model} needs code from its repository (auto_map), which is never run",
        "use a model whose architecture transformers has",
    )


def needs_code(tree: object) -> bool:
    """Whether a configuration asks for code of its repository, at any depth."""
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


def _loaded(path: Path, key: str, headers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entries of the tensors that are loaded: of the single file, or of the shards that the index names.

    Raises ConfigError where the same tensor is in two files, of which an engine would take either.
    """
    if SINGLE in headers:
        used = {SINGLE}
    elif (path / INDEX).is_file():
        used = _check_index(path / INDEX, key, headers)
    else:
        raise ConfigError(
            f"{key}: {path} has neither {SINGLE} nor {INDEX}, only {min(headers)}",
            "a model's weights are found by these names; save it again with model.save_pretrained()",
        )
    tensors: dict[str, Any] = {}
    for file in sorted(used) + sorted(headers.keys() - used if len(used) == 1 else []):
        for name, entry in headers[file].items():
            if name in tensors:
                raise ConfigError(
                    f"{key}: {path} holds {name[:80]} twice, in {file} too",
                    "remove the file that does not belong to the model",
                )
            if file in used:
                tensors[name] = entry
    return tensors


def _check_quantization(path: Path, key: str) -> None:
    settings = read_json(path / "config.json").get("quantization_config")
    if settings is not None and not isinstance(settings, dict):
        raise ConfigError(
            f"{key}: config.json of {path} has quantization_config={json.dumps(settings)[:80]}, which is not "
            "a JSON object",
            f"remove it where the weights are not quantised, or {AGAIN}",
        )


def _check_embeddings(path: Path, key: str, tensors: dict[str, Any]) -> None:
    """The embeddings, under the name that the Llama and Qwen families use, have the sizes of config.json."""
    shape = tensors.get("model.embed_tokens.weight", {}).get("shape")
    config = read_json(path / "config.json")
    sizes = [config.get("vocab_size"), config.get("hidden_size")]
    are_sizes = all(type(size) is int for size in sizes)  # what they are not, model_shape says
    if are_sizes and shape not in (None, sizes):
        raise ConfigError(
            f"{key}: {path} does not belong to its config.json: embeddings of {shape}, vocab_size and "
            f"hidden_size are {sizes}",
            AGAIN,
        )


def _check_layers(path: Path, key: str, tensors: dict[str, Any]) -> None:
    """A config.json that asks for many more layers than there are is refused here: to build a model of
    millions of them would take hours."""
    wanted = read_json(path / "config.json").get("num_hidden_layers")
    found = {layer for layer in map(layer_of, tensors) if layer is not None}
    if type(wanted) is not int or wanted <= len(found) + _MANY_LAYERS:
        return
    first = next(i for i in range(wanted) if i not in found)
    raise ConfigError(
        f"{key}: {path} lacks {wanted - len(found)} of the {wanted} layers that its config.json asks for "
        f"(num_hidden_layers), from layer {first} on",
        AGAIN,
    )


def _check_index(index: Path, key: str, tensors: dict[str, dict[str, Any]]) -> set[str]:
    """The shards that the index names; every tensor of it has to be in its shard."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ConfigError(f"{key}: {index} has no weight_map", AGAIN)
    missing = sorted({str(shard) for shard in shard_of.values()} - tensors.keys())
    if missing:
        more = f" and {len(missing) - 1} more shards" if len(missing) > 1 else ""
        raise ConfigError(f"{key}: {index.parent} lacks {missing[0]}{more}, which {index.name} names", AGAIN)
    for name, shard in shard_of.items():
        if name not in tensors[str(shard)]:
            raise ConfigError(
                f"{key}: {index.parent / str(shard)} lacks {name}, which {index.name} names", AGAIN
            )
    return {str(shard) for shard in shard_of.values()}
