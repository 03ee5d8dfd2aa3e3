"""Which folders `train` takes: a new one, or a run that no name leads out of; any other stays untouched."""

import errno
import json
import multiprocessing
import os
import signal

import pytest

from distillctl.config.loading import load_preset, to_yaml
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files import atomic, lock
from distillctl.launch import train_command
from distillctl.launch.ownership import holds_run
from distillctl.launch.resume import require_resumable, write_config
from distillctl.run import checkpoints
from distillctl.run.directory import RunDir, write_status
from distillctl.run.events import EventLog, read_events

PRESET = "tiny-from-small-arith"
TRAIN = ["train", "--preset", PRESET, "train.device=cpu", "data.train_batch_size=4", "--run-dir"]


@pytest.fixture
def run(tmp_path):
    """A run after its first checkpoint."""
    run = RunDir(tmp_path / "run")
    with run.lock():
        train_command._begin(run, load_preset(PRESET))
        EventLog(run.events_path, 1).emit("warn", 0, message="")
    for folder in (run.checkpoints, run.samples_dir, run.eval_dir):
        folder.mkdir()
    partial = checkpoints.partial_dir(run.checkpoints, 1)
    (partial / "hf").mkdir(parents=True)
    (partial / "hf" / "model.safetensors").write_text("weights")
    checkpoints.commit(partial, 1, 1, checkpoints.seal(partial))
    return run


