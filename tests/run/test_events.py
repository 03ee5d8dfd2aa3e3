"""events.jsonl: what is written can be read, whatever happened to the file in between."""

import json
import math
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.errors import EnvironmentUnfit
from distillctl.run import events
from distillctl.run.events import EventLog, EventTail, parse_event, read_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def emit(path: Path, attempt: int, *steps: int) -> None:
    log = EventLog(path, attempt)
    for step in steps:
        log.emit("step", step=step, metrics={})
    log.close()


def steps(path: Path) -> list[int]:
    return [event["step"] for event in read_events(path)]


def test_an_event_has_time_attempt_step_kind_and_its_fields(path: Path) -> None:
    log = EventLog(path, attempt=3)
    log.emit("warn", step=7, message="careful")
    log.close()
    (event,) = read_events(path)
    assert list(event) == ["t", "attempt", "step", "kind", "message"]
    assert {**event, "t": 0} == {"t": 0, "attempt": 3, "step": 7, "kind": "warn", "message": "careful"}


@pytest.mark.parametrize(("kind", "field"), [("stopp", "signal"), ("stop", "singal")])
def test_only_described_kinds_and_fields_are_written(path: Path, kind: str, field: str) -> None:
    with pytest.raises(AssertionError, match=r"stopp|singal"):
        EventLog(path, 1).emit(kind, 0, **{field: 2})


def test_what_json_cannot_hold_becomes_null_or_a_number(path: Path) -> None:
    log = EventLog(path, 1)
    metrics = {"a": math.nan, "b": math.inf, "c": np.float32(0.5), "d": np.int64(3), "e": [-math.inf, (1,)]}
    log.emit("step", step=1, metrics=metrics)
    log.emit("checkpoint", step=1, path=Path("x"))
    log.close()
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    event, checkpoint = map(json.loads, text.splitlines())
    assert event["metrics"] == {"a": None, "b": None, "c": 0.5, "d": 3, "e": [None, [1]]}
    assert checkpoint["path"] == "x"


def test_no_file_no_events(path: Path) -> None:
    assert list(read_events(path)) == []


def test_a_torn_last_line_is_ignored(path: Path) -> None:
    emit(path, 1, 1, 2)
    with path.open("ab") as file:
        file.write(b'{"t": 1, "attempt": 1, "step": 3, "ki')
    assert steps(path) == [1, 2]


def test_a_torn_line_does_not_swallow_the_next_attempt(path: Path) -> None:
    emit(path, 1, 1)
    with path.open("ab") as file:
        file.write(b'{"t": 1, "att')
    emit(path, 2, 2, 3)
    assert steps(path) == [1, 2, 3]


def test_a_line_torn_while_the_log_is_open_does_not_swallow_the_next(path: Path) -> None:
    log = EventLog(path, 1)
    with path.open("ab") as other:
        other.write(b'{"t":')
    log.emit("end", step=0, state="failed", exit_code=1, seconds=1.0)
    log.close()
    assert [event["kind"] for event in read_events(path)] == ["end"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]",
        b"1",
        b"null",
        b"{}",
        b'{"kind": 1}',
        b'{"kind": "step", "step": "x"}',
        b"\xff{}",
        b"[",
    ],
)
def test_lines_that_are_no_events(line: bytes) -> None:
    assert parse_event(line) is None


def test_unknown_kinds_and_keys_are_read(path: Path) -> None:
    path.write_text('{"kind": "dance", "step": 1, "new": [1]}\n')
    assert [event["kind"] for event in read_events(path)] == ["dance"]


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_skipped(line: bytes) -> None:
    event = parse_event(line)
    assert event is None or isinstance(event["kind"], str)


def test_every_cut_of_a_file_reads_as_its_complete_lines(path: Path) -> None:
    emit(path, 1, 1, 2)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert steps(path) == [1, 2][: whole[: size + 1].count(b"\n")]


def test_tail_returns_each_event_once_and_no_half_line(path: Path) -> None:
    tail = EventTail(path)
    assert tail.read() == []
    emit(path, 1, 1, 2)
    assert [event["step"] for event in tail.read()] == [1, 2]
    assert tail.read() == []
    line = json.dumps({"kind": "warn", "step": 3, "message": "w"}).encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        file.write(line[:10])
        assert tail.read() == []
        file.write(line[10:])
    assert [event["step"] for event in tail.read()] == [3]


def test_tail_survives_a_torn_line(path: Path) -> None:
    path.write_bytes(b'{"t": 1')
    tail = EventTail(path)
    assert tail.read() == []
    emit(path, 2, 1)
    assert [event["step"] for event in tail.read()] == [1]


def test_two_writers_never_mix_lines(path: Path) -> None:
    count, text = 200, "x" * 5000

    def write(attempt: int) -> None:
        log = EventLog(path, attempt)
        for step in range(count):
            log.emit("warn", step=step, message=text)
        log.close()

    threads = [Thread(target=write, args=(attempt,)) for attempt in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = list(read_events(path))
    assert len(events) == 2 * count
    assert all(event["message"] == text for event in events)


def test_a_full_disk_is_said_with_the_file() -> None:
    """Linux's own full device: every write to it fails with ENOSPC."""
    log = EventLog(Path("/dev/full"), 1)
    with pytest.raises(EnvironmentUnfit, match=r"/dev/full cannot be written: No space left on device"):
        log.emit("step", step=1, metrics={})


def test_older_steps_of_a_long_file_are_thinned_out_and_nothing_else(path: Path, monkeypatch) -> None:
    log = EventLog(path, 1)
    for step in range(1, 401):
        log.emit("step", step=step, metrics={"kl/reverse": 1.0})
        if step % 100 == 50:
            log.emit("warn", step=step, message="w")
    size = path.stat().st_size
    monkeypatch.setattr(events, "FULL_BYTES", size // 4)
    monkeypatch.setattr(events, "THIN_BYTES", size // 20)
    everything, thin = list(read_events(path)), list(read_events(path, thin=True))
    assert [e for e in thin if e["kind"] == "warn"] == [e for e in everything if e["kind"] == "warn"]
    steps = [e["step"] for e in thin if e["kind"] == "step"]
    assert {1, 51, 151, 251} <= set(steps)
    assert set(range(302, 401)) <= set(steps)
    assert 300 / 15 - 4 <= sum(step < 300 for step in steps) <= 300 / 15 + 8
    assert steps == sorted(steps)


def test_a_short_file_is_read_in_full(path: Path) -> None:
    log = EventLog(path, 1)
    for step in range(1, 50):
        log.emit("step", step=step, metrics={})
    assert list(read_events(path, thin=True)) == list(read_events(path))
