"""Responses of a model on disk: an evaluation that was interrupted goes on, one that is done is read.

A directory for each model, data and sampling settings, below `runs/.eval`: `part_N.parquet` for each batch of
prompts, and `done.json` when they are all there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillctl.atomic import read_object, write_json

if TYPE_CHECKING:
    import pyarrow as pa

ROOT = Path("runs/.eval")
_HASHES = "hashes.json"
_hashes: dict[str, Any] = {}
"""Of the files that this process has hashed, by path, size and time of change."""
_BLOB = re.compile(r"[0-9a-f]{64}")
"""The name that the hub's cache gives to a file is its SHA-256."""


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


class ResponseCache:
    """The responses of one model to one data file under one setting."""

    def __init__(self, key: Mapping[str, Any], root: Path = ROOT) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.folder = root / digest[:24]

    @property
    def done(self) -> dict[str, Any] | None:
        """What `finish` was told; None before."""
        return read_object(self.folder / "done.json") or None

    def load(self) -> tuple[list[Response], float]:
        """All responses of whole parts, in order, and the seconds they took to generate."""
        responses: list[Response] = []
        seconds = 0.0
        for table in self._parts():
            responses += [Response(**row) for row in table.to_pylist()]
            seconds += float(table.schema.metadata[b"seconds"])
        return responses, seconds

    def append(self, responses: Sequence[Response], seconds: float) -> None:
        """Keep a part; whole or not there."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [{name: getattr(response, name) for name in Response.__slots__} for response in responses]
        schema = _schema().with_metadata({"seconds": repr(seconds)})
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("part_*.parquet")))
        partial = self.folder / f".part_{number:06d}.tmp"
        pq.write_table(pa.Table.from_pylist(rows, schema), partial)
        partial.rename(self.folder / f"part_{number:06d}.parquet")

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Mark the responses as complete."""
        write_json(self.folder / "done.json", facts)
        _remember(self.folder.parent)

    @property
    def facts(self) -> dict[str, Any]:
        """What was noted of the responses."""
        return read_object(self.folder / "facts.json")

    def note(self, name: str, value: Any) -> None:
        """Remember something that was computed from the responses."""
        write_json(self.folder / "facts.json", {**self.facts, name: value})

    def _parts(self) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        for path in sorted(self.folder.glob("part_*.parquet")):
            yield pq.ParquetFile(path).read()  # read_table would import pandas first


def model_hash(folder: Path, root: Path = ROOT) -> str:
    """SHA-256 over all files of a model directory that decide what it answers: weights, configuration,
    tokenizer. Hashes of unchanged files (by size and time of change) are remembered once there is a cache."""
    found = {
        path.name: _file_hash(path, root)
        for path in sorted(folder.iterdir())
        if path.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt") and path.is_file()
    }
    _remember(root)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path, root: Path) -> str:
    real = path.resolve()
    if _BLOB.fullmatch(real.name):
        return real.name
    status = real.stat()
    name = f"{real} {status.st_size} {status.st_mtime_ns}"
    if name not in _hashes:
        _hashes.update(read_object(root / _HASHES))
    if name not in _hashes:
        with real.open("rb") as file:
            _hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return str(_hashes[name])


def _remember(root: Path) -> None:
    """Keep the hashes of this process; a command that is refused leaves no directory behind."""
    if root.is_dir():
        write_json(root / _HASHES, {**read_object(root / _HASHES), **_hashes})


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