def content(folder):
    """Everything below a folder with its kind, content and time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        inside = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, inside)
    return found


def test_a_run_is_one_and_a_new_folder_is_none(run, tmp_path):
    assert holds_run(run)
    assert not holds_run(RunDir(tmp_path / "new"))
    (tmp_path / "empty").mkdir()
    assert not holds_run(RunDir(tmp_path / "empty"))


@pytest.mark.parametrize("left", ["events.jsonl", "status.json"])
def test_events_or_a_status_make_a_run(run, left):
    for path in (run.events_path, run.status_path):
        if path.name != left:
            path.unlink()
    assert holds_run(run)


TORN = '{"t": 1764306000.1, "attempt": 1, "step": 0, "ki'
DAMAGED = {
    "torn": TORN,
    "torn at once": '{"t',
    "never on the disk": "\0" * 4096,
    "half on the disk": TORN[:20] + "\0" * 4096,
    "a line that is too long": TORN[:-4] + "x" * (1 << 16),
    "torn, then gone on with": TORN + '\n{"t": 1.5, "attempt": 2, "step": 0, "kind": "phase"}\n',
}


@pytest.mark.parametrize("what", DAMAGED)
def test_events_that_a_crash_damaged_are_still_a_runs_and_gone_on_with(run, what):
    run.events_path.write_text(DAMAGED[what])
    assert holds_run(run)
    require_resumable(run, load_preset(PRESET), "must", elastic=False)
    EventLog(run.events_path, 2).emit("warn", 3, message="on")
    assert [event["message"] for event in read_events(run.events_path) if event["kind"] == "warn"] == ["on"]


@pytest.mark.parametrize("line", [TORN, TORN + "x" * (1 << 16), "x" * (1 << 16) + '\n{"t": 1, "attempt": 1, '
                                  '"step": 1, "kind": "new"}\n'])  # fmt: skip
def test_damaged_events_make_a_run_without_a_status(run, line):
    run.status_path.unlink()
    run.events_path.write_text(line)
    assert holds_run(run)


def test_a_folder_that_cannot_be_read_is_no_free_one(run, monkeypatch):
    def scandir(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)  # root may read everything

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(EnvironmentUnfit, match="run cannot be read: Permission denied"):
        holds_run(run)


CONFIG = to_yaml(load_preset(PRESET))
PARTIAL = ".distillctl-0123456789abcdef.tmp"
FOREIGN = {
    "a file": {"notes": "mine"},
    "a dot-file": {".notes": "mine"},
    "a folder": {"checkpoints/.tmp-mine/z": "mine"},
    "its own kind of temporary files": {".notes.tmp": "mine"},
    "another tool's configuration": {"config.yaml": "model: gpt2\n", "status.json": '{"state": "done"}'},
    "a broken configuration": {"config.yaml": "{", "status.json": '{"state": "done"}'},
    "an empty configuration": {"config.yaml": "", "events.jsonl": ""},
    "a configuration alone": {"config.yaml": CONFIG},
    "another tool's events": {"config.yaml": CONFIG, "events.jsonl": '{"kind": "click"}\n'},
    "another tool's status": {"config.yaml": CONFIG, "status.json": '{"state": "open"}'},
    "another tool that is done": {"config.yaml": CONFIG, "status.json": '{"state": "done"}'},
    "a diary beside a status": {"config.yaml": CONFIG, "status.json": '{"state": "failed", "attempt": 1}',
                                "events.jsonl": "dear diary\n"},
    "a diary in JSON beside a status": {"config.yaml": CONFIG,
                                        "status.json": '{"state": "failed", "attempt": 1}',
                                        "events.jsonl": '{"day": 1}\n'},
    "another tool's lock": {".lock": "precious\n"},
    "a lock and more": {".lock": "12\n", "notes": "mine"},
    "an empty lock": {".lock": ""},
    "an empty lock and a configuration": {".lock": "", "config.yaml": "# mine\n" + CONFIG},
    "an empty lock and an empty temporary file": {".lock": "", PARTIAL: ""},
    "an empty lock and a temporary file": {".lock": "", PARTIAL: "mine"},
    "a temporary file": {PARTIAL: "mine"},
    "no configuration": {"events.jsonl": '{"t": 1, "attempt": 1, "step": 1, "kind": "warn"}\n'},
    "a model": {"config.json": "{}", "model.safetensors": "x"},
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_with_anything_else_is_refused_and_untouched(refused, folder, what):
    for name, text in FOREIGN[what].items():
        path = folder / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = content(folder / "mine")
    message, fix = refused(*TRAIN, "mine")
    assert "mine is not empty and not a run" in message
    assert "delete" not in fix
    assert "remove" not in fix
    assert content(folder / "mine") == before


WRITTEN = [
    ".lock", "config.yaml", "provenance.json", "events.jsonl", "status.json", "checkpoints", "samples",
    "eval", "logs", "tensorboard", "wandb", "checkpoints/step_000001", "checkpoints/step_000007",
    "checkpoints/.tmp-step_000002", "checkpoints/.tmp-universal",
    "checkpoints/.tmp-rehearsal", "checkpoints/.tmp-dropped-step_000001",
    "checkpoints/latest.json", "checkpoints/best.json", "samples/step_000001.parquet",
    "eval/step_000001.json", "eval/step_000001.parquet", "logs/attempt_1", "logs/attempt_2",
]  # fmt: skip


def set_aside(run, name):
    """Moves a part of a run out of it, and returns where it is."""
    outside = run.path.parent / "outside"
    if (run.path / name).exists():
        (run.path / name).rename(outside)
    else:
        outside.mkdir()
    return outside


@pytest.mark.parametrize("name", WRITTEN)
def test_a_link_in_place_of_what_a_run_writes_is_refused(run, name):
    outside = set_aside(run, name)
    (run.path / name).symlink_to(outside)
    before = content(run.path.parent)
    with pytest.raises(ConfigError, match=f"{name} is a link") as refused:
        require_resumable(run, load_preset(PRESET), "auto", elastic=False)
    assert "another --run-dir" in refused.value.hint
    assert content(run.path.parent) == before


@pytest.mark.parametrize("name", WRITTEN)
def test_a_pipe_in_place_of_what_a_run_writes_is_refused(run, name):
    set_aside(run, name)
    os.mkfifo(run.path / name)
    with pytest.raises(ConfigError, match=f"{name} is a named pipe where a run has a (file|folder)"):
        holds_run(run)


@pytest.mark.parametrize("name", ["status.json", "events.jsonl", ".lock", "config.yaml"])
def test_a_folder_in_place_of_a_file_is_refused(run, name):
    set_aside(run, name)
    (run.path / name).mkdir()
    with pytest.raises(ConfigError, match=f"{name} is a directory where a run has a file"):
        holds_run(run)


@pytest.mark.parametrize("name", ["events.jsonl", ".lock"])
def test_a_file_with_a_second_name_outside_is_not_appended_to(run, tmp_path, name):
    os.link(run.path / name, tmp_path / "outside")
    with pytest.raises(ConfigError, match=f"{name} has other names"):
        holds_run(run)


def test_links_that_a_run_does_not_write_are_nobodys_business(run, tmp_path):
    (tmp_path / "link").symlink_to(run.path)
    (run.checkpoints / "favourite").symlink_to("step_000001")
    (run.path / "notes").symlink_to(tmp_path)
    assert holds_run(RunDir(tmp_path / "link"))


def test_nothing_is_written_through_a_link_that_comes_too_late(run, tmp_path):
    """Each writer looks once more."""
    (tmp_path / "target").write_text("12\n")
    for path in (run.events_path, run.path / ".lock"):
        path.unlink()
        path.symlink_to(tmp_path / "target")
    with pytest.raises(EnvironmentUnfit, match=r"events\.jsonl cannot be written"):
        EventLog(run.events_path, 1)
    with pytest.raises(ConfigError, match=r"\.lock: is a link"), run.lock():
        pytest.fail("held")
    assert not run.is_locked()
    assert (tmp_path / "target").read_text() == "12\n"


def test_a_lock_that_is_a_pipe_or_says_something_else_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "notes").write_text("precious\n")
    for name in ("pipe", "notes"):
        with pytest.raises(ConfigError), lock.hold(tmp_path / name):
            pytest.fail("held")
    assert not lock.is_held(tmp_path / "pipe")
    assert (tmp_path / "notes").read_text() == "precious\n"


def test_hints_of_refusals_never_tell_to_delete(run):
    with pytest.raises(ConfigError) as never:
        require_resumable(run, load_preset(PRESET), "never", elastic=False)
    assert "delete" not in never.value.hint


# --- a start that is killed --------------------------------------------------------------------------


def start(run):
    """What `train` writes before it starts any process."""
    with run.lock():
        require_resumable(run, load_preset(PRESET), "auto", elastic=False)
        atomic.sweep(run.path)
        train_command._begin(run, load_preset(PRESET))
        EventLog(run.events_path, 1).emit("warn", 0, message="")


_OPERATIONS = ("open", "write", "pwrite", "ftruncate", "fsync", "mkdir", "replace", "rename", "unlink")


def start_and_die(run, at):
    """Start, and SIGKILL this process right before its `at`-th operation on the file system."""
    seen = 0

    def deadly(operation):
        def call(*arguments, **options):
            nonlocal seen
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return call

    for name in _OPERATIONS:
        setattr(os, name, deadly(getattr(os, name)))
    start(run)
    os._exit(0)


def test_a_start_that_is_killed_at_any_moment_is_gone_on_with(tmp_path):
    fork = multiprocessing.get_context("fork")
    outcomes = set()
    for at in range(1, 100):
        run = RunDir(tmp_path / str(at))
        process = fork.Process(target=start_and_die, args=(run, at))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        outcomes.add(holds_run(run))
        start(run)
        assert holds_run(run)
        assert not list(run.path.glob("*.tmp"))
        if process.exitcode == 0:
            break
    else:
        pytest.fail("a start has more operations than were tried")
    assert at > 10
    assert outcomes == {False, True}


def test_a_lock_is_at_no_moment_empty_once_it_had_a_pid(tmp_path):
    """A killed launcher's may be longer: 0.1 and other pids."""
    fork = multiprocessing.get_context("fork")
    for at in range(1, 20):
        run = RunDir(tmp_path / str(at))
        run.path.mkdir()
        (run.path / ".lock").write_text("12345678901\n")
        process = fork.Process(target=start_and_die, args=(run, at))
        process.start()
        process.join()
        told = (run.path / ".lock").read_text()
        assert told.strip() in ("12345678901", str(process.pid))
        start(run)
    assert told == f"{process.pid}\n"


