"""Where an evaluation writes, and what is refused before anything is computed."""

import os

import pytest

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.evaluate.outputs import prepare


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("a/b.xml", "a/b.xml"), ("a/", "a/junit.xml"), ("there", "there/junit.xml"), ("b.xml", "b.xml")],
)
def test_a_junit_path_that_is_a_folder_is_the_file_in_it(tmp_path, given, meant):
    (tmp_path / "there").mkdir()
    assert str(prepare(given, None).junit) == meant
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_files_go_into_folders_that_do_not_exist(tmp_path):
    made = prepare("out/deep/j.xml", tmp_path / "x" / "y")
    made.write_junit("name", [], {"acc": 0.5})
    made.write_results({"acc": 0.5}, [], {})
    assert (tmp_path / "out/deep/j.xml").is_file()
    assert {path.name for path in (tmp_path / "x/y").iterdir()} == {"eval.json", "answers.parquet"}


@pytest.mark.parametrize(
    ("junit", "out", "words"),
    [
        ("file/j.xml", None, "file cannot be made: "),
        ("pipe", None, "--junit pipe: is a named pipe, which is not written to"),
        (None, "file", "file: is not a directory"),
        (None, "file/x", "file/x cannot be made: "),
        (None, "taken", "taken/eval.json: is a directory, which is not written to"),
        ("o/eval.json", "o", "--out writes that file"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, junit, out, words):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken/eval.json").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError) as caught:
        prepare(junit, None if out is None else tmp_path / out)
    assert words in caught.value.message


def test_a_disk_that_refuses_at_the_end_is_named(tmp_path):
    made = prepare("out/j.xml", None)
    (tmp_path / "out").write_text("in the way since")
    with pytest.raises(EnvironmentUnfit, match=r"--junit out/j\.xml: cannot be written: File exists"):
        made.write_junit("name", [], {})
