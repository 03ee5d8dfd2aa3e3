"""What is named after a process in memory, and what is swept when that process is gone."""

import os
import subprocess
import sys

import pytest

from distillctl import memory


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def ended():
    """The owner's name of a process that has ended, and its pid."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name, pid = memory.owner(process.pid), process.pid
    process.communicate(b"\n")
    return name, pid


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_an_owner_is_named_by_pid_and_start(ended):
    name, pid = ended
    assert name.startswith(f"distillctl-{pid}-")
    assert memory.owner() == memory.owner(os.getpid()) != name


def test_files_and_directories_of_an_ended_process_are_swept(root, ended):
    name, pid = ended
    (root / f"{name}-abc").mkdir()
    (root / f"{name}-abc" / "rollout.sock").touch()
    (root / f"{name}-12ef").touch()
    (root / f"sem.{name}-34ab").touch()
    (root / f"__KMP_REGISTERED_LIB_{pid}_{os.getuid()}").touch()
    memory.sweep()
    assert names(root) == []


def test_a_pid_that_was_given_out_again_does_not_protect_what_the_first_left(root):
    (root / f"distillctl-{os.getpid()}-1-abc").mkdir()
    memory.sweep()
    assert names(root) == []


def test_what_has_an_owner_or_is_not_ours_stays(root, ended):
    ours = f"{memory.owner()}-abc"
    others = ["psm_12345678", "sem.mp-abc", "distillctl-notes", f"__KMP_REGISTERED_LIB_{os.getpid()}_0",
              f"__KMP_REGISTERED_LIB_{ended[1]}_{os.getuid() + 1}"]  # fmt: skip
    for name in [ours, *others]:
        (root / name).touch()
    memory.sweep()
    assert names(root) == sorted([ours, *others])


def test_the_scratch_directory_takes_everything_of_its_process_with_it(root):
    with memory.scratch_directory() as scratch:
        assert scratch.stat().st_mode & 0o777 == 0o700
        (root / f"{memory.owner()}-segment").touch()
        (scratch / "bucket").touch()
    assert names(root) == []
