"""Where a command may write what it is asked for, and that it is told before anything is computed."""

import os

import pytest

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files.outputs import file_in, require_output, require_writable, written


def mine(path):
    return path.read_text() == "ours"


def require(path):
    require_output(path, "-o", "one of ours", mine)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("there", "there/r.html"), ("there/", "there/r.html"), ("new/", "new/r.html"), ("new", "new"),
     ("a/b/", "a/b/r.html"), ("a/r", "a/r")],
)  # fmt: skip
def test_a_path_that_ends_in_a_slash_or_is_a_folder_is_a_folder(tmp_path, monkeypatch, text, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert str(file_in(text, "r.html")) == expected


def test_an_older_output_and_nothing_else_is_replaced(tmp_path):
    require(tmp_path / "new" / "deep" / "file")
    (tmp_path / "file").write_text("ours")
    require(tmp_path / "file")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="file: already exists and is not one of ours"):
        require(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "ours").write_text("ours")
    (tmp_path / "link").symlink_to("ours")
    (tmp_path / "broken").symlink_to("none")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "broken", "folder", "pipe"):
        with pytest.raises(ConfigError, match=f"{name}: is a "):
            require(tmp_path / name)
    with pytest.raises(ConfigError, match="/dev/null: is a device"):
        require_output(type(tmp_path)("/dev/null"), "-o", "one of ours", mine)


def test_a_place_that_cannot_be_written_is_known_beforehand(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is not a directory"):
        require(tmp_path / "file" / "new")
    with pytest.raises(EnvironmentUnfit, match="File name too long"):
        require(tmp_path / ("x" * 256))
    with pytest.raises(EnvironmentUnfit, match="/proc/new cannot be written"):
        require_writable(type(tmp_path)("/proc/new"), option="--out")  # root may, by its permissions


def test_a_longest_name_can_be_written(tmp_path):
    """Temporary names are no longer than the file's."""
    path = tmp_path / "new" / ("x" * 255)
    require(path)
    with written(path, "-o") as file:
        file.write(b"ours")
    assert path.read_text() == "ours"


def test_asking_leaves_no_trace(tmp_path):
    before = tmp_path.stat().st_mtime_ns
    require(tmp_path / "new")
    assert (os.listdir(tmp_path), tmp_path.stat().st_mtime_ns) == ([], before)
