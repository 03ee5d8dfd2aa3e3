"""One launcher per run directory: an flock on a file that names its holder.

The kernel drops the lock with the process, so a killed launcher leaves none behind. The file itself stays:
removing it would let two launchers lock two files of the same name.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distillctl.errors import ConfigError, EnvironmentUnfit

_RETRIES = 5
_RETRY_S = 0.05


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold `path` for this process; raises ConfigError with the holder's pid when it is taken, and
    EnvironmentUnfit when it cannot be written."""
    try:
        opened = path.open("a+")
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise EnvironmentUnfit(message, "choose another --run-dir") from None
    with opened as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            raise ConfigError(
                f"{path.parent} is in use by process {file.read().strip() or 'unknown'}",
                "wait for it, stop it, or choose another --run-dir",
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def is_held(path: Path) -> bool:
    """Whether some process, this one included, holds `path` now."""
    try:
        file = path.open()
    except FileNotFoundError:
        return False
    with file:
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
