"""Kept answers: an evaluation that was interrupted goes on, one that is done is read.

A folder for each model, list of prompts and setting, named by the hash of its key: `part_N.parquet` for each
batch of prompts, and `index.json`, which lists the parts with their hashes. What does not agree with the
index, or with what is asked, is not trusted: it is removed, and asked again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillctl.errors import ConfigError
from distillctl.evaluate.cache_lock import hold, make_private, try_hold
from distillctl.evaluate.private_file import read_private, read_private_json, write_private
from distillctl.files import lock
from distillctl.files.atomic import PARTIAL
from distillctl.files.reading import is_regular
from distillctl.terminal.progress import note

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
"""Of the index; answers under another one are asked again."""
MAX_BYTES = 1 << 30
"""Of all kept answers; the least recently used ones are dropped above it."""
_INDEX = "index.json"
_FOLDER = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"part_[0-9]{6,}\.parquet")
_OWN = re.compile(f"{_PART.pattern}|{re.escape(_INDEX)}|{PARTIAL.pattern}")
"""Files that are removed with a folder; nothing else is."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer as it is kept: `row` of the data (from 0), `sample` from 0."""

    row: int
    sample: int
    prompt_ids: list[int]
    response_ids: list[int]
    text: str
    """Special tokens left out."""
    finish_reason: str


