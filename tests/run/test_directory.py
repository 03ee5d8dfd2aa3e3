"""Run directories: numbering, attempts, lock, status, checkpoints."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distillctl.errors import ConfigError
from distillctl.run import checkpoints
from distillctl.run.directory import RunDir, open_run, read_status, write_status
from distillctl.run.metrics import METRICS, metric_table
from distillctl.run.resolve import resolve_checkpoint

# Holds the lock of the run in argv[1] until its stdin closes.
HOLDER = """
import sys
from pathlib import Path
from distillctl.run.directory import RunDir
with RunDir(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with checkpoints of steps 20 and 40."""
    run = RunDir.create(tmp_path / "runs" / "tiny")
    run.config_path.touch()
    for step in (20, 40):
        add_checkpoint(run, step)
    return run


def add_checkpoint(run: RunDir, step: int) -> None:
    hf = run.checkpoints / f"step_{step:06d}" / "hf"
    hf.mkdir(parents=True)
    (hf / "config.json").write_text("{}")
    (run.checkpoints / "latest.json").write_text(json.dumps({"step": step, "path": hf.parent.name}))


@pytest.fixture
def holder(run: RunDir) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_metrics_that_are_the_contract_are_there() -> None:
    """Design, section 8, `actor/loss`, and what only some objectives have."""
    optional = {"actor/sft_loss", "actor/pg_clipfrac", "reward/mean", "topk/student_mass",
                "topk/teacher_mass", "topk/overlap"}  # fmt: skip
    timings = {f"timing_s/{phase}" for phase in ("rollout", "teacher", "update", "sync", "step")}
    actor = {
            "kl_loss", "pg_loss", "distillation_mode", "entropy", "grad_norm", "lr", "loss", "skipped_steps",
        }  # fmt: skip
    assert set(METRICS) >= optional | timings | {f"actor/{name}" for name in actor} | {
        "kl/reverse",
        "kl/forward",
        "kl/k1",
        "kl/k3",
        "teacher/entropy",
        "rollout/mismatch_kl",
        "rollout/staleness",
        "response_length/mean",
        "response_length/clip_ratio",
        "perf/tokens_per_s",
        "perf/rollout_tokens_per_s",
        "memory/trainer_bytes",
        "memory/engine_bytes",
        "gpu/used_bytes",
        "gpu/utilization",
        "val/acc",
        "val/kl",
    }


def test_runs_are_numbered_from_one(tmp_path: Path) -> None:
    assert [RunDir.create(tmp_path / "a").path.name for _ in range(3)] == ["0001", "0002", "0003"]


def test_numbers_go_on_after_the_last_and_ignore_other_names(tmp_path: Path) -> None:
    for name in ("0007", "0002", "notes", "0009.bak"):
        (tmp_path / name).mkdir()
    assert RunDir.create(tmp_path).path.name == "0008"


def test_numbers_grow_past_four_digits(tmp_path: Path) -> None:
    (tmp_path / "9999").mkdir()
    assert RunDir.create(tmp_path).path.name == "10000"
    assert RunDir.create(tmp_path).path.name == "10001"


def test_attempts_are_counted_by_their_logs(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.attempt == 0
    assert [run.begin_attempt() for _ in range(11)] == list(range(1, 12))
    assert run.attempt == 11
    assert run.logs(11).is_dir()


def test_a_second_launcher_is_told_the_first_ones_pid(run: RunDir, holder: subprocess.Popen[str]) -> None:
    assert run.is_locked()
    with pytest.raises(ConfigError, match=rf"in use by process {holder.pid}\b"), run.lock():
        pytest.fail("two launchers hold one run")


def test_a_killed_launcher_leaves_no_lock(run: RunDir, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not run.is_locked()
    with run.lock():
        assert (run.path / ".lock").read_text() == f"{os.getpid()}\n"
        assert run.is_locked()
    assert not run.is_locked()


def test_lock_makes_the_directory_and_is_free_after_an_error(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "deep" / "run")
    assert not run.is_locked()
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with run.lock():
        pass


def test_status_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert read_status(path) == {}
    write_status(path, {"state": "running", "step": 1, "steps": 10})
    write_status(path, {"state": "done"})
    assert read_status(path) == {"state": "done"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_an_unreadable_status_is_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "status.json"
    path.write_text(text)
    assert read_status(path) == {}


def test_latest_checkpoint_follows_the_pointer(run: RunDir) -> None:
    assert checkpoints.latest(run.checkpoints) == run.checkpoints / "step_000040"
    add_checkpoint(run, 60)
    (run.checkpoints / "latest.json").write_text('{"step": 40, "path": "step_000040"}')
    assert checkpoints.latest(run.checkpoints) == run.checkpoints / "step_000040"


def test_open_run(run: RunDir, tmp_path: Path) -> None:
    assert open_run(run.path).path == run.path
    with pytest.raises(ConfigError, match="no such run"):
        open_run(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="not a run directory"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("spec", "step"),
    [
        ("{run}", 40),
        ("{run}@20", 20),
        ("{run}@000020", 20),
        ("{run}/checkpoints/step_000020", 20),
        ("{run}/checkpoints/step_000020/", 20),
        ("{run}/checkpoints/step_000020/hf", 20),
    ],
)
def test_specs_of_a_runs_checkpoints(run: RunDir, spec: str, step: int) -> None:
    found = resolve_checkpoint(spec.format(run=run.path))
    assert found.label == f"tiny/0001@{step}"
    assert Path(found.model) == run.checkpoints / f"step_{step:06d}" / "hf"
    assert found.run == run.path


def test_specs_may_be_relative(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path)
    found = resolve_checkpoint(".")
    assert found.label == "tiny/0001@40"
    assert (Path(found.model) / "config.json").is_file()
    monkeypatch.chdir(run.checkpoints / "step_000020")
    assert resolve_checkpoint(".").label == "tiny/0001@20"


def test_a_model_directory_has_no_run(tmp_path: Path) -> None:
    model = tmp_path / "my-model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    found = resolve_checkpoint(str(model))
    assert (found.label, found.model, found.run) == ("my-model", str(model), None)


def test_a_copied_checkpoint_has_no_run(run: RunDir, tmp_path: Path) -> None:
    copy = (run.checkpoints / "step_000020").rename(tmp_path / "best")
    found = resolve_checkpoint(str(copy))
    assert (found.label, found.model, found.run) == ("best", str(copy / "hf"), None)


@pytest.mark.parametrize(
    "spec", ["builtin:tiny-student", "Qwen/Qwen2.5-0.5B-Instruct", "org/name@12", "/not/there"]
)
def test_what_is_not_on_disk_is_left_to_others(spec: str) -> None:
    found = resolve_checkpoint(spec)
    assert (found.label, found.model, found.run) == (spec, spec, None)


@pytest.mark.parametrize("step", ["30", "latest", "", "-20", "²"])
def test_a_step_without_checkpoint_names_those_there_are(run: RunDir, step: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_checkpoint(f"{run.path}@{step}")
    assert "20, 40" in f"{caught.value.message} {caught.value.hint}"


def test_a_run_without_checkpoint_and_a_directory_without_model(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "tiny")
    run.config_path.touch()
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        resolve_checkpoint(str(run.path))
    with pytest.raises(ConfigError, match="neither a run"):
        resolve_checkpoint(str(tmp_path))


def test_the_metrics_of_several_teachers_stand_behind_the_one_of_all():
    present = ["kl/forward", "kl/reverse/b", "kl/reverse", "kl/reverse/a", "unheard/of", "actor/loss"]
    names = [name for name, _ in metric_table(present)]
    assert names == ["actor/loss", "kl/reverse", "kl/reverse/a", "kl/reverse/b", "kl/forward"]
