"""What `train` predicts of the machine and refuses: exit 2 or 3, one message, nothing started or written."""

import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from distillctl.config.schema import Config
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.host import shared_memory
from distillctl.launch import machine_checks, train_command
from distillctl.launch.plan import resolve
from distillctl.run import checkpoints

MIB = 1 << 20
Usage = namedtuple("Usage", "total used free")
AS_USER = pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")


@pytest.fixture
def plan():
    """Makes the plan of the tiny pair, with overrides by section."""

    def make(**sections):
        tree = {
            "student": {"model": "builtin:tiny-student"},
            "teacher": {"model": "builtin:tiny-teacher"},
            "data": {"train_files": ["none.parquet"], "max_prompt_length": 64, "max_response_length": 64},
            "train": {"steps": 10, "device": "cpu", "micro_batch_tokens": 512},
        }
        for name, values in sections.items():
            tree[name] = {**tree.get(name, {}), **values}
        return resolve(Config.model_validate(tree))

    return make


@pytest.fixture
def mounted(tmp_path):
    """Mounts tmpfs file systems of a size; skips where that is not permitted."""
    points = []

    def mount(name, size, *, read_only=False):
        point = tmp_path / name
        point.mkdir()
        options = f"size={size}" + (",ro" if read_only else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mount is not permitted here: {done.stderr.strip()}")
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def refused(folder, distillctl):
    """Runs `train`, which has to be refused and to leave everything as it is: exit code and message."""

    def run(*arguments):
        before = listing(folder)
        tiny = ["train", "--preset", "tiny-from-small-arith", "train.device=cpu", "data.train_batch_size=4"]
        code, out, err = distillctl(*tiny, *arguments)
        assert out == ""
        assert [line for line in err.splitlines() if line.startswith("error: ")] == err.splitlines()[:1]
        assert "Traceback" not in err
        assert "\n  fix: " in err
        assert listing(folder) == before
        return code, err

    return run


def listing(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


# --- the run directory -----------------------------------------------------------------------------


def test_a_run_directory_that_is_a_file_is_exit_2(refused, folder):
    (folder / "mine").write_text("precious")
    code, err = refused("--run-dir", "mine")
    assert code == 2
    assert f"{folder / 'mine'} is not a directory" in err
    assert (folder / "mine").read_text() == "precious"


def test_a_run_directory_below_a_file_is_exit_2(refused, folder):
    (folder / "runs").write_text("")
    assert refused()[0] == 2
    assert refused("--run-dir", "runs/a/b")[0] == 2


def test_a_run_directory_that_is_a_broken_link_is_exit_2(refused, folder):
    (folder / "mine").symlink_to("gone")
    assert refused("--run-dir", "mine")[0] == 2


def test_a_name_that_no_file_system_takes_is_exit_3(refused):
    code, err = refused("--run-dir", "x" * 300)
    assert code == 3
    assert "File name too long" in err


@pytest.mark.parametrize("name", ["there", "there/new/run"])
def test_a_read_only_file_system_is_exit_3(refused, mounted, name):
    point = mounted("there", "1m", read_only=True)
    code, err = refused("--run-dir", point.parent / name)
    assert code == 3
    assert f"{point}: it is on a read-only file system" in err


@AS_USER
def test_a_directory_without_permission_is_exit_3(refused, folder):
    (folder / "runs").mkdir(mode=0o500)
    code, err = refused()
    assert code == 3
    assert "this user has no permission" in err


# --- disk ------------------------------------------------------------------------------------------


def test_a_disk_too_small_for_the_checkpoints_is_exit_3(refused, mounted):
    """Really too small: the tiny student's checkpoint is 8 MiB, with 16 MiB of room for what lies beside."""
    point = mounted("small", "20m")
    code, err = refused("--run-dir", point / "run")
    assert code == 3
    assert "checkpoints needs about 0.023 GiB for 1 checkpoint(s) of 0.023 GiB" in err
    assert "its disk has 0.020 GiB free" in err
    assert "checkpoint.keep" in err
    assert list(point.iterdir()) == []


def test_the_disk_of_mounted_checkpoints_counts(refused, mounted, folder, distillctl, monkeypatch):
    monkeypatch.setattr(train_command.supervisor, "run", lambda *arguments: None)
    tiny = ["--preset", "tiny-from-small-arith", "train.device=cpu", "data.train_batch_size=4"]
    assert distillctl("train", *tiny, "--run-dir", "mine")[0] == 0
    mounted("mine/checkpoints", "20m")
    assert refused("--run-dir", "mine")[0] == 3


def test_a_checkpoint_is_as_large_as_predicted(plan):
    """As runs write it: in ZeRO-3 `optim_states.pt` has 12 B per parameter and `hf/` the weights."""
    count = plan().student.shape.num_parameters
    beside = machine_checks._BESIDE_BYTES
    assert machine_checks.checkpoint_bytes(plan()) == 16 * count + beside
    assert machine_checks.checkpoint_bytes(plan(student={"dtype": "bfloat16"})) == 14 * count + beside
    assert machine_checks.checkpoint_bytes(plan(zero={"stage": 1})) == 20 * count + beside


@pytest.mark.parametrize(
    ("settings", "there", "expected"),
    [
        ({"every": 0}, 0, 1),  # only the last
        ({"every": 1, "keep": 2}, 0, 3),  # the third is written before the first goes
        ({"every": 4, "keep": 5}, 0, 3),  # 10 steps have no more
        ({"every": 1, "keep": 2}, 1, 2),  # a resumed run
        ({"every": 1, "keep": 2}, 2, 1),
        ({"every": 1, "keep": 1}, 4, 1),
    ],
)
def test_room_is_asked_for_the_checkpoints_to_come(plan, tmp_path, monkeypatch, settings, there, expected):
    made = plan(checkpoint=settings)
    for step in range(there):
        (tmp_path / "checkpoints" / checkpoints.step_dir(step)).mkdir(parents=True)
    needed = expected * machine_checks.checkpoint_bytes(made)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, needed - 1))
    with pytest.raises(EnvironmentUnfit, match=rf"for {expected} checkpoint\(s\)"):
        machine_checks._require_disk(made, tmp_path / "checkpoints")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, needed))
    machine_checks._require_disk(made, tmp_path / "checkpoints")


