"""Small files that ask for much: what is read is bounded, and the bound is said."""

import json
import resource

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.data.read import read_rows
from distillctl.errors import ConfigError
from distillctl.files import memory_limit
from distillctl.files.reading import read_json, read_text
from distillctl.run import events
from distillctl.run.events import MAX_LINE_BYTES, EventParser, EventTail, read_events
from distillctl.run.sample_files import load_samples


def repeated(num_values, num_bytes):
    """One text so many times, in a column that stores it once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * num_values, pa.int32()), pa.array(["a" * num_bytes]))


@pytest.fixture
def little(monkeypatch):
    """Files get 48 MiB, so that the tests need not fill the machine."""
    monkeypatch.setattr(memory_limit, "_FREE_BYTES", 48 << 20)


def test_a_text_that_is_stored_once_and_read_often(tmp_path, little):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": repeated(60_000, 1 << 20)}), path, compression="zstd")
    assert path.stat().st_size < 1000
    with pytest.raises(ConfigError, match=r"x\.parquet: needs more than 0\.0 GiB of memory"):
        read_rows(path)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


def test_a_page_that_unpacks_to_gigabytes(tmp_path, little):
    path = tmp_path / "x.parquet"
    texts = pa.array(["a" * (1 << 26)])
    pq.write_table(pa.table({"prompt": texts}), path, compression="zstd", use_dictionary=False)
    with pytest.raises(
        ConfigError, match=r"x\.parquet: unpacks from \d+ bytes to 0\.1 GiB, but at most 0\.0"
    ):
        read_rows(path)


def test_rows_out_of_nothing(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": repeated(3_000_000, 3)}), path)
    with pytest.raises(ConfigError, match=r"x\.parquet: claims to hold 3000000 values in \d+ bytes"):
        read_rows(path)


def test_one_row_of_many_messages(tmp_path, little):
    leaf = repeated(900_000, 1 << 10)
    chat = pa.StructArray.from_arrays([leaf, leaf], ["role", "content"])
    rows = pa.ListArray.from_arrays(pa.array([0, len(leaf)], pa.int32()), chat)
    pq.write_table(pa.table({"prompt": rows}), tmp_path / "x.parquet", compression="zstd")
    with pytest.raises(ConfigError, match=r"x\.parquet: (claims to hold 900000 values|needs more than)"):
        read_rows(tmp_path / "x.parquet")


def test_a_samples_file_is_bounded_too(tmp_path, little):
    path = tmp_path / "step_000001.parquet"
    text, one = repeated(60_000, 1 << 20), pa.array([1] * 60_000, pa.int32())
    ids = pa.array([[1]] * 60_000, pa.list_(pa.int32()))
    names = ["prompt_id", "sample", "response_ids", "finish_reason", "text"]
    table = pa.table([text, one, ids, text, text], names)
    pq.write_table(table, path, compression="zstd", store_schema=False)
    with pytest.raises(ConfigError, match=r"step_000001\.parquet: .*GiB"):
        load_samples(path)


def test_a_large_honest_file_is_read(tmp_path):
    rows = [{"prompt": f"What is {i} + {i}?" * 20} for i in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", compression="zstd")
    assert len(read_rows(tmp_path / "x.parquet")) == 3000


STEP = b'{"kind": "warn", "step": 1, "message": "m"}\n'


@pytest.mark.parametrize("filler", [b"x", b"\0"])
def test_a_line_without_end_among_events_is_skipped_and_counted(tmp_path, filler):
    path = tmp_path / "events.jsonl"
    path.write_bytes(STEP + filler * (3 * MAX_LINE_BYTES + 7) + b"\n" + STEP)
    parser = EventParser()
    assert len(list(read_events(path, parser=parser))) == 2
    assert parser.num_skipped == 1
    assert len(EventTail(path).read()) == 2


def test_a_sparse_file_of_events_is_refused(tmp_path):
    path = tmp_path / "events.jsonl"
    with path.open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(ConfigError, match=r"events\.jsonl: is too large: 20\.0 GiB, at most 1 GiB are read"):
        next(read_events(path))


def test_metrics_without_number_are_skipped_and_counted():
    parser = EventParser()
    found = [
        parser.parse(json.dumps({"kind": "step", "step": i + 1, "metrics": {f"m{i}": 1.0}}).encode())
        for i in range(1100)
    ]
    assert parser.num_skipped == 100
    assert sum(event is not None for event in found) == 1000


def steps(num, names):
    line = {"kind": "step", "metrics": dict.fromkeys(names, 1.0)}
    return [json.dumps({**line, "step": i + 1}).encode() for i in range(num)]


def test_names_times_steps_have_a_limit_that_grows_with_the_file():
    """A value of each of 1000 names is kept for every step, also where a step has none: 8 KB a line."""
    parser = EventParser()
    found = [parser.parse(line) for line in steps(1, [f"m{i}" for i in range(1000)]) + steps(200_000, [])]
    num_kept = sum(event is not None for event in found)
    num_bytes = sum(map(len, steps(200_000, [])))
    assert 1000 < num_kept < (1_000_000 + num_bytes / 8) / 1000 + 5
    assert parser.num_skipped == 200_001 - num_kept


@pytest.mark.parametrize("num_names", [1, 26, 1000])
def test_runs_whose_values_are_all_there_have_no_limit(monkeypatch, num_names):
    """Without what a file gets for nothing, which a run of a million steps has used up."""
    monkeypatch.setattr(events, "FREE_VALUES", 0)
    parser = EventParser()
    lines = steps(100_000 // num_names, [f"m{i}" for i in range(num_names)])
    assert all(parser.parse(line) for line in lines)


def test_small_files_have_a_limit(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(ConfigError, match=r"config\.json: is too large: 65\.0 MiB, at most 64 MiB are read"):
        read_json(path)
    with pytest.raises(ConfigError, match="cannot be read: it is a device"):
        read_text(tmp_path.__class__("/dev/zero"), 10)
