"""events.jsonl: one JSON object per line, written by the launcher and by rank 0, read by everything else.

Each line is one `write` in append mode, so that lines of two writers never mix. Readers skip what they do
not understand: unknown kinds and keys, lines torn by a crash or a full disk, lines that are no events.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files.json_values import finite
from distillctl.files.reading import open_regular
from distillctl.run.event_form import MAX_NAMES, parse_event

KINDS = ("start", "phase", "check", "step", "eval", "checkpoint", "sample", "warn", "stop", "end")
"""Everything `EventLog` writes; readers meet other kinds in files of other versions."""


FULL_BYTES = 2 << 20
"""The newest part of a file, all of which is read also where older steps are thinned out."""
THIN_BYTES = 4 << 20
"""About so much of the older part is read then."""
_HEAD_BYTES = 100
"""Of a line, with everything before its kind."""
MAX_LINE_BYTES = 1 << 20
"""Longer lines are no events: the longest, of samples, has 200 tokens."""
MAX_OTHERS = 1_000_000
"""Events other than steps of one file; readers keep them all."""
FREE_VALUES, BYTES_PER_VALUE = 1_000_000, 8
"""Readers keep a value of each metric for each step, also where a step has none of it. A file gets room for
so many, and for one more for each so many of its bytes: a value that is there has about 20."""
MAX_BYTES = 1 << 30
"""Of a file that is read as a whole: about a million steps."""


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


class EventParser:
    """Makes events of the lines of one file and counts the lines that are none."""

    def __init__(self) -> None:
        self.num_skipped = 0
        self._names: set[str] = set()
        self._num_steps = self._num_others = self._num_bytes = 0

    def parse(self, line: bytes) -> dict[str, Any] | None:
        """The event of a line; None for one that is torn, malformed, or beyond what a file may hold."""
        self._num_bytes += len(line)
        event = parse_event(line)
        if event is None or not self._has_room(event):
            self.num_skipped += bool(line.strip())
            return None
        return event

    def _has_room(self, event: dict[str, Any]) -> bool:
        if event["kind"] not in ("step", "eval"):
            self._num_others += 1
            return self._num_others <= MAX_OTHERS
        new = event["metrics"].keys() - self._names
        num_names, num_steps = len(self._names) + len(new), self._num_steps + 1
        room = FREE_VALUES + self._num_bytes // BYTES_PER_VALUE
        if num_names > MAX_NAMES or num_names * num_steps > room:
            return False
        self._names |= new
        self._num_steps = num_steps
        return True


class EventTail:
    """Reads a growing events file, each event once, in memory that does not grow with it."""

    def __init__(self, path: Path) -> None:
        """Starts at the beginning of `path`, which may not exist yet."""
        self._path = path
        self._offset = 0
        self._parser = EventParser()
        self._is_inside = False
        """Whether the offset lies inside a line that is too long."""

    def read(self) -> list[dict[str, Any]]:
        """Events of the lines completed since the last call. Raises ConfigError for what is no file."""
        return list(self.new_events())

    def new_events(self) -> Iterator[dict[str, Any]]:
        """`read` one event at a time, for what may be a long past."""
        file = _open(self._path)
        if file is None:
            return
        with file:
            file.seek(self._offset)
            while chunk := file.read(MAX_LINE_BYTES):
                end = chunk.rfind(b"\n") + 1
                if not end and len(chunk) < MAX_LINE_BYTES:
                    return  # the last line is not complete yet
                self._offset += end or len(chunk)
                file.seek(self._offset)
                lines = chunk[:end].split(b"\n")[self._is_inside :]
                self._parser.num_skipped += bool(end and self._is_inside)
                self._is_inside = not end
                yield from filter(None, map(self._parser.parse, lines))


def read_events(
    path: Path, *, thin: bool = False, parser: EventParser | None = None
) -> Iterator[dict[str, Any]]:
    """All events of a file in its order, none when there is no file; lines that are none are skipped.

    With `thin` only one in so many of the older steps of a long file, so that it is read in a second: the
    first ones of the file and after an event of another kind are always there, and so are the newest.
    `parser` counts what is skipped. Raises ConfigError for a file of more than `MAX_BYTES`, and for what is
    no file.
    """
    file = _open(path)
    if file is None:
        return
    parser = parser or EventParser()
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ConfigError(
                f"{path}: is too large: {size / 2**30:.1f} GiB, at most {MAX_BYTES / 2**30:g} GiB are read",
                "a million steps take about as much: check where it is from",
            )
        for line in _thinned(file, size) if thin else _lines(file):
            event = parser.parse(line)
            if event is not None:
                yield event


def _open(path: Path) -> BinaryIO | None:
    try:
        return open_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", "it is not as a run leaves it"
        ) from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Complete lines; of one that is too long only its beginning, which is no event."""
    while line := file.readline(MAX_LINE_BYTES):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        if rest or parse_event(line):  # else it is still being written, or torn
            yield line


def _thinned(file: BinaryIO, size: int) -> Iterator[bytes]:
    old_bytes = size - FULL_BYTES
    every = max(1, old_bytes // THIN_BYTES)
    position = num_steps = 0
    for line in _lines(file):
        position += len(line)
        num_steps = num_steps + 1 if b'"kind": "step"' in line[:_HEAD_BYTES] else 0
        if position > old_bytes or not num_steps or num_steps % every == 1 % every:
            yield line