def test_the_configuration_of_a_start_that_was_killed_is_not_written_over(tmp_path):
    """It may be the user's, beside a lock that is none."""
    run = RunDir(tmp_path)
    (tmp_path / ".lock").write_text("4711\n")
    other = load_preset(PRESET, ["optim.lr=0.5"])
    run.config_path.write_text("# mine\n" + to_yaml(other))
    before = content(tmp_path)
    for resume in ("auto", "never"):
        with pytest.raises(ConfigError, match=r"optim\.lr: 0\.5 -> "):
            require_resumable(run, load_preset(PRESET), resume, elastic=True)
    assert content(tmp_path) == before
    require_resumable(run, other, "auto", elastic=False)
    write_config(run, other)
    assert run.config_path.read_text().startswith("# mine\n")


def test_a_run_of_the_first_version_is_gone_on_with(tmp_path):
    """As 0.1 wrote it: the files in another order, status with a step."""
    run = RunDir(tmp_path)
    (tmp_path / ".lock").write_text("4711\n")
    (tmp_path / "config.yaml").write_text(CONFIG)
    write_status(run.status_path, {"state": "failed", "attempt": 1, "pid": 4711, "step": 3, "steps": 9})
    assert holds_run(run)
    run.status_path.write_text("")
    run.events_path.write_text(
        json.dumps({"t": 1.5, "attempt": 1, "step": 0, "kind": "stop", "signal": 2}) + "\n"
    )
    assert holds_run(run)
