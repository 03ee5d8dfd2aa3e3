"""events.jsonl: one JSON object per line, written by the launcher and by rank 0, read by everything else.

Each line is one `write` in append mode, so that lines of two writers never mix. Readers skip what they do
not understand: unknown kinds and keys, lines torn by a crash or a full disk.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json  # several times as fast as json, on files of 100 MB

from distillctl.errors import EnvironmentUnfit
from distillctl.json_values import finite

KINDS = ("start", "phase", "check", "step", "eval", "checkpoint", "sample", "warn", "stop", "end")
"""Everything `EventLog` writes; readers meet other kinds in files of other versions."""


FULL_BYTES = 2 << 20
"""The newest part of a file, all of which is read also where older steps are thinned out."""
THIN_BYTES = 4 << 20
"""About so much of the older part is read then."""
_HEAD_BYTES = 100
"""Of a line, with everything before its kind."""


class EventLog:
    """Appends events of one attempt to a file."""

    def __init__(self, path: Path, attempt: int) -> None:
        """Creates `path` if need be; its folder has to be there. Raises EnvironmentUnfit when it cannot be
        opened, as a link cannot."""
        self._path, self._attempt = path, attempt
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            hint = "move what is there elsewhere, or choose another --run-dir"
            raise EnvironmentUnfit(f"{path} cannot be written: {error.strerror}", hint) from None

    def emit(self, kind: str, step: int, **fields: Any) -> None:
        """Append `{"t": seconds since the epoch, "attempt", "step", "kind", **fields}`.

        NaN and infinities become null, which is all that JSON has for them. Raises EnvironmentUnfit when the
        disk refuses, most often because it is full.
        """
        assert kind in KINDS, kind
        head = {"t": round(time.time(), 3), "attempt": self._attempt, "step": step, "kind": kind}
        line = json.dumps(finite({**head, **fields}), allow_nan=False) + "\n"
        if self._is_torn():
            line = "\n" + line
        data = line.encode()
        try:
            while data:  # a second round only on a file system that is nearly full
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise EnvironmentUnfit(
                f"{self._path} cannot be written: {error.strerror}",
                "make room; the same command then goes on from the newest checkpoint",
            ) from error

    def close(self) -> None:
        """Close the file; for tests, since processes keep their log to the end."""
        os.close(self._descriptor)

    def _is_torn(self) -> bool:
        """Whether a writer died inside the last line, which then must not swallow ours."""
        size = os.fstat(self._descriptor).st_size
        return size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"


class EventTail:
    """Reads a growing events file, each event once."""

    def __init__(self, path: Path) -> None:
        """Starts at the beginning of `path`, which may not exist yet."""
        self._path = path
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """Events of the lines completed since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return []
        complete = new[: new.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [event for line in complete.split(b"\n") if (event := parse_event(line))]


def read_events(path: Path, *, thin: bool = False) -> Iterator[dict[str, Any]]:
    """All events of a file in its order, none when there is no file; unreadable lines are skipped.

    With `thin` only one in so many of the older steps of a long file, so that it is read in a second: the
    first ones of the file and after an event of another kind are always there, and so are the newest.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in _thinned(file) if thin else file:
            event = parse_event(line)
            if event is not None:
                yield event


def _thinned(file: BinaryIO) -> Iterator[bytes]:
    old_bytes = os.fstat(file.fileno()).st_size - FULL_BYTES
    every = max(1, old_bytes // THIN_BYTES)
    position = num_steps = 0
    for line in file:
        position += len(line)
        num_steps = num_steps + 1 if b'"kind": "step"' in line[:_HEAD_BYTES] else 0
        if position > old_bytes or not num_steps or num_steps % every == 1 % every:
            yield line


def parse_event(line: bytes) -> dict[str, Any] | None:
    """The event of one line, or None for a torn line or one that is no event."""
    try:
        event = from_json(line)
    except ValueError:  # JSON, UTF-8, nesting
        return None
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return None
    return event if isinstance(event.get("step", 0), int) else None
