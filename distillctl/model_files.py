"""Whether the weights in a model directory are whole, from the headers of its safetensors files alone.

A safetensors file is 8 bytes with the header's length (little-endian), the header, which is JSON, and the
tensors. It is as long as the header says, so a broken download shows without reading gigabytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.files import read_json, require_file

INDEX = "model.safetensors.index.json"
"""Which shard holds which tensor, in a model of more than one file."""
_AGAIN = "download or copy the model again"
_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""


def check_weights(path: Path, key: str) -> None:
    """Raise ConfigError naming `key` unless the directory's safetensors are all there and whole."""
    files = sorted(path.glob("*.safetensors"))
    if not files and not (path / INDEX).is_file():
        pickled = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)]
        found = f", only {pickled[0]}" if pickled else ""
        raise ConfigError(
            f"{key}: {path} has no .safetensors weights{found}",
            "convert them with model.save_pretrained(); pickled weights are not loaded",
        )
    tensors = {file.name: _tensors(file, key) for file in files}
    for name, entries in tensors.items():
        _check_embeddings(path, key, name, entries)
    if (path / INDEX).is_file() and not (path / "model.safetensors").is_file():
        _check_index(path / INDEX, key, tensors)


def _check_embeddings(path: Path, key: str, name: str, tensors: dict[str, Any]) -> None:
    """The embeddings, under the name that the Llama and Qwen families use, have the sizes of config.json."""
    shape = tensors.get("model.embed_tokens.weight", {}).get("shape")
    config = read_json(path / "config.json")
    sizes = [config.get("vocab_size"), config.get("hidden_size")]
    are_sizes = all(type(size) is int for size in sizes)  # what they are not, model_shape says
    if are_sizes and shape not in (None, sizes):
        raise ConfigError(
            f"{key}: {path / name} does not belong to its config.json: embeddings of {shape}, vocab_size and "
            f"hidden_size are {sizes}",
            _AGAIN,
        )


def _check_index(index: Path, key: str, tensors: dict[str, dict[str, Any]]) -> None:
    """Every tensor of the index has to be in its shard."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ConfigError(f"{key}: {index} has no weight_map", _AGAIN)
    missing = sorted({str(shard) for shard in shard_of.values()} - tensors.keys())
    if missing:
        more = f" and {len(missing) - 1} more shards" if len(missing) > 1 else ""
        raise ConfigError(f"{key}: {index.parent} lacks {missing[0]}{more}, which {index.name} names", _AGAIN)
    for name, shard in shard_of.items():
        if name not in tensors[str(shard)]:
            raise ConfigError(
                f"{key}: {index.parent / str(shard)} lacks {name}, which {index.name} names", _AGAIN
            )


def _tensors(file: Path, key: str) -> dict[str, Any]:
    """The header's entry of each tensor; raises ConfigError when it is not as long as that says."""
    size = require_file(file, _AGAIN)
    header, start = _header(file, key, size)
    expected = start
    for name, entry in header.items():
        end = _end(entry)
        if end is None:
            raise _corrupt(file, key, f"its header has no place for {name[:80]!r}")
        expected = max(expected, start + end)
    if size != expected:
        how = "truncated" if size < expected else "longer than its header says"
        raise _corrupt(file, key, f"it is {how}: {size} bytes instead of {expected}")
    if not header:
        raise _corrupt(file, key, "it holds no tensors")
    return header


def _header(file: Path, key: str, size: int) -> tuple[dict[str, Any], int]:
    """The tensors' entries, and where in the file their data begins."""
    if size < 8:
        raise _corrupt(file, key, f"it has {size} bytes")
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            raise ConfigError(f"{key}: {file} is a pointer of Git LFS, not the weights", "git lfs pull")
        (length,) = struct.unpack("<Q", start)
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise _corrupt(file, key, f"its header would have {length} bytes, the file has {size}")
        data = stream.read(length)
    try:
        header = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise _corrupt(file, key, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _corrupt(file, key, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return header, 8 + length


def _end(entry: object) -> int | None:
    """Where a tensor's data ends, counted from where all data begins; None for an entry that does not say."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(o) is not int for o in offsets):
        return None
    return int(offsets[1]) if 0 <= offsets[0] <= offsets[1] else None


def _corrupt(file: Path, key: str, why: str) -> ConfigError:
    return ConfigError(f"{key}: {file} is not a whole safetensors file: {why}", _AGAIN)
