"""Files that several processes read while one replaces them, whole or not at all.

What takes a file's place is written under a random name of a form that nobody else uses. Such a name is made
anew, never opened, so that no file and no link of that name is written through.
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

from pydantic_core import from_json  # refuses a nesting that json would read and then not write

from distillctl.errors import ConfigError
from distillctl.files.json_values import finite
from distillctl.files.reading import read_text

PARTIAL = re.compile(r"\.distillctl-[0-9a-f]{16}\.tmp")
"""Name of what is not written to its end."""
MAX_BYTES = 16 << 20
"""Of a file that `read_object` reads: those of a run have a few hundred bytes."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole: a reader sees the old or the new one, also after a power cut.

    NaN and infinities become null, which is all that JSON has for them.
    """
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block succeeds and is gone when it fails.

    `mode`: its permissions, less the umask.
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
    """A name that no other file has, of the form that `sweep` knows."""
    return f".distillctl-{secrets.token_hex(8)}.tmp"


def is_partial(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry is what a writer that was killed left."""
    return bool(PARTIAL.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left in `folder`. Call it while nobody writes."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if is_partial(entry):
                os.unlink(entry.path)


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty when there is none, or it is unreadable, no object or not a file."""
    try:
        value = from_json(read_text(path, MAX_BYTES).encode())
    except (ConfigError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
