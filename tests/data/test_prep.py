"""`prep`: the schema, the manifest, the folder that is written, and nothing half written."""

import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import distillctl
from distillctl.data.prep import DataSet, prepare
from distillctl.data.schema import Example, schema
from distillctl.data.sets import gsm8k, jsonl
from distillctl.errors import ConfigError, EnvironmentUnfit

GOOD = {"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}


def read(path: Path) -> list[dict]:
    return pq.ParquetFile(path).read().to_pylist()


def test_schema_types_are_exact():
    types = {field.name: str(field.type) for field in schema()}
    assert types == {
        "data_source": "string",
        "prompt": "list<item: struct<role: string, content: string>>",
        "ability": "string",
        "reward_model": "struct<style: string, ground_truth: string>",
        "extra_info": "struct<split: string, index: int64, answer: string, question: string>",
    }


def test_manifest_tells_what_went_in_and_came_out(tmp_path, source):
    out = tmp_path / "out"
    manifest = prepare("gsm8k", gsm8k.data_set(source), out)

    def digests(folder, *names):
        return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}

    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest == {
        "kind": "gsm8k",
        "source": "src",
        "distillctl": distillctl.__version__,
        "rows": {"train": 3, "test": 2},
        "rows_with_answer": {"train": 3, "test": 2},
        "rows_with_reference": {"train": 3, "test": 2},
        "duplicates": 0,
        "shared_prompts": 0,
        "rows_with_number": {"train": 3, "test": 2},
        "rows_with_text": {"train": 0, "test": 0},
        "fields": {"question": 5, "answer": 5},
        "unused_columns": [],
        "source_sha256": digests(source, "train.jsonl", "test.jsonl"),
        "sha256": digests(out, "train.parquet", "test.parquet"),
    }


def test_manifest_has_no_absolute_path(tmp_path, source):
    prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


def test_same_input_gives_the_same_bytes(tmp_path, source):
    for name in ("a", "b"):
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / name)
    for file in ("train.parquet", "test.parquet", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_limit_keeps_the_first_rows_of_each_split(tmp_path, source):
    prepare("gsm8k", gsm8k.data_set(source), tmp_path / "all")
    manifest = prepare("gsm8k", gsm8k.data_set(source), tmp_path / "two", 2)
    assert manifest["rows"] == {"train": 2, "test": 2}
    for split in ("train", "test"):
        full = read(tmp_path / "all" / f"{split}.parquet")
        assert read(tmp_path / "two" / f"{split}.parquet") == full[:2]


def test_limit_below_one_is_refused(tmp_path, source):
    with pytest.raises(ConfigError, match="--limit is 0"):
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out", 0)


def made(splits: dict) -> DataSet:
    return DataSet(data_source="mine", splits=splits)


@pytest.mark.parametrize(
    ("splits", "found"), [({}, "none"), ({"test": []}, "test"), ({"train": [], "dev": []}, "train, dev")]
)
def test_a_data_set_has_train_and_perhaps_test(tmp_path, splits, found):
    with pytest.raises(ConfigError, match=f"mine: the splits of this data set are {found}$"):
        prepare("mine", made(splits), tmp_path / "out")


def test_an_unknown_answer_type_is_named_with_the_choices(tmp_path):
    example = Example(prompt="Why?", ground_truth="so", answer_type="exakt")
    with pytest.raises(ConfigError, match="mine: train row 0: no answer type is named 'exakt'") as caught:
        prepare("mine", made({"train": [example]}), tmp_path / "out")
    assert caught.value.hint.startswith("there are: choice, exact, latex, numeric, regex")
    assert not (tmp_path / "out").exists()


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["train.parquet", "test.parquet", "manifest.json"])
def test_taken_output_is_refused_and_left_alone(tmp_path, source, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"precious")
    with pytest.raises(ConfigError, match=name) as caught:
        prepare("gsm8k", gsm8k.data_set(source), out)
    assert "--force" in caught.value.hint
    assert listing(out) == {name: b"precious"}


def test_other_files_in_the_output_are_no_obstacle(tmp_path, source):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_force_replaces_and_removes_a_stale_split(tmp_path, source):
    prepare("gsm8k", gsm8k.data_set(source), tmp_path / "own")
    prepare("jsonl", jsonl.data_set(source / "train.jsonl"), tmp_path / "own", force=True)
    assert sorted(listing(tmp_path / "own")) == ["manifest.json", "train.parquet"]


@pytest.mark.parametrize("change", ["another file", "lost manifest", "foreign manifest"])
def test_force_removes_nothing_that_the_manifest_does_not_list(tmp_path, source, capsys, change):
    out = tmp_path / "own"
    prepare("gsm8k", gsm8k.data_set(source), out)
    if change == "another file":
        (out / "test.parquet").write_bytes(b"precious")
    else:
        (out / "manifest.json").write_text(
            "" if change == "lost manifest" else '{"sha256": ["test.parquet"]}'
        )
    before = (out / "test.parquet").read_bytes()
    prepare("jsonl", jsonl.data_set(source / "train.jsonl"), tmp_path / "own", force=True)
    assert sorted(listing(out)) == ["manifest.json", "test.parquet", "train.parquet"]
    assert (out / "test.parquet").read_bytes() == before
    assert "own/test.parquet is left as it is" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train.parquet", "test.parquet", "manifest.json"])
@pytest.mark.parametrize("force", [False, True])
def test_a_link_or_a_folder_in_place_of_a_file_is_refused(tmp_path, source, name, force):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "target").write_text("precious")
    (out / name).symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match="is a link" if force else "already has"):
        prepare("gsm8k", gsm8k.data_set(source), out, force=force)
    (out / name).unlink()
    (out / name).mkdir()
    with pytest.raises(ConfigError, match="is a directory" if force else "already has"):
        prepare("gsm8k", gsm8k.data_set(source), out, force=force)
    assert (tmp_path / "target").read_text() == "precious"
    assert os.listdir(out) == [name]


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_fetched():
    with pytest.raises(EnvironmentUnfit, match="/proc/out cannot be written"):
        prepare("gsm8k", gsm8k.data_set(), Path("/proc/out"))


def test_output_that_is_a_file_is_refused(tmp_path, source):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="not a directory"):
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out", force=True)


def test_source_is_never_overwritten(tmp_path):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD]), path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="the source itself"):
        prepare("jsonl", jsonl.data_set(path, "question", "answer"), tmp_path, force=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("exists", [False, True])
def test_failed_write_leaves_nothing_half_written(tmp_path, source, monkeypatch, exists):
    out = tmp_path / "deep" / "out"
    if exists:
        prepare("gsm8k", gsm8k.data_set(source), out, 1)
    before = listing(out) if exists else None
    write_table, written = pq.write_table, []

    def full_disk(table, path):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        write_table(table, path)

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(EnvironmentUnfit, match="No space left"):
        prepare("gsm8k", gsm8k.data_set(source), out, force=True)
    assert written
    assert (listing(out) if out.exists() else None) == before
    assert [path.name for path in out.parent.iterdir()] == (["out"] if exists else [])


def test_files_are_as_readable_as_any_new_file(tmp_path, source):
    prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode
