"""`prep gsm8k`: verl's rows one by one, the sources, refusals."""

import json
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.data.prep import prepare
from distillctl.data.sets import gsm8k
from distillctl.errors import ConfigError, EnvironmentUnfit

GOOD = {"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}


def read(path: Path) -> list[dict]:
    return pq.ParquetFile(path).read().to_pylist()


@pytest.mark.parametrize(("split", "num_rows"), [("train", 7473), ("test", 1319)])
def test_real_gsm8k_equals_verls_rule_row_by_row(tmp_path, verl_row, gsm8k_source, split, num_rows):
    prepare("gsm8k", gsm8k.data_set(gsm8k_source), tmp_path / "out")
    lines = (gsm8k_source / f"{split}.jsonl").read_bytes().decode().split("\n")
    examples = [json.loads(line) for line in lines if line]
    rows = read(tmp_path / "out" / f"{split}.parquet")
    assert len(rows) == num_rows
    assert rows == [verl_row(example, split, i) for i, example in enumerate(examples)]


def test_schema_is_the_one_datasets_writes_for_verls_mapping(tmp_path, verl_row, source):
    row = verl_row(GOOD, "train", 0)
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "verl.parquet")
    prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")
    ours = pq.read_schema(tmp_path / "out" / "train.parquet")
    theirs = pq.read_schema(tmp_path / "verl.parquet")
    assert ours.names == theirs.names
    assert ours.equals(theirs, check_metadata=False)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("#### 1,072", "1072"),
        ("#### -3.50", "-3.50"),
        ("#### 5 and #### 7", "5"),
        ("a\n#### 42.", "42."),
        ("#### 20%", "20"),
    ],
)
def test_ground_truth_follows_verl(answer, truth):
    assert gsm8k.ground_truth(answer) == truth


@pytest.mark.parametrize("answer", ["42", "####42", "####  42", "#### $42", "### 42", ""])
def test_ground_truth_without_match_is_a_value_error(answer):
    with pytest.raises(ValueError, match="####"):
        gsm8k.ground_truth(answer)


@pytest.mark.parametrize("name", ["{}.parquet", "main/{}-00000-of-00001.parquet"])
def test_gsm8k_from_parquet_equals_jsonl(tmp_path, source, name):
    prepare("gsm8k", gsm8k.data_set(source), tmp_path / "a")
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (source / f"{split}.jsonl").read_text().splitlines()]
        path = tmp_path / "parquet" / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    prepare("gsm8k", gsm8k.data_set(tmp_path / "parquet"), tmp_path / "b")
    for file in ("train.parquet", "test.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_gsm8k_without_source_comes_from_the_hub(tmp_path, verl_row, monkeypatch):
    asked = []

    def load(*args):
        asked.append(args)
        return {"train": [GOOD, GOOD], "test": [GOOD]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    manifest = prepare("gsm8k", gsm8k.data_set(), tmp_path / "out")
    assert asked == [("openai/gsm8k", "main")]
    assert manifest["source"] == "openai/gsm8k"
    assert read(tmp_path / "out" / "test.parquet") == [verl_row(GOOD, "test", 0)]


@pytest.mark.parametrize("error", [ConnectionError("no route"), datasets.exceptions.DatasetsError("gone")])
def test_unreachable_hub_is_environment_unfit_and_points_to_source(tmp_path, monkeypatch, error):
    def load(*args):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(EnvironmentUnfit) as caught:
        prepare("gsm8k", gsm8k.data_set(), tmp_path / "out")
    assert "--source" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["train", "test"])
def test_gsm8k_needs_both_splits(tmp_path, source, missing):
    (source / f"{missing}.jsonl").unlink()
    with pytest.raises(ConfigError, match=f"{missing}.jsonl"):
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")


def test_source_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: does not exist"):
        prepare("gsm8k", gsm8k.data_set(tmp_path / "nowhere"), tmp_path / "out")


TALK = [{"role": "user", "content": "What is 2+3?"}, {"role": "assistant", "content": "2+3=5\n#### 5"}]


@pytest.mark.parametrize("chat", [TALK, json.dumps(TALK)])
def test_a_chat_is_no_question_of_gsm8k(tmp_path, source, write_lines, chat):
    write_lines(source / "train.jsonl", [GOOD | {"question": chat}])
    with pytest.raises(ConfigError, match=r"train\.jsonl:1: `question` must be text, got a list"):
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")


def test_columns_of_gsm8k_that_are_not_used_are_named(tmp_path, source, write_lines):
    write_lines(source / "test.jsonl", [GOOD | {"hint": "add"}])
    assert prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")["unused_columns"] == ["hint"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"question": "x"', "not JSON"),
        ('["x"]', "expected an object, got a list"),
        ('{"answer": "#### 1"}', "no `question`"),
        ('{"question": null, "answer": "#### 1"}', "`question` is missing or null"),
        ('{"question": "x"}', "`answer` is missing or null"),
        ('{"question": 7, "answer": "#### 1"}', "`question` must be text, got a number"),
        ('{"question": " ", "answer": "#### 1"}', "`question` is empty"),
        ('{"question": "x", "answer": "1"}', "no `#### NUMBER`"),
        ('{"question": "\\ud800", "answer": "#### 1"}', "not valid Unicode"),
        ("[" * 100_000, "not readable JSON"),
    ],
)
def test_bad_gsm8k_row_names_file_and_line(tmp_path, source, write_lines, line, what):
    # The blank line counts: editors number it.
    path = write_lines(source / "train.jsonl", [GOOD, "", line, GOOD])
    with pytest.raises(ConfigError) as caught:
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")
    assert caught.value.message.startswith(f"{path}:3: ")
    assert what in caught.value.message
    assert not (tmp_path / "out").exists()


def test_line_that_is_not_utf8_is_named(tmp_path, source):
    path = source / "test.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "caf\xe9"}\n')
    with pytest.raises(ConfigError, match=re.escape(f"{path}:2: not UTF-8")):
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")


def test_bad_parquet_row_names_file_and_row(tmp_path, source):
    path = source / "train.parquet"
    (source / "train.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist([GOOD, GOOD | {"answer": "two"}]), path)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: row 1: ")):
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")


def test_empty_file_is_refused(tmp_path, source):
    (source / "test.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match=r"test.jsonl: holds no rows"):
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")


@pytest.mark.parametrize("other", ["train.parquet", "main/train-00000-of-00001.parquet"])
def test_several_files_of_a_split_of_gsm8k_are_refused(tmp_path, source, other):
    (source / "main").mkdir()
    pq.write_table(pa.Table.from_pylist([GOOD]), source / other)
    with pytest.raises(ConfigError) as caught:
        prepare("gsm8k", gsm8k.data_set(source), tmp_path / "out")
    assert caught.value.message.endswith(f"has several files of train: train.jsonl, {other}")
