"""One hash of all files that decide a model's responses. The hashes of unchanged files are remembered."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from distillctl.evaluate.cache_lock import hold, make_private
from distillctl.evaluate.private_file import read_private_json, write_private

_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""Files that decide a model's responses: weights, configuration and tokenizer."""
_FILE = "hashes.json"
_MAX_REMEMBERED = 4096
_SETTLED_NS = 2_000_000_000
"""The hash of a file that changed more recently is not remembered: the file may change again within the
resolution of its time stamps."""
_SHA256 = re.compile(r"[0-9a-f]{64}")

Remembered = dict[str, list[object]]
"""For each path, what `_state` returned, and then the hash."""


def model_hash(folder: Path, memory: Path | None) -> str:
    """SHA-256 over the names and bytes of all files of a model directory that decide its responses.

    `memory`: the user's own cache folder, which remembers the hashes of files by path, device, inode, size
    and times. With None nothing is remembered.
    """
    known = {} if memory is None else read_private_json(memory / _FILE)
    new: Remembered = {}
    hashes = {
        path.name: _file_hash(path, known, new)
        for path in sorted(folder.iterdir())
        if path.suffix in _SUFFIXES and path.is_file()
    }
    if memory is not None and new:
        with suppress(OSError):  # the next evaluation hashes them again
            _remember(memory, new)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path, known: Remembered, new: Remembered) -> str:
    real = os.path.realpath(path)
    with open(real, "rb") as file:
        state = _state(file.fileno())
        match known.get(real):
            case [*remembered, str(digest)] if remembered == state and _SHA256.fullmatch(digest):
                return digest
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        changed_ns = os.fstat(file.fileno()).st_ctime_ns
        if _state(file.fileno()) == state and time.time_ns() - changed_ns > _SETTLED_NS:
            new[real] = [*state, digest]
    return digest


def _state(descriptor: int) -> list[object]:
    found = os.fstat(descriptor)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _remember(memory: Path, new: Remembered) -> None:
    make_private(memory)
    with hold(memory, ".hashes.lock"):
        kept = {**read_private_json(memory / _FILE), **new}
        newest = dict(list(kept.items())[-_MAX_REMEMBERED:])
        write_private(memory / _FILE, json.dumps(newest).encode())
