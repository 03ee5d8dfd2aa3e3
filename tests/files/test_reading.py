"""Opening files that may be something else: links, pipes, devices, directories."""

import os
import stat

import pytest

from distillctl.errors import ConfigError
from distillctl.files.reading import open_own

OTHERS = {
    "a link": lambda path: path.symlink_to("target"),
    "a named pipe": os.mkfifo,
    "a directory": lambda path: path.mkdir(),
    "a socket": lambda path: os.mknod(path, 0o600 | stat.S_IFSOCK),
}


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_APPEND])
@pytest.mark.parametrize("what", OTHERS)
def test_only_a_regular_file_is_opened(tmp_path, what, flags):
    (tmp_path / "target").write_text("precious")
    OTHERS[what](tmp_path / "file")
    with pytest.raises(ConfigError, match=f"file: is {what}, not a regular file"):
        open_own(tmp_path / "file", flags)
    assert (tmp_path / "target").read_text() == "precious"


def test_a_broken_link_makes_no_file(tmp_path):
    (tmp_path / "file").symlink_to("gone")
    with pytest.raises(ConfigError, match="is a link"):
        open_own(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert not (tmp_path / "gone").exists()


def test_a_device_is_not_opened():
    with pytest.raises(ConfigError, match="/dev/zero: is a device"):
        open_own("/dev/zero")


def test_a_regular_file_is_opened_and_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_own(tmp_path / "file")
    with os.fdopen(open_own(tmp_path / "file", os.O_WRONLY | os.O_CREAT), "w") as file:
        file.write("text")
    with os.fdopen(open_own(tmp_path / "file")) as file:
        assert file.read() == "text"
