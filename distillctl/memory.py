"""Files in memory (/dev/shm): a private directory for each launcher, and the sweep of what killed ones left.

Every file and directory is named after its launcher, by pid and start time, so that the next start of
anything knows which have no owner any more.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/dev/shm")
_OURS = re.compile(r"(?:sem\.)?distillctl-(\d+)-(\d+)-.*")
"""Semaphores have a prefix of their own."""
_OPENMP = re.compile(r"__KMP_REGISTERED_LIB_(\d+)_(\d+)")
"""Intel's OpenMP registers each process under its pid and user, and leaves that behind when it is killed."""


def owner(pid: int | None = None) -> str:
    """`distillctl-PID-START`: a name that no other process of this boot has."""
    pid = os.getpid() if pid is None else pid
    return f"distillctl-{pid}-{_start_time(pid)}"


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A private directory in memory for sockets and weights, removed at the end with all else of ours.

    One at a time in a process, and no child may be left at its end. What killed processes left is removed
    first.
    """
    sweep()
    try:
        with tempfile.TemporaryDirectory(prefix=f"{owner()}-", dir=ROOT) as folder:
            yield Path(folder)
    finally:
        sweep(finished=owner())


def sweep(finished: str | None = None) -> None:
    """Remove files in memory whose process is gone, and those of `finished` (see `owner`)."""
    for path in ROOT.iterdir():
        if match := _OURS.fullmatch(path.name):
            pid, start = int(match[1]), match[2]
            if _start_time(pid) == start and finished != f"distillctl-{pid}-{start}":
                continue
        elif not ((match := _OPENMP.fullmatch(path.name)) and _is_stale(int(match[1]), int(match[2]))):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, PermissionError):
                path.unlink()


def _is_stale(pid: int, user: int) -> bool:
    return user == os.getuid() and not _start_time(pid)


def _start_time(pid: int) -> str:
    """In clock ticks since boot (proc(5), field 22); empty when there is no such process or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]
