"""One launcher per run directory: an flock on a file that names its holder.

The kernel drops the lock with the process, so a killed launcher leaves none behind. The file itself stays:
removing it would let two launchers lock two files of the same name.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files import open_own, read_head

_RETRIES = 5
_RETRY_S = 0.05
_MAX_BYTES = 32
"""Of a pid and the end of its line."""
_CONTENT = re.compile(rb"(\d{1,20}\n)?")


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold `path` for this process.

    Raises ConfigError with the holder's pid when it is taken, and for what is no lock (a link, another kind
    of file, one that says anything but a pid), EnvironmentUnfit when it cannot be written.
    """
    try:
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise EnvironmentUnfit(message, "choose another --run-dir") from None
    with os.fdopen(descriptor, "r+b") as file:
        told = file.read(_MAX_BYTES + 1)
        if not _CONTENT.fullmatch(told):
            hint = "move it out of the way, or choose another --run-dir"
            raise ConfigError(f"{path} is not a lock of distillctl", hint)
        if not _try_lock(descriptor):
            raise ConfigError(
                f"{path.parent} is in use by process {told.decode().strip() or 'unknown'}",
                "wait for it, stop it, or choose another --run-dir",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield


def is_lock(path: Path) -> bool:
    """Whether there is a file that `hold` writes: one with a pid, or an empty one."""
    try:
        return bool(_CONTENT.fullmatch(read_head(path, _MAX_BYTES + 1)))
    except (ConfigError, OSError):
        return False


def is_held(path: Path) -> bool:
    """Whether some process, this one included, holds `path` now; never where it is no regular file."""
    try:
        descriptor = open_own(path)
    except (ConfigError, FileNotFoundError):  # what is no regular file is no lock
        return False
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _try_lock(descriptor: int) -> bool:
    # More than one try, because `is_held` of another process takes the lock for a moment.
    for _ in range(_RETRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_RETRY_S)
    return False
