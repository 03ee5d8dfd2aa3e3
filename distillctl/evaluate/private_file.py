"""Files of the cache: replaced as a whole, and read only if nobody else can have written them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from distillctl.files.atomic import replacing

_MAX_JSON_BYTES = 256 << 20


def write_private(path: Path, data: bytes) -> None:
    """Replace a file with one that only this user can read. On OSError, nothing is left behind."""
    with replacing(path, 0o600) as file:
        file.write(data)


def read_private(path: Path) -> bytes:
    """The bytes of a regular file of this user; raises OSError for a link and for a file others may write."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(0, "is not a file that only this user can write", str(path))
        return file.read()


def read_private_json(path: Path) -> dict[str, Any]:
    """The JSON object in such a file; empty if the file is missing, unreadable, or holds no JSON object."""
    try:
        if path.lstat().st_size > _MAX_JSON_BYTES:
            return {}
        value = json.loads(read_private(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
