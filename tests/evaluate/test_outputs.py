"""Where an evaluation writes, and what is refused before anything is computed."""

import os

import pytest

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.evaluate import outputs
from distillctl.evaluate.cache import Cache, open_cache


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def prepare(junit, out, cache=None):
    return outputs.prepare(junit, out, cache or Cache(None, None))


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
        ("pipe", None, "--junit pipe: is a named pipe, which cannot be overwritten"),
        (None, "file", "file: is not a directory"),
        (None, "file/x", "file/x cannot be made: "),
        (None, "taken", "taken/eval.json: is a directory, which cannot be overwritten"),
        ("o/eval.json", "o", "--junit writes the file o/eval.json, and --out "),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, junit, out, words):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken/eval.json").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError) as caught:
        prepare(junit, None if out is None else tmp_path / out)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("junit", "out", "kept", "file", "other"),
    [
        ("res", "res", None, "--junit", "--out"),
        ("zz/sub", "zz/sub", None, "--junit", "--out"),
        ("zz", "zz/deep/er", None, "--junit", "--out"),
        ("res/eval.json/x.xml", "res", None, "--out", "--junit"),
        ("res/answers.parquet/", "res", None, "--out", "--junit"),
        ("./res/../res/eval.json", "res", None, "--junit", "--out"),
        ("link/res/eval.json", "res", None, "--junit", "--out"),
        ("res", None, "res", "--junit", "--cache-dir"),
        ("res", None, "res/kept", "--junit", "--cache-dir"),
        (None, "res", "res/eval.json", "--out", "--cache-dir"),
        ("user/distillctl/eval", None, None, "--junit", "the cache folder"),
        ("user", None, "kept", "--junit", "the cache folder"),
    ],
)
def test_no_output_lies_on_or_below_the_file_of_another(tmp_path, monkeypatch, junit, out, kept, file, other):
    """Before any of them is there."""
    (tmp_path / "link").symlink_to(".")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    cache = open_cache(None if kept is None else tmp_path / kept)
    with pytest.raises(ConfigError) as caught:
        prepare(junit, None if out is None else tmp_path / out, cache)
    assert caught.value.message.startswith(f"{file} writes the file ")
    assert f", and {other} " in caught.value.message
    assert os.listdir(tmp_path) == ["link"]


def test_outputs_side_by_side_are_no_obstacle(tmp_path):
    for kept in ("res/kept", "res"):
        made = prepare("res/", tmp_path / "res", open_cache(tmp_path / kept))
        assert [path.name for _, path in made.files] == ["junit.xml", "eval.json", "answers.parquet"]


def test_an_output_does_not_replace_the_data(tmp_path):
    made = prepare(None, tmp_path / "res")
    made.write_results({}, [], {})
    os.link(tmp_path / "res/answers.parquet", tmp_path / "mine.parquet")
    made.require_no_input([tmp_path / "other.parquet"], "--data")
    with pytest.raises(ConfigError, match=r"--out would replace .*answers\.parquet, which --data reads"):
        made.require_no_input([tmp_path / "mine.parquet"], "--data")


def test_a_disk_that_refuses_at_the_end_is_named(tmp_path):
    made = prepare("out/j.xml", None)
    (tmp_path / "out").write_text("in the way since")
    with pytest.raises(EnvironmentUnfit, match=r"--junit out/j\.xml: cannot be written: File exists"):
        made.write_junit("name", [], {})
