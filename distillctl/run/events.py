"""events.jsonl: one JSON object per line. The launcher and rank 0 write it; everything else reads it.

Each line is one `write` in append mode, so lines of two writers never mix. Readers ignore unknown kinds and
keys. They skip lines that a crash or a full disk tore, and lines that are not events.
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
from distillctl.run.event_form import KINDS, MAX_NAMES, parse_event

FULL_BYTES = 2 << 20
"""Size of the newest part of a file, which is always read completely, even if older steps are thinned out."""
THIN_BYTES = 4 << 20
"""About how many bytes of the older part are read when it is thinned out."""
_HEAD_BYTES = 100
"""Length of the beginning of a line that surely includes the event's kind."""
MAX_LINE_BYTES = 1 << 20
"""Longer lines are not events: the longest events, those of samples, have 200 tokens."""
MAX_OTHERS = 1_000_000
"""Most events of one file besides steps and evaluations; readers keep them all."""
FREE_VALUES = 1_000_000
"""Values that readers keep for any file: one for each metric and step, even where a step lacks the metric."""
BYTES_PER_VALUE = 8
"""Readers keep one more value for each so many bytes of the file; a value takes about 20 bytes there."""
MAX_BYTES = 1 << 30
"""Largest file that is read as a whole: about a million steps."""


class EventLog:
    """Appends the events of one attempt to a file."""

    def __init__(self, path: Path, attempt: int) -> None:
        """Open `path`, which is made if it is missing; its folder must exist.

        Raises EnvironmentUnfit if it cannot be opened, for example because it is a link.
        """
        self._path = path
        self._attempt = attempt
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            hint = "move what is there elsewhere, or choose another --run-dir"
            raise EnvironmentUnfit(f"{path} cannot be written: {error.strerror}", hint) from None

    def emit(self, kind: str, step: int, **fields: Any) -> None:
        """Append `{"t": seconds since the epoch, "attempt", "step", "kind", **fields}`, as in `KINDS`.

        NaN and infinities become null, because JSON cannot hold them. Raises EnvironmentUnfit if the disk
        refuses, most often because it is full.
        """
        assert kind in KINDS, kind
        assert fields.keys() <= KINDS[kind].fields.keys(), fields.keys()
        head = {"t": round(time.time(), 3), "attempt": self._attempt, "step": step, "kind": kind}
        line = json.dumps(finite({**head, **fields}), allow_nan=False) + "\n"
        if self._is_torn():
            line = "\n" + line
        data = line.encode()
        try:
            while data:  # a file system that is nearly full may take only a part at first
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            raise EnvironmentUnfit(
                f"{self._path} cannot be written: {error.strerror}",
                "make room; the same command then continues from the newest checkpoint",
            ) from error

    def close(self) -> None:
        """Close the file. For tests; processes keep their log open until they end."""
        os.close(self._descriptor)

    def _is_torn(self) -> bool:
        """Whether a writer died in the middle of the last line; ours must not be appended to that line."""
        size = os.fstat(self._descriptor).st_size
        return size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"


class EventParser:
    """Parses the lines of one file into events, and counts the lines that are not events."""

    def __init__(self) -> None:
        self.num_skipped = 0
        self._names: set[str] = set()
        self._num_steps = self._num_others = self._num_bytes = 0

    def parse(self, line: bytes) -> dict[str, Any] | None:
        """The event of a line; None if the line is torn or malformed, or if the file has too many events."""
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
        num_names = len(self._names) + len(new)
        num_steps = self._num_steps + 1
        room = FREE_VALUES + self._num_bytes // BYTES_PER_VALUE
        if num_names > MAX_NAMES or num_names * num_steps > room:
            return False
        self._names |= new
        self._num_steps = num_steps
        return True


class EventTail:
    """Reads a growing events file, each event once. Its memory does not grow with the file."""

    def __init__(self, path: Path) -> None:
        """Start at the beginning of `path`, which need not exist yet."""
        self._path = path
        self._offset = 0
        self._parser = EventParser()
        self._is_inside = False
        """Whether the offset lies within a line that is too long."""

    def read(self) -> list[dict[str, Any]]:
        """Events of the lines completed since the last call. Raises ConfigError if `path` cannot be read."""
        return list(self.new_events())

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Like `read`, but one event at a time, for files that may be long."""
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
    """All events of a file in order; none if there is no file. Lines that are not events are skipped.

    With `thin`, a long file is read in a second: of its older steps only every so many are read. The first
    step of the file, the first step after an event of another kind, and the newest steps are always among
    them. `parser` counts the skipped lines. Raises ConfigError for a file of more than `MAX_BYTES`, and for
    one that cannot be read.
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
            f"{path}: cannot be read: {error.strerror}", "check that it is the events.jsonl of a run"
        ) from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Complete lines. A line that is too long is cut to its beginning, which is not an event."""
    while line := file.readline(MAX_LINE_BYTES):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES)
        if rest or parse_event(line):  # otherwise it is torn or still being written
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
