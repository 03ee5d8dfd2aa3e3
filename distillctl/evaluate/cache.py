"""Kept responses: an interrupted evaluation continues, and a finished one is read from disk.

Each combination of model, prompts and settings has a folder, named by the hash of its key. The folder holds
`part_N.parquet` for each batch of prompts, and `index.json`, which lists the parts with their hashes.
Responses that do not agree with the index or with the prompts are not trusted: they are removed and generated
again.
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
"""Version of the index; responses under another version are generated again."""
MAX_BYTES = 1 << 30
"""Largest size of all kept responses together; above it the least recently used ones are dropped."""
_INDEX = "index.json"
_FOLDER = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"part_[0-9]{6,}\.parquet")
_OWN = re.compile(f"{_PART.pattern}|{re.escape(_INDEX)}|{PARTIAL.pattern}")
"""Names of the files that we write; only these are removed with a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response as it is kept. `row` is the row of the data, and `sample` the sample, both from 0."""

    row: int
    sample: int
    prompt_ids: list[int]
    response_ids: list[int]
    text: str
    """The decoded text, without special tokens."""
    finish_reason: str


class Entry:
    """The responses of one model to one list of prompts with one setting. The caller must hold its lock."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self._key = dict(key)
        self._parts: dict[str, dict[str, Any]] = {}
        self._facts: dict[str, Any] = {}

    def load(self, prompts: Mapping[int, Sequence[int]], num_samples: int) -> tuple[list[Response], float]:
        """The kept responses in order, and the seconds that it took to generate them.

        `prompts`: token ids of each prompt by row. If any response is damaged or belongs to another prompt,
        this removes all of them, says so on stderr and returns none.
        """
        try:
            self._read_index()
            found = [response for name in self._parts for response in self._read_part(name)]
            _require_asked(found, prompts, num_samples)
        except _Damaged as damage:
            note(f"the responses kept in {self.folder} are not used: {damage}; they are generated again")
            self._clear()
            return [], 0.0
        for path in _own_files(self.folder):
            if _PART.fullmatch(path.name) and path.name not in self._parts:  # a kill came before the index
                path.unlink()
        return found, sum(float(part["seconds"]) for part in self._parts.values())

    def append(self, responses: Sequence[Response], seconds: float) -> None:
        """Keep a part. A kill leaves the whole part or nothing of it."""
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
        """The value that `note` stored under `name`; None if there is none."""
        return self._facts.get(name)

    def note(self, name: str, value: Any) -> None:
        """Store a value that was computed from the responses."""
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
            raise _Damaged(f"{_INDEX} belongs to other responses")
        self._parts = content["parts"]
        self._facts = content["facts"]

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
        table = pq.ParquetFile(pa.BufferReader(data)).read()  # read_table would import pandas
        return [Response(**row) for row in table.to_pylist()]

    def _clear(self) -> None:
        self._parts = {}
        self._facts = {}
        _remove_files(self.folder)


class Cache:
    """All kept responses below `root`; if it is None, nothing is kept.

    `memory`: the user's own cache folder, the only one that is trusted to hold the hashes of model files.
    """

    def __init__(self, root: Path | None, memory: Path | None) -> None:
        self.root = root
        self.memory = memory

    @contextmanager
    def entry(self, key: Mapping[str, Any]) -> Iterator[Entry | None]:
        """The kept responses of `key`, locked for this process; waits while another process holds them.

        Yields None if nothing is kept. If the folder cannot be used, it says so once and also yields None.
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
        """Stop keeping responses, because writing to the folder failed with `error`."""
        where = error.filename or self.root
        note(f"responses are not kept: {where}: {error.strerror or error}; --cache-dir names another folder")
        self.root = None

    def trim(self) -> None:
        """Drop the least recently used responses beyond `MAX_BYTES`, except those that a process is using."""
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
    """Open the cache in `folder`, by default in the user's cache directory. Without `keep`, nothing is kept.

    The user's cache directory is XDG_CACHE_HOME, or `~/.cache`; the XDG Base Directory Specification 0.8
    ignores a relative XDG_CACHE_HOME. Raises ConfigError if `folder` is not a directory.
    """
    if not keep:
        return Cache(None, None)
    named = os.environ.get("XDG_CACHE_HOME", "")
    home = named if os.path.isabs(named) else os.path.expanduser("~/.cache")
    user = Path(home) / "distillctl" / "eval" if os.path.isabs(home) else None
    if folder is None:
        if user is None:
            note("responses are not kept: this user has no home directory; --cache-dir names a folder")
        return Cache(user, user)
    folder = Path(os.path.expanduser(folder)).absolute()
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ConfigError(
            f"--cache-dir {folder}: is not a directory", "name a directory; a missing one is made"
        )
    return Cache(folder, user)


class _Damaged(Exception):
    """The kept responses cannot be trusted; the message says why."""


def _require_asked(found: Sequence[Response], prompts: Mapping[int, Sequence[int]], num_samples: int) -> None:
    """Raise unless each response belongs to one of the prompts and no row and sample occurs twice."""
    if len({(one.row, one.sample) for one in found}) < len(found):
        raise _Damaged("they hold a response twice")
    for one in found:
        if one.prompt_ids != prompts.get(one.row) or not 0 <= one.sample < num_samples:
            raise _Damaged("they hold responses to other prompts")


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
    """Whether a folder was made here: its index holds the key that the folder is named after.

    A kill may leave a folder without an index. It must then hold a lock file with a pid, and only our files.
    """
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
    """Remove a folder of responses unless it is in use; raises OSError if anything is left in it."""
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
    """The files in a folder whose names are those that we write."""
    return [path for path in folder.iterdir() if _OWN.fullmatch(path.name) and is_regular(path)]


def _schema() -> pa.Schema:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    return pa.schema([("row", pa.int32()), ("sample", pa.int32()), ("prompt_ids", ids), ("response_ids", ids),
                      ("text", pa.string()), ("finish_reason", pa.string())])  # fmt: skip
