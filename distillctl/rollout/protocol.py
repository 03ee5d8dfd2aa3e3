"""Messages between trainer and rollout worker: a JSON header and raw arrays, no pickle.

A message is the length of the header (4 bytes, big-endian), the JSON header, and the bytes of each array.
`header["arrays"]` lists the arrays as [name, dtype, shape], in the same order.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

Header = dict[str, Any]
Arrays = dict[str, np.ndarray]

_DTYPES = {"int32", "int64", "float32", "uint8"}
_MAX_HEADER_BYTES = 1 << 20
_MAX_DIMS = 4
MAX_ARRAY_BYTES = 16 << 30
"""Most bytes of arrays in one message. 8192 responses of 8192 tokens have 0.5 GiB of ids and
log-probabilities; `topk_ids` multiply that."""


class Closed(ConnectionError):
    """The other side closed the connection."""


def send(sock: socket.socket, header: Header, arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Write one message."""
    arrays = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    table = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    head = json.dumps({**header, "arrays": table}).encode()
    sock.sendall(struct.pack(">I", len(head)) + head)
    for array in arrays.values():
        sock.sendall(array.tobytes())


def receive(sock: socket.socket) -> tuple[Header, Arrays]:
    """Read one message. Raises `Closed` at the end of the stream and ValueError for a malformed message.

    Sizes are checked before memory is allocated for them. After a ValueError the stream cannot be used.
    """
    (size,) = struct.unpack(">I", _read(sock, 4))
    if size > _MAX_HEADER_BYTES:
        raise ValueError(f"message header of {size} bytes; at most {_MAX_HEADER_BYTES} are allowed")
    header, table = _parse(_read(sock, size))
    arrays = {name: _array(_read(sock, num_bytes), dtype, shape) for name, dtype, shape, num_bytes in table}
    return header, arrays


def _parse(data: bytearray) -> tuple[Header, list[tuple[str, str, list[int], int]]]:
    """The header, and the name, dtype, shape and number of bytes of every array that follows it."""
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"message header is not JSON: {type(error).__name__}") from None
    if not isinstance(header, dict) or not isinstance(header.get("arrays"), list):
        raise ValueError("message header is not an object with a list `arrays`")
    table = [(*entry, _num_bytes(entry)) for entry in header.pop("arrays")]
    if sum(num_bytes for *_, num_bytes in table) > MAX_ARRAY_BYTES:
        raise ValueError(f"message has more than {MAX_ARRAY_BYTES} bytes of arrays")
    return header, table


def _num_bytes(entry: Any) -> int:
    """Bytes of the array that an entry of the table describes; raises ValueError for an invalid entry."""
    match entry:
        case [str(name), str(dtype), [*shape]]:
            pass
        case _:
            raise ValueError("an array's entry is not [name, dtype, shape]")
    if dtype not in _DTYPES:
        raise ValueError(f"array {name!r} has dtype {dtype!r}; allowed are {sorted(_DTYPES)}")
    # `type` instead of isinstance, because True is an int too. Few dimensions keep the product small.
    if len(shape) > _MAX_DIMS or not all(type(n) is int and 0 <= n <= MAX_ARRAY_BYTES for n in shape):
        raise ValueError(f"array {name!r} has an impossible shape")
    return int(math.prod(shape)) * np.dtype(dtype).itemsize


def _array(data: bytearray, dtype: str, shape: list[int]) -> np.ndarray:
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _read(sock: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        got = sock.recv_into(view)
        if not got:
            raise Closed("the connection was closed")
        view = view[got:]
    return buffer


def pack(sequences: list[Any], dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Ragged sequences as (flat values of `dtype`, int64 lengths)."""
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    flat = np.concatenate([np.asarray(s, dtype=dtype) for s in sequences]) if sequences else []
    return np.asarray(flat, dtype=dtype), lengths


def unpack(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """The inverse of `pack`."""
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
