"""One launcher per run directory: an flock on a file that names its holder.

The kernel drops the lock when the process ends, so a killed launcher leaves no lock behind. The file itself
stays: if it were removed, two launchers could lock two different files of the same name.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files.atomic import partial_name
from distillctl.files.reading import open_own, read_head

_RETRIES = 5
_RETRY_S = 0.05
_MAX_BYTES = 32
"""Longest content of a lock file: a pid and a line break."""
_CONTENT = re.compile(rb"([0-9]{1,20}\n+)?")


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold the lock file `path` for this process.

    Raises ConfigError when another process holds it (the message has its pid), and when `path` is not a lock
    file: a link, a special file, or a file with any other content than a pid. Raises EnvironmentUnfit when
    the file cannot be written.
    """
    try:
        with nullcontext() if content(path) else _announced(path):
            descriptor = _take(path)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise EnvironmentUnfit(message, "choose another --run-dir") from None
    try:
        yield
    finally:
        os.close(descriptor)


def content(path: Path) -> bytes | None:
    """Content of a lock file: a pid, or nothing yet. None if the file is missing or is something else."""
    try:
        found = read_head(path, _MAX_BYTES + 1)
    except (ConfigError, OSError):
        return None
    return found if _CONTENT.fullmatch(found) else None


@contextmanager
def _announced(path: Path) -> Iterator[None]:
    """Keep a partial file with our pid beside the empty lock file, as a sign that we made it.

    The sign is removed once the lock file has its pid.
    """
    announcement = path.with_name(partial_name())
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(announcement, flags, 0o666)
    try:
        os.write(descriptor, _line())
        yield
    finally:
        os.close(descriptor)
        with suppress(OSError):
            os.unlink(announcement)


def _take(path: Path) -> int:
    """Lock the file and write our pid into it; returns the descriptor that holds the lock."""
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        told = os.pread(descriptor, _MAX_BYTES + 1, 0)
        if not _CONTENT.fullmatch(told):
            hint = "move it out of the way, or choose another --run-dir"
            raise ConfigError(f"{path} is not a lock file of distillctl", hint)
        if not _try_lock(descriptor):
            raise ConfigError(
                f"{path.parent} is in use by process {told.decode().strip() or 'unknown'}",
                "wait for it, stop it, or choose another --run-dir",
            )
        line = _line()
        os.pwrite(descriptor, line.ljust(len(told), b"\n"), 0)  # the file has a pid at every moment
        os.ftruncate(descriptor, len(line))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _line() -> bytes:
    return f"{os.getpid()}\n".encode()


def is_held(path: Path) -> bool:
    """Whether some process, this one included, holds `path` now. A file that is not regular is not a lock."""
    try:
        descriptor = open_own(path)
    except (ConfigError, FileNotFoundError):
        return False
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _try_lock(descriptor: int) -> bool:
    # Several tries, because another process takes the lock for a moment in `is_held`.
    for _ in range(_RETRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_RETRY_S)
    return False
