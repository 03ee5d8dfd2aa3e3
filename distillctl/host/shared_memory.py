"""Files in shared memory (/dev/shm): a private directory per launcher, and removal of what killed ones left.

Every file and directory is named after its launcher: its pid, start time and PID namespace. The next start of
any launcher can then tell which files have lost their owner. Containers may share /dev/shm, and pids of
another namespace mean nothing here. So each launcher also holds a lock on its directory, and an owner in
another namespace counts as alive as long as one of its directories is locked.

The sweep removes only what has exactly the form of something made here: its name, its kind, and access for
this user alone.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROOT = Path("/dev/shm")
_OWNER = r"(?P<owner>distillctl-(?P<pid>[0-9]+)-(?P<start>[0-9]+)-n(?P<namespace>[0-9]+))"
_FOLDER = re.compile(rf"{_OWNER}-[a-z0-9_]{{8}}")
"""Name of a directory, as `tempfile.mkdtemp` makes it."""
_FILES = (
    re.compile(rf"{_OWNER}-[0-9a-f]{{8}}"),  # shared_memory.SharedMemory
    re.compile(rf"sem\.{_OWNER}-[a-z0-9_]{{8}}"),  # multiprocessing.synchronize.SemLock
)
_MARK = re.compile(rf"{_OWNER}-pid-(?P<marked>[0-9]+)")
"""Name of the empty file that `mark` makes."""


def owner(pid: int | None = None) -> str:
    """`distillctl-PID-START-nNAMESPACE`: a name that no other process has until the next boot."""
    pid = os.getpid() if pid is None else pid
    return f"distillctl-{pid}-{_start_time(pid)}-n{_namespace()}"


def mark(name: str) -> None:
    """Record that this process belongs to the owner `name`; its OpenMP file is then removed with the owner.

    Intel's OpenMP registers each process in a file named after its pid and user, and leaves the file behind
    when the process is killed. The file does not say which namespace the pid is from.
    """
    (ROOT / f"{name}-pid-{os.getpid()}").touch(mode=0o600)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A private directory in shared memory for sockets and weights.

    Leaving the context removes it together with everything else of this owner, so a process may have only one
    at a time, and no child may still run then. Files that killed processes left are removed first.
    """
    sweep()
    folder, descriptor = _make()
    try:
        yield folder
    finally:
        _remove(_groups().get(owner(), {}))
        os.close(descriptor)


def sweep() -> None:
    """Remove the files in shared memory whose owner is gone."""
    for paths in _groups().values():
        match = next(iter(paths.values()))
        if match["namespace"] == _namespace() and _start_time(int(match["pid"])) == match["start"]:
            continue
        with _locks(paths) as are_free:
            if are_free:
                _remove(paths)


def _make() -> tuple[Path, int]:
    """Make a directory and lock it; returns its path and the descriptor that holds the lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{owner()}-", dir=ROOT))
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)  # a sweep in another namespace was faster than the lock


_Found = dict[Path, re.Match[str]]
"""Paths of one owner, each with the match of its name; directories come last."""


def _groups() -> dict[str, _Found]:
    """What this user has in shared memory, by owner."""
    groups: dict[str, _Found] = {}
    for path in sorted(ROOT.iterdir(), key=lambda path: path.is_dir()):
        with suppress(FileNotFoundError):
            if match := _ours(path.name, path.lstat()):
                groups.setdefault(match["owner"], {})[path] = match
    return groups


def _ours(name: str, status: os.stat_result) -> re.Match[str] | None:
    """The match of a name, if we make files or directories of such a name, kind and access."""
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        return None
    if stat.S_ISDIR(status.st_mode):
        return _FOLDER.fullmatch(name)
    if not stat.S_ISREG(status.st_mode):
        return None
    forms = _FILES if status.st_size else (*_FILES, _MARK)
    return next(filter(None, (form.fullmatch(name) for form in forms)), None)


@contextmanager
def _locks(paths: _Found) -> Iterator[bool]:
    """Lock an owner's directories; yields False if another process holds a lock: the owner lives."""
    with ExitStack() as stack:
        for folder in (path for path in paths if path.is_dir()):
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except (FileNotFoundError, PermissionError):  # another sweep was faster, or its mode was changed
                continue
        yield True


def _remove(paths: _Found) -> None:
    """Remove everything of one owner. The directory goes last, because its lock protects the rest."""
    for path, match in paths.items():
        if match["namespace"] == _namespace():
            _remove_openmp(int(match.groupdict().get("marked") or match["pid"]))
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, PermissionError):
                path.unlink()


def _remove_openmp(pid: int) -> None:
    """Remove the OpenMP registration of a process that has ended."""
    path = ROOT / f"__KMP_REGISTERED_LIB_{pid}_{os.getuid()}"
    with suppress(FileNotFoundError):
        status = path.lstat()
        if not _start_time(pid) and stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid():
            path.unlink()


def _namespace() -> str:
    """The kernel's number of this process's PID namespace (namespaces(7))."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _start_time(pid: int) -> str:
    """Start of a process in clock ticks since boot (proc(5), field 22); empty if it ended or never was."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
