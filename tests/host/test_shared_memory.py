"""What is named after a process in memory, and what is swept when that process is gone."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest

from distillctl.host import shared_memory


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def ended():
    """The owner's name of a process that has ended, and its pid."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name, pid = shared_memory.owner(process.pid), process.pid
    process.communicate(b"\n")
    return name, pid


def names(root):
    return sorted(path.name for path in root.iterdir())


def make(path, content=""):
    """A file as this tool and Python's shared memory make it: of this user alone."""
    path.touch(mode=0o600)
    path.write_text(content)


def make_folder(path):
    path.mkdir(mode=0o700)


def test_an_owner_is_named_by_pid_and_start(ended):
    name, pid = ended
    assert name.startswith(f"distillctl-{pid}-")
    assert shared_memory.owner() == shared_memory.owner(os.getpid()) != name


def test_files_and_directories_of_an_ended_process_are_swept(root, ended):
    name, pid = ended
    make_folder(root / f"{name}-abc_123z")
    (root / f"{name}-abc_123z" / "rollout.sock").touch()
    make(root / f"{name}-12ef34ab", "shared")
    make(root / f"sem.{name}-34ab_xyz", "semaphore")
    (root / f"__KMP_REGISTERED_LIB_{pid}_{os.getuid()}").touch()
    shared_memory.sweep()
    assert names(root) == []


def test_a_pid_that_was_given_out_again_does_not_protect_what_the_first_left(root):
    make_folder(root / f"distillctl-{os.getpid()}-1-n{shared_memory.owner().rsplit('-n')[1]}-abcdefgh")
    shared_memory.sweep()
    assert names(root) == []


def test_what_users_name_alike_stays(root, ended):
    """Whatever its name says of a process that is none: only the exact forms are made here, and for this user
    alone."""
    name, pid = ended
    files = ["distillctl-2026-11-28", f"distillctl-{pid}-1-mymodel.safetensors", f"{name}-model.safetensors",
             f"{name}-abcdefgh", f"{name}-12ef34ab.old", f"{name}-pid-12", f"sem.{name}-12",
             f"distillctl-{pid}-1-12ef34ab", "distillctl-٢-1-n1-12ef34ab"]  # fmt: skip
    for file in files:
        make(root / file, "precious")
    folders = ["distillctl-2026-11-28-notes", "distillctl-2026-11-28-n1-notes", f"{name}-pid-13",
               f"sem.{name}-abcdefgh"]  # fmt: skip
    for folder in folders:
        make_folder(root / folder)
    (root / f"{name}-12ef34ab").touch(mode=0o644)
    (root / f"{name}-my_notes").mkdir(mode=0o755)
    os.mkfifo(root / f"{name}-00000000", 0o600)
    before = names(root)
    shared_memory.sweep()
    assert names(root) == before


def test_what_has_an_owner_or_is_not_ours_stays(root, ended):
    ours = f"{shared_memory.owner()}-12ef34ab"
    others = ["psm_12345678", "sem.mp-abc", "distillctl-notes", f"__KMP_REGISTERED_LIB_{os.getpid()}_0",
              f"__KMP_REGISTERED_LIB_{ended[1]}_{os.getuid() + 1}"]  # fmt: skip
    for name in [ours, *others]:
        make(root / name)
    shared_memory.sweep()
    assert names(root) == sorted([ours, *others])


def test_openmps_file_of_a_marked_process_goes_with_its_owner(root, ended):
    """The mark is of a child of the owner; without one nobody knows whose the file is."""
    name, _ = ended
    child = subprocess.Popen(["true"])
    child.wait()
    make(root / f"{name}-pid-{child.pid}")
    marked, unmarked = (root / f"__KMP_REGISTERED_LIB_{pid}_{os.getuid()}" for pid in (child.pid, 2**22 + 1))
    marked.touch()
    unmarked.touch()
    shared_memory.sweep()
    assert names(root) == [unmarked.name]


def test_a_process_marks_itself(root):
    shared_memory.mark("distillctl-1-2-n3")
    assert names(root) == [f"distillctl-1-2-n3-pid-{os.getpid()}"]


def test_links_and_files_of_other_users_stay(root, ended, monkeypatch):
    name, _ = ended
    (root / "outside").mkdir()
    (root / f"{name}-12ef34ab").symlink_to("outside")
    shared_memory.sweep()
    assert names(root) == [f"{name}-12ef34ab", "outside"]
    (root / f"{name}-12ef34ab").unlink()
    make_folder(root / f"{name}-abcdefgh")
    monkeypatch.setattr(os, "getuid", lambda: (root / f"{name}-abcdefgh").stat().st_uid + 1)
    shared_memory.sweep()
    assert names(root) == [f"{name}-abcdefgh", "outside"]


# Holds a scratch directory in argv[1], with the files that an engine leaves beside it, until stdin closes.
HOLDER = """
import sys
from pathlib import Path
from distillctl.host import shared_memory
shared_memory.ROOT = Path(sys.argv[1])
with shared_memory.scratch_directory() as scratch:
    for name in (shared_memory.owner(), f"sem.{shared_memory.owner()}"):
        (shared_memory.ROOT / f"{name}-12ef34ab").touch(mode=0o600)
    print(shared_memory.owner(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def elsewhere(root):
    """A process in a PID namespace of its own that holds a scratch directory: the process and its owner."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("namespaces are not permitted here")
    command = [*unshare, sys.executable, "-c", HOLDER, str(root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_what_lives_in_another_pid_namespace_stays_until_it_is_dead(root):
    """As of a container that shares /dev/shm: its pid is none here, or another process's."""
    with elsewhere(root) as (process, name):
        assert re.fullmatch(r"distillctl-\d+-\d+-n\d+", name)
        before = names(root)
        assert sorted(entry.split(name)[0] for entry in before) == ["", "", "sem."]
        shared_memory.sweep()
        assert names(root) == before
        process.kill()
        process.stdout.read()  # until the last one in there is dead
        shared_memory.sweep()
        assert names(root) == []


def test_openmps_file_of_another_namespace_stays(root):
    """Nobody here can tell whether its process lives."""
    no_pid = 2**22 + 1
    make_folder(root / f"distillctl-{no_pid}-1-n1-abcdefgh")
    make(root / f"distillctl-{no_pid}-1-n1-pid-{no_pid}")
    (root / f"__KMP_REGISTERED_LIB_{no_pid}_{os.getuid()}").touch()
    shared_memory.sweep()
    assert names(root) == [f"__KMP_REGISTERED_LIB_{no_pid}_{os.getuid()}"]


def test_the_scratch_directory_takes_everything_of_its_process_with_it(root):
    with shared_memory.scratch_directory() as scratch:
        assert scratch.stat().st_mode & 0o777 == 0o700
        make(root / f"{shared_memory.owner()}-12ef34ab")
        (scratch / "bucket").touch()
    assert names(root) == []
