"""One evaluation at a time per folder of kept responses: an flock, which the kernel drops with its holder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distillctl.terminal.progress import note, task

_POLL_S = 0.1
_SAY_AFTER_S = 0.5
"""Shorter waits print nothing: the other process only reads."""


@contextmanager
def hold(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Make `folder`, private to this user, and hold the lock in it. Waits while it is taken, and says so.

    Raises OSError if the folder cannot be made, written or locked, and PermissionError if others may write
    into it.
    """
    descriptor = _take(folder, name)
    try:
        os.utime(descriptor)  # when the folder was last used
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def try_hold(folder: Path, name: str = ".lock") -> int | None:
    """Lock an existing folder. Returns the descriptor, for `os.close`; None if it is taken or has no lock."""
    try:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if _lock(descriptor, folder / name):
        return descriptor
    os.close(descriptor)
    return None


def make_private(folder: Path) -> None:
    """Make a folder and its missing parents, private to this user."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)


def require_private(folder: Path) -> None:
    """Raise PermissionError unless `folder` belongs to this user and nobody else may write into it."""
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(0, "is not a folder that only this user can write to", str(folder))


def _take(folder: Path, name: str) -> int:
    begun = time.monotonic()
    said = False
    with task(f"waiting for another evaluation, in {folder}") as advance:
        while True:
            folder.mkdir(mode=0o700, exist_ok=True)
            require_private(folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                descriptor = os.open(folder / name, flags, 0o600)
            except FileNotFoundError:  # the folder was dropped in between
                continue
            if _lock(descriptor, folder / name):
                return descriptor
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            if not said and time.monotonic() - begun > _SAY_AFTER_S:
                said = True
                note(f"waiting for process {holder or 'unknown'}, which is generating the same responses")
            advance(0)
            time.sleep(_POLL_S)


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file. False if it is taken, or if its folder was dropped and `path` is another file."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    return False
