"""The header of a safetensors file, checked against the file, without reading its tensors.

A file consists of 8 bytes with the header's length (little-endian), the header as JSON, and the tensors one
after another (https://github.com/huggingface/safetensors, "Format"). The header says how long the file must
be, so a broken download is found without reading gigabytes.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, TypeGuard

from distillctl.errors import ConfigError
from distillctl.files.reading import require_file

AGAIN = "download or copy the model again"
_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
"""Bits of one value of each dtype that the format knows."""
_MAX_DIMENSIONS = 64
"""Most dimensions of a tensor that torch can hold."""
_MAX_COUNT = 2**63 - 1
"""Largest size or offset of a tensor that torch can hold."""
_MAX_NAME = 1000
"""Most characters in a tensor's name. Names in models have about a hundred."""


def read_header(file: Path, key: str) -> dict[str, Any]:
    """Each tensor's `dtype`, `shape` and `data_offsets`, by name.

    Raises ConfigError naming `key` unless the file is complete: it is as long as its header says, its tensors
    have known dtypes and as many bytes as their shapes need, and they neither overlap nor leave gaps.
    """
    size = require_file(file, AGAIN)
    header, start = _read(file, key, size)
    if not header:
        raise _corrupt(file, key, "it holds no tensors")
    for name, entry in header.items():
        if len(name) > _MAX_NAME:
            raise _corrupt(file, key, f"its header has a name of {len(name)} characters")
        if not _is_text(name):
            raise _corrupt(file, key, f"its header has the name {name[:80]!r}, which is not text")
        if wrong := _fault(entry, size):
            raise _corrupt(file, key, f"its header has {wrong} for {name[:80]!r}")
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if first != end:
            how = "overlaps the one before it" if first < end else "leaves a hole before it"
            raise _corrupt(file, key, f"the data of {name[:80]!r} {how}")
        end = last
    if size != start + end:
        how = "truncated" if size < start + end else "longer than its header says"
        raise _corrupt(file, key, f"it is {how}: {size} bytes instead of {start + end}")
    return header


def _read(file: Path, key: str, size: int) -> tuple[dict[str, Any], int]:
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
    repeated: list[str] = []
    try:
        header = json.loads(data.decode(), object_pairs_hook=lambda pairs: _object(pairs, repeated))
    except (ValueError, RecursionError):
        raise _corrupt(file, key, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _corrupt(file, key, "its header is not a JSON object")
    if repeated:
        raise _corrupt(file, key, f"its header names {repeated[0][:80]!r} twice")
    header.pop("__metadata__", None)
    return header, 8 + length


def _object(pairs: list[tuple[str, Any]], repeated: list[str]) -> dict[str, Any]:
    """A JSON object; names that occur twice are appended to `repeated`."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            repeated.append(name)
        found[name] = value
    return found


def _fault(entry: object, size: int) -> str:
    """What is wrong with one tensor's entry in a file of `size` bytes; empty for a correct entry."""
    if not isinstance(entry, dict):
        return "no object"
    dtype = entry.get("dtype")
    shape = entry.get("shape")
    place = entry.get("data_offsets")
    if not _are_counts(place) or len(place) != 2:
        return "no place"
    if type(dtype) is not str or dtype not in _BITS:
        return f"the unknown dtype {json.dumps(dtype)[:40]}"
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        return "no shape"
    first, last = place
    num_values = math.prod(shape)
    if num_values > 8 * size:
        return "a shape with more values than the file has bits"
    num_bits = num_values * _BITS[dtype]
    if 8 * (last - first) != num_bits:
        return f"{last - first} bytes instead of the {num_bits / 8:g} of {dtype} {shape}"
    return ""


def _are_counts(value: object) -> TypeGuard[list[int]]:
    """Whether it is a list of non-negative integers within 64 bits."""
    return isinstance(value, list) and all(type(one) is int and 0 <= one <= _MAX_COUNT for one in value)


def _is_text(name: str) -> bool:
    """False for text with half of a surrogate pair, which JSON can spell but UTF-8 cannot encode."""
    return not any("\ud800" <= char <= "\udfff" for char in name)


def _corrupt(file: Path, key: str, why: str) -> ConfigError:
    return ConfigError(f"{key}: {file} is not a whole safetensors file: {why}", AGAIN)