# --- /dev/shm --------------------------------------------------------------------------------------


def test_a_machine_without_shared_memory_is_exit_3(refused, folder, monkeypatch):
    monkeypatch.setattr(shared_memory, "ROOT", folder / "shm")
    code, err = refused()
    assert code == 3
    assert f"{folder / 'shm'} is missing" in err
    (folder / "shm").write_text("")
    code, err = refused()
    assert code == 3
    assert "shm is not a directory" in err


def test_shared_memory_that_is_read_only_is_exit_3(refused, mounted, monkeypatch):
    monkeypatch.setattr(shared_memory, "ROOT", mounted("shm", "1m", read_only=True))
    code, err = refused()
    assert code == 3
    assert "shm cannot be written" in err


def test_shared_memory_too_small_for_a_push_is_exit_3(refused, mounted, monkeypatch):
    """A container's default of 64 MiB: just what vLLM may take."""
    monkeypatch.setattr(shared_memory, "ROOT", mounted("shm", "64m"))
    code, err = refused()
    assert code == 3
    assert "has 0.062 GiB free, the run needs 0.064 GiB" in err
    assert "--shm-size" in err


def test_ranks_on_gpus_need_shared_memory_for_nccl(mounted, monkeypatch):
    monkeypatch.setattr(shared_memory, "ROOT", mounted("shm", "512m"))
    machine_checks.require_shared_memory(1 * MIB)
    with pytest.raises(EnvironmentUnfit, match=r"needs 1\.063 GiB: .* and NCCL's buffers"):
        machine_checks.require_shared_memory(1 * MIB, nccl=True)


def test_what_killed_runs_left_in_shared_memory_does_not_count(mounted, monkeypatch):
    root = mounted("shm", "66m")
    monkeypatch.setattr(shared_memory, "ROOT", root)
    namespace = shared_memory.owner().rsplit("-", 1)[1]
    left = root / f"distillctl-1-0-{namespace}-deadbeef"  # pid 1 started at another time
    left.touch(mode=0o600)
    left.write_bytes(bytes(40 * MIB))
    machine_checks.require_shared_memory(1 * MIB)
    assert not left.exists()


def test_an_evaluation_needs_shared_memory_too(folder, distillctl, monkeypatch):
    monkeypatch.setattr(shared_memory, "ROOT", folder / "shm")
    arguments = ["--checkpoint", "builtin:tiny-student", "--data", "data/arith/test.parquet"]
    code, _, err = distillctl("eval", *arguments, "--max-tokens", 64)
    assert code == 3
    assert err.startswith(f"error: {folder / 'shm'} is missing")


# --- sockets ---------------------------------------------------------------------------------------


def test_scratch_directories_are_named_as_long_as_predicted():
    with shared_memory.scratch_directory() as scratch:
        assert len(scratch.name) == len(f"{shared_memory.owner()}-{machine_checks._RANDOM_NAME}")


def test_sockets_with_too_long_paths_are_exit_3(refused, folder, monkeypatch):
    deep = folder / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr(shared_memory, "ROOT", deep)
    code, err = refused()
    assert code == 3
    assert "at most 107 are possible" in err


def test_a_path_of_the_predicted_limit_can_be_bound(tmp_path, monkeypatch):
    """The limit is the kernel's own."""
    import socket

    monkeypatch.chdir(tmp_path)
    for length, fits in ((machine_checks.MAX_SOCKET_PATH, True), (machine_checks.MAX_SOCKET_PATH + 1, False)):
        with socket.socket(socket.AF_UNIX) as sock:
            if fits:
                sock.bind("s" * length)
                continue
            with pytest.raises(OSError, match="too long"):
                sock.bind("s" * length)


def test_a_teachers_socket_with_too_long_a_path_is_exit_2(plan):
    served = plan(teacher={"url": ["unix:/" + "s" * 107]}, loss={"kind": "topk"})
    with pytest.raises(ConfigError, match=r"teacher\.url: the path of unix:.* has 108 bytes"):
        machine_checks.require_fit(served)


# --- what fits -------------------------------------------------------------------------------------


def test_a_run_that_fits_is_started(folder, distillctl, monkeypatch):
    """The counterpart of all above: with nothing wrong the launcher is reached."""
    started = []
    monkeypatch.setattr(train_command.supervisor, "run", lambda *arguments: started.append(arguments))
    tiny = ["--preset", "tiny-from-small-arith", "train.device=cpu", "data.train_batch_size=4"]
    code, out, _ = distillctl("train", *tiny, "--run-dir", "mine")
    assert (code, out.strip(), len(started)) == (0, "mine", 1)
    assert Path("mine/config.yaml").is_file()
