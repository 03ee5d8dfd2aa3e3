"""What an earlier evaluation wrote is replaced, anything else is not: told before anything is evaluated."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.evaluate.earlier import is_junit, is_report, is_responses

JUNIT_0_1 = """<?xml version='1.0' encoding='utf-8'?>
<testsuites tests="1" failures="0" errors="0">
  <testsuite name="distillctl eval tiny/0001@240" tests="1" failures="0" errors="0">
    <properties>
"""
REPORT_0_1 = {
    "data": "data/arith/test.parquet", "max_tokens": 64, "temperature": 0.0, "results": [{"model": "a"}],
    "differences": [], "gap_closed": None, "requirements": [],
}  # fmt: skip
COLUMNS_0_1 = ["model", "prompt_id", "sample", "prompt", "response", "extracted", "ground_truth", "correct",
               "verl_strict", "verl_flexible", "has_format", "finish_reason", "num_tokens"]  # fmt: skip


def write_parquet(path, columns):
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in columns}), path)


def test_a_suite_is_known_by_its_name(tmp_path):
    path = tmp_path / "junit.xml"
    path.write_text(JUNIT_0_1)
    assert is_junit(path)
    for other in ("", "notes", JUNIT_0_1.replace("distillctl eval", "pytest"), "<testsuites/>"):
        path.write_text(other)
        assert not is_junit(path)


def test_a_report_is_known_by_its_keys(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps(REPORT_0_1))
    assert is_report(path)
    for other in ("", "[]", "{}", "[" * 10_000, json.dumps({"results": []}), "\xff"):
        path.write_text(other, encoding="latin-1")
        assert not is_report(path)


def test_answers_are_known_by_their_columns(tmp_path):
    path = tmp_path / "answers.parquet"
    write_parquet(path, COLUMNS_0_1)
    assert is_responses(path)
    write_parquet(path, ["prompt", "response"])
    assert not is_responses(path)
    path.write_text("precious")
    assert not is_responses(path)


@pytest.mark.parametrize(
    ("options", "file"),
    [
        (["--junit", "mine.xml"], "mine.xml"),
        (["--junit", "there/"], "there/junit.xml"),
        (["--junit", "there"], "there/junit.xml"),
        (["--out", "there"], "there/eval.json"),
        (["--out", "there"], "there/answers.parquet"),
    ],
)
def test_a_file_of_somebody_elses_is_refused_before_the_model_is_looked_for(refused, folder, options, file):
    (folder / "there").mkdir()
    (folder / file).write_text("precious")
    message, _ = refused("eval", "--checkpoint", "none", "--data", "none.parquet", *options)
    assert f"{file}: already exists and is not" in message
    assert (folder / file).read_text() == "precious"


def test_two_outputs_of_one_name_are_refused(refused):
    message, _ = refused("eval", "--checkpoint", "none", "--out", "new", "--junit", "new/eval.json")
    assert message == ("--junit writes the file new/eval.json, and --out new/eval.json is the same file")


def test_folders_that_are_missing_are_no_obstacle(refused):
    """The next thing that is wrong is the checkpoint."""
    options = ["--junit", "a/b/junit.xml", "--out", "c/d"]
    message, _ = refused("eval", "--checkpoint", "none", "--data", "none.parquet", *options)
    assert "none" in message
    assert "cannot be" not in message
