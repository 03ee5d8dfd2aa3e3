"""Which folders `train` may write in: a new folder, or a run without links that lead out of it. No torch.

This is stricter than `directory.open_run`, because `train` writes, sweeps and rotates files in a run.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from distillctl.config.loading import load_config
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files import atomic, lock
from distillctl.files.reading import kind, read_head
from distillctl.monitor.trackers import TRACKERS
from distillctl.run import checkpoints
from distillctl.run.directory import STATES, RunDir
from distillctl.run.events import EventTail

_LOCK = ".lock"
_APPENDED = (_LOCK, "events.jsonl", *(name for one in TRACKERS.values() for name in one.files))
"""Files that are written in place. Another name of such a file (a hard link) would change too."""
_FILES = (*_APPENDED, "config.yaml", "provenance.json", "status.json")
_FOLDERS = (
    "checkpoints", "samples", "eval", "logs", *(one.folder for one in TRACKERS.values() if one.folder)
)  # fmt: skip
_INSIDE = {
    "checkpoints": ((re.compile(r"(latest|best)\.json"), False), (checkpoints.OWN_FOLDER, True)),
    "samples": ((re.compile(r"step_\d+\.parquet"), False),),
    "eval": ((re.compile(r"step_\d+\.(json|parquet)"), False),),
    "logs": ((re.compile(r"attempt_\d+"), True),),
}
"""Patterns of names in some of the folders, and whether such a name is a folder."""
_HEAD_BYTES = 1 << 16
"""Bytes at the start of a file that are enough to tell whether a run wrote it."""
_EVENT = re.compile(rb'\{"t": [0-9.]+, "attempt": [0-9]+, "step": [0-9]+, ')
"""The beginning of each line that `EventLog` writes."""


def holds_run(run: RunDir) -> bool:
    """Whether the folder holds a run. False when it is missing, empty, or left by a start that was killed.

    A run has a config.yaml that loads, and its own events.jsonl or status.json. Raises ConfigError for a
    folder with other content, and for a run in which a file that `train` writes or sweeps is a link or of the
    wrong kind. Raises EnvironmentUnfit for a folder that cannot be read. A path that is not a folder counts
    as no run; other checks refuse it.
    """
    try:
        with os.scandir(run.path) as found:
            entries = list(found)
    except PermissionError as error:
        hint = "choose another --run-dir"
        raise EnvironmentUnfit(f"{run.path} cannot be read: {error.strerror}", hint) from None
    except OSError:
        return False
    if not entries:
        return False
    _require_plain(run.path)
    if _is_begun(run, entries):
        return False
    if not os.path.lexists(run.config_path):
        raise _foreign(run.path, "it has no config.yaml")
    try:
        load_config(run.config_path)
    except ConfigError as error:
        raise _foreign(run.path, f"its config.yaml cannot be used: {error.message}") from None
    has_events = _has_events(run.events_path)
    if not (has_events or _has_status(run.status_path)):
        raise _foreign(run.path, "it has neither events.jsonl nor status.json of a run")
    if not has_events and not all(_may_be_torn(line) for line in _lines(run.events_path)):
        raise _foreign(run.path, "its events.jsonl holds no events of a run")
    return True


def _is_begun(run: RunDir, entries: list[os.DirEntry[str]]) -> bool:
    """Whether the folder holds only what a start makes before status.json: first the lock, then config.yaml.

    Any program may leave an empty .lock. It counts as a run's lock only beside a partial file that announces
    the lock.
    """
    partial = [lock.content(Path(entry.path)) for entry in entries if atomic.is_partial(entry)]
    others = {entry.name for entry in entries if not atomic.is_partial(entry)}
    if not others:
        return None not in partial
    told = lock.content(run.path / _LOCK)
    if told == b"" and any(partial):
        return others == {_LOCK}
    if not told or not others <= {_LOCK, "config.yaml"}:
        return False
    if "config.yaml" in others:
        try:
            load_config(run.config_path)
        except ConfigError:
            return False
    return True


def _foreign(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} is not empty and not a run: {why}",
        "choose another --run-dir: a new or an empty folder, or a run; nothing in this one was changed",
    )


def _require_plain(path: Path) -> None:
    """Raise ConfigError when a path that a run writes or sweeps is a link or of the wrong kind."""
    for found, is_folder in _written(path):
        try:
            status = os.lstat(found)
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(status.st_mode):
            raise ConfigError(
                f"{found} is a link, and a run is written in its own folder only",
                "replace the link by the file or folder that it leads to; to use another disk, put the whole "
                "run there; or choose another --run-dir",
            )
        if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(status.st_mode):
            wanted = "folder" if is_folder else "file"
            raise ConfigError(
                f"{found} is {kind(status.st_mode)} where a run has a {wanted}",
                "move it elsewhere, or choose another --run-dir",
            )
        if found.parent == path and found.name in _APPENDED and status.st_nlink > 1:
            raise ConfigError(
                f"{found} has other names (hard links), under which its content would change too",
                "put a copy in its place, or choose another --run-dir",
            )


def _written(path: Path) -> Iterator[tuple[Path, bool]]:
    """Each path that a run writes or sweeps, and whether it is a folder; a folder before its content."""
    yield from ((path / name, False) for name in _FILES)
    for name in _FOLDERS:
        yield path / name, True
        if name in _INSIDE and (path / name).is_dir():
            for inside in sorted((path / name).iterdir()):
                yield from ((inside, folder) for form, folder in _INSIDE[name] if form.fullmatch(inside.name))


def _has_status(path: Path) -> bool:
    try:
        value = json.loads(_head(path))
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("state") in STATES and type(value.get("attempt")) is int


def _has_events(path: Path) -> bool:
    """Whether the file holds an event of a run, or the beginning of one (its line is torn or too long)."""
    if any(_EVENT.match(line) for line in _lines(path)):
        return True
    return any({"t", "attempt"} <= event.keys() for event in EventTail(path).new_events())


def _may_be_torn(line: bytes) -> bool:
    """Whether a line that is not an event begins like one: a crash may have cut it anywhere."""
    return b'{"t": '.startswith(line.strip()[:6])


def _lines(path: Path) -> list[bytes]:
    """The lines at the beginning of a file, without NUL bytes.

    A power cut leaves NUL bytes in place of data that never reached the disk.
    """
    return _head(path).replace(b"\0", b"").splitlines()


def _head(path: Path) -> bytes:
    """The beginning of a file; empty when there is no file."""
    try:
        return read_head(path, _HEAD_BYTES)
    except FileNotFoundError:
        return b""
