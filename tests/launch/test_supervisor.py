"""The launcher's view of signals; what it does with processes is in `train/test_faults.py`."""

import signal
import subprocess

import pytest

from distillctl.launch import processes
from distillctl.launch.processes import Child
from distillctl.launch.supervisor import REPEAT_S, Signals


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("distillctl.launch.supervisor.time.monotonic", lambda: now[0])
    return now


def signals(clock, *after_s):
    found = Signals()
    for seconds in after_s:
        clock[0] = 100.0 + seconds
        found._note(signal.SIGTERM, None)
    return found


def test_nothing_came(clock):
    found = signals(clock)
    assert (found.first, found.repeated, found.older_than(1)) == (0, False, False)


def test_one_signal_asks_for_a_stop(clock):
    found = signals(clock, 0)
    assert (found.first, found.repeated) == (signal.SIGTERM, False)


def test_a_signal_to_a_process_and_to_its_group_is_one(clock):
    assert not signals(clock, 0, 0.9 * REPEAT_S).repeated


def test_a_later_one_is_a_second(clock):
    assert signals(clock, 0, 0.5 * REPEAT_S, 1.1 * REPEAT_S).repeated


def test_the_grace_begins_with_the_first(clock):
    found = signals(clock, 0, 0.1)
    clock[0] = 105.05
    assert found.older_than(5)
    assert not found.older_than(6)
    assert not found.older_than(None)


def test_a_dry_run_shows_the_end_of_a_log_and_names_no_file_that_is_gone(distillctl, monkeypatch, tmp_path):
    """Shells stand for the processes: the engine's ends with a word, the rank's waits."""

    def start(name, log, script):
        with log.open("wb") as out:
            process = subprocess.Popen(["sh", "-c", script], stdout=out, start_new_session=True)
        return Child(name, process, log)

    def engine(plan, settings, logs):
        return start("rollout engine", logs / "rollout.log", "echo out of luck; exit 1")

    def rank(plan, rank, job, scratch):
        return start("trainer rank 0", job.with_name("rank_0.log"), "exec sleep 60")

    monkeypatch.setattr(Signals, "install", lambda self: None)
    monkeypatch.setattr(processes, "start_rollout_engine", engine)
    monkeypatch.setattr(processes, "start_rank", rank)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"prompt": "What is 2+3?"}\n')
    data = ["data.train_files=data.jsonl", "data.train_batch_size=1", "eval.every=0", "train.device=cpu"]
    code, _, err = distillctl("train", "--preset", "tiny-from-small-arith", *data, "--dry-run")
    assert code == 3
    assert "error: the rollout engine ended with code 1; its last lines:\n  out of luck\n" in err
    assert err.endswith("  fix: train without --dry-run to keep the whole log\n")
