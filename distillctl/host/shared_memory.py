"""Files in memory (/dev/shm): a private directory for each launcher, and the sweep of what killed ones left.

Every file and directory is named after its launcher, by pid, start time and PID namespace, so that the next
start of anything knows which have no owner any more. Pids of another namespace mean nothing here: containers
may share /dev/shm. So each launcher holds a lock on its directory, and what comes from elsewhere counts as
alive as long as a directory of the same owner is locked.

Only what has the exact form of something made here is swept: its name, its kind, and that it is this user's
alone.
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
"""As `tempfile.mkdtemp` names one."""
_FILES = (
    re.compile(rf"{_OWNER}-[0-9a-f]{{8}}"),  # shared_memory.SharedMemory
    re.compile(rf"sem\.{_OWNER}-[a-z0-9_]{{8}}"),  # multiprocessing.synchronize.SemLock
)
_MARK = re.compile(rf"{_OWNER}-pid-(?P<marked>[0-9]+)")
"""Of an empty file (`mark`)."""


def owner(pid: int | None = None) -> str:
    """`distillctl-PID-START-nNAMESPACE`: a name that no other process of this boot has."""
    pid = os.getpid() if pid is None else pid
    return f"distillctl-{pid}-{_start_time(pid)}-n{_namespace()}"


def mark(name: str) -> None:
    """Say that this process belongs to the owner `name`, so that OpenMP's file of it goes with its owner.

    Intel's OpenMP registers each process under its pid and user and leaves that behind when it is killed; the
    file itself does not say of which namespace the pid is.
    """
    (ROOT / f"{name}-pid-{os.getpid()}").touch(mode=0o600)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A private directory in memory for sockets and weights, removed at the end with all else of ours.

    One at a time in a process, and no child may be left at its end. What killed processes left is removed
    first.
    """
    sweep()
    folder, descriptor = _make()
    try:
        yield folder
    finally:
        _remove(_groups().get(owner(), {}))
        os.close(descriptor)


def sweep() -> None:
    """Remove the files in memory whose process is gone."""
    for paths in _groups().values():
        match = next(iter(paths.values()))
        if match["namespace"] == _namespace() and _start_time(int(match["pid"])) == match["start"]:
            continue
        with _locks(paths) as are_free:
            if are_free:
                _remove(paths)


def _make() -> tuple[Path, int]:
    """A directory of our own and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{owner()}-", dir=ROOT))
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)  # a sweep in another namespace was faster than the lock


_Found = dict[Path, re.Match[str]]
"""What is there of an owner, with what its name says; directories last."""


def _groups() -> dict[str, _Found]:
    """What this user has in memory, by owner."""
    groups: dict[str, _Found] = {}
    for path in sorted(ROOT.iterdir(), key=lambda path: path.is_dir()):
        with suppress(FileNotFoundError):
            if match := _ours(path.name, path.lstat()):
                groups.setdefault(match["owner"], {})[path] = match
    return groups


def _ours(name: str, status: os.stat_result) -> re.Match[str] | None:
    """What a name says, if such a file or directory is made here."""
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
    """Holds the locks of an owner's directories; False when one is held, so that the owner lives."""
    with ExitStack() as stack:
        for folder in (path for path in paths if path.is_dir()):
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except (FileNotFoundError, PermissionError):  # another sweep was faster; its mode was changed
                continue
        yield True


def _remove(paths: _Found) -> None:
    """Remove everything of one owner; the directory, whose lock speaks for the rest, is the last to go."""
    for path, match in paths.items():
        if match["namespace"] == _namespace():
            _remove_openmp(int(match.groupdict().get("marked") or match["pid"]))
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, PermissionError):
                path.unlink()


def _remove_openmp(pid: int) -> None:
    """Remove the registration of a process that has ended."""
    path = ROOT / f"__KMP_REGISTERED_LIB_{pid}_{os.getuid()}"
    with suppress(FileNotFoundError):
        status = path.lstat()
        if not _start_time(pid) and stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid():
            path.unlink()


def _namespace() -> str:
    """Of this process's pids, as the number that the kernel gives it (namespaces(7))."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def _start_time(pid: int) -> str:
    """In clock ticks since boot (proc(5), field 22); empty when there is no such process or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
