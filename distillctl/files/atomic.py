"""Replacing a file as a whole while other processes read it.

The new content is first written to a partial file beside the old one. Its name is random, in a form that
nobody else uses, and the file must not exist yet: we never write through a file or link that somebody put
there.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json  # refuses nesting so deep that json could read but not write it

from distillctl.errors import ConfigError
from distillctl.files.json_values import finite
from distillctl.files.reading import read_text

PARTIAL = re.compile(r"\.distillctl-[0-9a-f]{16}\.tmp")
"""Name of a partial file."""
MAX_BYTES = 16 << 20
"""Largest file that `read_object` reads; those of a run have a few hundred bytes."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole: a reader sees the old or the new one, even after a power cut.

    NaN and infinities become null, because JSON cannot hold them.
    """
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a partial file. It replaces `path` when the block succeeds and is removed when the block fails.

    `mode`: the permissions of the new file, before the umask.
    """
    partial = path.with_name(partial_name())
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(partial, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def partial_name() -> str:
    """A random name for a partial file, in the form that `sweep` removes."""
    return f".distillctl-{secrets.token_hex(8)}.tmp"


def is_partial(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry is a partial file, as a killed writer leaves behind."""
    return bool(PARTIAL.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)


def sweep(folder: Path) -> None:
    """Remove the partial files that killed writers left in `folder`. Call it only while nobody writes."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if is_partial(entry):
                os.unlink(entry.path)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing, unreadable, or holds no JSON object."""
    try:
        value = from_json(read_text(path, MAX_BYTES).encode())
    except (ConfigError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