class Entry:
    """The answers of one model to one list of prompts under one setting. For whoever holds its lock."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self._key = dict(key)
        self._parts: dict[str, dict[str, Any]] = {}
        self._facts: dict[str, Any] = {}

    def load(self, prompts: Mapping[int, Sequence[int]], num_samples: int) -> tuple[list[Response], float]:
        """The kept answers in their order, and the seconds they took to generate.

        `prompts`: token ids by row, of what is asked. Answers that are damaged, or to anything else, are
        removed, which is said on stderr; then there are none.
        """
        try:
            self._read_index()
            found = [response for name in self._parts for response in self._read_part(name)]
            _require_asked(found, prompts, num_samples)
        except _Damaged as damage:
            note(f"the answers kept in {self.folder} are not used: {damage}; they are asked again")
            self._clear()
            return [], 0.0
        for path in _own_files(self.folder):
            if _PART.fullmatch(path.name) and path.name not in self._parts:  # written just before a kill
                path.unlink()
        return found, sum(float(part["seconds"]) for part in self._parts.values())

    def append(self, responses: Sequence[Response], seconds: float) -> None:
        """Keep a part; whole or not there."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{name: getattr(response, name) for name in Response.__slots__} for response in responses]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, _schema()), buffer)
        name = f"part_{len(self._parts):06d}.parquet"
        write_private(self.folder / name, buffer.getvalue())
        self._parts[name] = {"sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), "seconds": seconds}
        self._write_index()

    def fact(self, name: str) -> Any:
        """What was noted of the answers under `name`; None where nothing was."""
        return self._facts.get(name)

    def note(self, name: str, value: Any) -> None:
        """Remember something that was computed from the answers."""
        self._facts[name] = value
        self._write_index()

    def _read_index(self) -> None:
        tree = read_private_json(self.folder / _INDEX)
        content = tree.get("content")
        if not any(path.name == _INDEX or _PART.fullmatch(path.name) for path in _own_files(self.folder)):
            return
        if not isinstance(content, dict) or tree.get("sha256") != _digest(content):
            raise _Damaged(f"{_INDEX} is missing or changed")
        if content.get("format") != FORMAT or content.get("key") != json.loads(json.dumps(self._key)):
            raise _Damaged(f"{_INDEX} belongs to other answers")
        self._parts, self._facts = content["parts"], content["facts"]

    def _write_index(self) -> None:
        content = {"format": FORMAT, "key": self._key, "parts": self._parts, "facts": self._facts}
        write_private(
            self.folder / _INDEX, json.dumps({"sha256": _digest(content), "content": content}).encode()
        )

    def _read_part(self, name: str) -> list[Response]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            data = read_private(self.folder / name)
        except OSError as error:
            raise _Damaged(f"{name} cannot be read: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != self._parts[name]["sha256"]:
            raise _Damaged(f"{name} has changed since it was written")
        table = pq.ParquetFile(pa.BufferReader(data)).read()  # read_table would import pandas first
        return [Response(**row) for row in table.to_pylist()]

    def _clear(self) -> None:
        self._parts, self._facts = {}, {}
        _remove_files(self.folder)


class Cache:
    """All kept answers below `root`; without one nothing is kept.

    `memory`: the user's own folder, which alone is trusted with the hashes of model files.
    """

    def __init__(self, root: Path | None, memory: Path | None) -> None:
        self.root, self.memory = root, memory

    @contextmanager
    def entry(self, key: Mapping[str, Any]) -> Iterator[Entry | None]:
        """The answers of `key`, for this process alone: waits while another one has them.

        None where nothing is kept, or can be: the latter is said once.
        """
        found = None
        with ExitStack() as stack:
            if self.root is not None:
                folder = self.root / _digest(key)[:32]
                try:
                    make_private(self.root)
                    stack.enter_context(hold(folder))
                    found = Entry(folder, key)
                except OSError as error:
                    self.give_up(error)
            yield found

    def give_up(self, error: OSError) -> None:
        """Keep nothing from now on, because the folder does not take it."""
        where = error.filename or self.root
        note(f"answers are not kept: {where}: {error.strerror or error}; --cache-dir names another folder")
        self.root = None

    def trim(self) -> None:
        """Drop the least recently used answers above MAX_BYTES in all, but none that a process uses."""
        if self.root is None:
            return
        folders = [path.parent for path in self.root.glob("*/.lock") if _FOLDER.fullmatch(path.parent.name)]
        sizes = {path: _size(path) for path in sorted(folders, key=_last_use)}
        if sum(sizes.values()) <= MAX_BYTES:
            return
        sizes = {path: size for path, size in sizes.items() if _is_ours(path)}
        total = sum(sizes.values())
        for path, size in sizes.items():
            if total <= MAX_BYTES:
                return
            with suppress(OSError):  # what cannot be dropped stays
                _drop(path)
            total -= size - _size(path)


def open_cache(folder: Path | None, *, keep: bool = True) -> Cache:
    """The answers kept in `folder`, by default those in the user's cache directory; none unless `keep`.

    The directory is XDG_CACHE_HOME (XDG Base Directory Specification 0.8: an absolute path, else ignored), or
    `~/.cache`. Raises ConfigError for a folder that is none.
    """
    if not keep:
        return Cache(None, None)
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = named if os.path.isabs(named) else os.path.expanduser("~/.cache")
    user = Path(home) / "distillctl" / "eval" if os.path.isabs(home) else None
    if folder is None:
        if user is None:
            note("answers are not kept: this user has no home; --cache-dir names a folder")
        return Cache(user, user)
    folder = Path(os.path.expanduser(folder)).absolute()
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ConfigError(
            f"--cache-dir {folder}: is not a directory", "name a directory; it is made if need be"
        )
    return Cache(folder, user)


class _Damaged(Exception):
    """Kept answers that cannot be trusted, and why."""


def _require_asked(found: Sequence[Response], prompts: Mapping[int, Sequence[int]], num_samples: int) -> None:
    """Every answer is to one of the prompts, and the only one of its number."""
    if len({(one.row, one.sample) for one in found}) < len(found):
        raise _Damaged("an answer is there twice")
    for one in found:
        if one.prompt_ids != prompts.get(one.row) or not 0 <= one.sample < num_samples:
            raise _Damaged("there are answers to other prompts")


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _last_use(folder: Path) -> int:
    try:
        return (folder / ".lock").lstat().st_mtime_ns
    except OSError:
        return 0


def _size(folder: Path) -> int:
    try:
        return sum(path.lstat().st_size for path in _own_files(folder))
    except OSError:  # dropped in between
        return 0


def _is_ours(folder: Path) -> bool:
    """Whether a folder was made here: its index has the key that the folder is named after. Without one, as a
    kill leaves it, it has a lock with a pid, and nothing that is not ours."""
    if folder.is_symlink():
        return False
    tree = read_private_json(folder / _INDEX)
    content = tree.get("content")
    if isinstance(content, dict) and isinstance(content.get("key"), dict):
        return tree.get("sha256") == _digest(content) and _digest(content["key"])[:32] == folder.name
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:  # dropped in between
        return False
    others = names - {path.name for path in _own_files(folder)}
    return _INDEX not in names and others == {".lock"} and bool(lock.content(folder / ".lock"))


def _drop(folder: Path) -> None:
    """Remove the answers in a folder, unless they are in use; raises OSError where anything stays."""
    descriptor = try_hold(folder)
    if descriptor is None:
        return
    try:
        _remove_files(folder)
        (folder / ".lock").unlink()
        folder.rmdir()
    finally:
        os.close(descriptor)


def _remove_files(folder: Path) -> None:
    for path in _own_files(folder):
        path.unlink()


def _own_files(folder: Path) -> list[Path]:
    """The files in a folder that have the name of one that is written here."""
    return [path for path in folder.iterdir() if _OWN.fullmatch(path.name) and is_regular(path)]


def _schema() -> pa.Schema:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    return pa.schema(
        [
            ("row", pa.int32()),
            ("sample", pa.int32()),
            ("prompt_ids", ids),
            ("response_ids", ids),
            ("text", pa.string()),
            ("finish_reason", pa.string()),
        ]
    )
