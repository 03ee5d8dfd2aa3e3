"""Messages between trainer and rollout worker: a JSON header and raw arrays, no pickle.

On the wire: 4 bytes big-endian header length, the JSON header, then the bytes of each array that
`header["arrays"]` lists as [name, dtype, shape], in that order.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

Header = dict[str, Any]
Arrays = dict[str, np.ndarray]

_DTYPES = {"int32", "int64", "float32", "uint8"}
_MAX_HEADER_BYTES = 1 << 20


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
    """Read one message. Raises `Closed` at end of stream, ValueError for a malformed one."""
    (size,) = struct.unpack(">I", _read(sock, 4))
    if size > _MAX_HEADER_BYTES:
        raise ValueError(f"message header of {size} bytes; at most {_MAX_HEADER_BYTES} are allowed")
    header = json.loads(_read(sock, size))
    arrays: Arrays = {}
    for name, dtype, shape in header.pop("arrays"):
        if dtype not in _DTYPES:
            raise ValueError(f"array {name!r} has dtype {dtype!r}; allowed are {sorted(_DTYPES)}")
        num_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        arrays[name] = np.frombuffer(_read(sock, num_bytes), dtype=dtype).reshape(shape)
    return header, arrays


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
    """Ragged sequences as (flat values, int64 lengths)."""
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    flat = np.concatenate([np.asarray(s, dtype=dtype) for s in sequences]) if sequences else []
    return np.asarray(flat, dtype=dtype), lengths


def unpack(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """The inverse of `pack`."""
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
