"""Faults in real runs of the tiny pair: kills, hangs, signals, damaged checkpoints, other numbers of ranks.

Each story is one run that is hurt and resumed until it is done, and then compared with the quiet run of the
same seed: on one machine and number of ranks, losses and weights are the same bit for bit.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from distillctl.host import shared_memory
from distillctl.run import checkpoints
from distillctl.run.events import read_events
from distillctl.run.resolve import resolve_checkpoint

pytestmark = pytest.mark.engine

STEPS = 5
RUN = [
    "train", "--preset", "tiny-from-small-arith", "data.train_batch_size=12", "data.max_response_length=48",
    "rollout.n=2", "rollout.max_num_seqs=32", "train.micro_batch_tokens=700", f"train.steps={STEPS}",
    "optim.warmup_steps=2", "eval.limit=16", "eval.every=2", "samples.every=2", "checkpoint.every=1",
    "checkpoint.best=true",
]  # fmt: skip


class Run:
    """One run directory and the launcher that works on it."""

    def __init__(self, folder, name, *overrides):
        self.folder, self.name, self.overrides = folder, name, overrides
        self.path = folder / name
        self.checkpoints = self.path / "checkpoints"
        self.launcher = None
        self.stderr = ""

    def command(self, *extra):
        return [sys.executable, "-m", "distillctl", *RUN, "--run-dir", self.name, *self.overrides, *extra]

    def start(self, *extra, prefix=(), **options):
        self.launcher = subprocess.Popen(
            [*prefix, *self.command(*extra)], cwd=self.folder, stdout=subprocess.DEVNULL,
            stderr=options.pop("stderr", subprocess.PIPE), text=True, **options,
        )  # fmt: skip
        return self

    def end(self, timeout_s=200):
        """Wait for the launcher; its exit code."""
        _, errors = self.launcher.communicate(timeout=timeout_s)
        self.stderr = errors or ""
        return self.launcher.returncode

    def finish(self, *extra):
        """Go on to the end."""
        assert self.start(*extra).end() == 0, self.stderr[-3000:]

    def events(self, kind):
        return [event for event in read_events(self.path / "events.jsonl") if event["kind"] == kind]

    @property
    def attempt(self):
        return max((event["attempt"] for event in read_events(self.path / "events.jsonl")), default=0)

    def wait_for_step(self, step, attempt):
        """Until this attempt has finished a step from `step` on; 0 is the start."""
        kind = "step" if step else "start"
        self.wait(lambda: any(e["attempt"] == attempt and e["step"] >= step for e in self.events(kind)))

    def wait(self, happened, timeout_s=200):
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert self.launcher.poll() is None, self.launcher.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def pids(self, module):
        """Of this run's processes of one of our modules."""
        pattern = f"distillctl[.]{module} {self.folder}/{self.name}/logs"
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def signal_engine(self, signum):
        (worker,) = self.pids("rollout.worker")
        os.kill(worker, signum)

    def weights(self, step=STEPS):
        return load_file(self.checkpoints / f"step_{step:06d}/hf/model.safetensors")

    def losses(self):
        """Of every attempt at every step."""
        names = ("actor/loss", "kl/reverse", "actor/entropy", "actor/grad_norm", "actor/lr", "kl/k1")
        return {
            (e["step"], e["attempt"]): [e["metrics"][name] for name in names] for e in self.events("step")
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults")
    subprocess.run([sys.executable, "-m", "distillctl", "prep", "arith"], cwd=path, check=True)
    return path


@pytest.fixture(scope="module")
def quiet(folder, process_group):
    """The run that nothing happens to, looked at once from outside while it runs."""
    run = Run(folder, "quiet").start()
    run.wait_for_step(1, attempt=1)
    leaders = [run.launcher.pid, *run.pids("rollout.worker"), *run.pids("train.worker")]
    run.listening = {address for pid in leaders for address in process_group(pid).addresses()}
    assert run.end() == 0, run.stderr
    return run


def assert_same_end(run, quiet):
    """Every attempt at every step had the losses of the quiet run, and the weights are the same bits."""
    expected = {step: values for (step, _), values in quiet.losses().items()}
    found = run.losses()
    assert {step for step, _ in found} == set(expected)
    for (step, attempt), values in found.items():
        assert values == expected[step], (step, attempt)
    ours, theirs = run.weights(), quiet.weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    evals = {e["step"]: e["metrics"] for e in run.events("eval")}
    assert evals == {e["step"]: e["metrics"] for e in quiet.events("eval")}


def assert_nothing_left(run, timeout_s=5.0):
    """No process of the run is alive within that time."""
    deadline = time.monotonic() + timeout_s
    while left := [*run.pids("rollout.worker"), *run.pids("train.worker")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def in_memory(run):
    """Names of what the run's launcher has in memory, directories of sockets and weights included."""
    return [path.name for path in shared_memory.ROOT.glob(f"distillctl-{run.launcher.pid}-*")]


def test_nothing_listens_beyond_loopback(quiet, loopback):
    assert quiet.listening <= loopback


def test_no_prompt_or_answer_is_in_the_logs(quiet):
    rows = pq.read_table(quiet.path / "samples/step_000001.parquet").to_pylist()
    texts = {row["text"].strip() for row in rows if len(row["text"]) > 10}
    rows = pq.read_table(quiet.folder / "data/arith/train.parquet").to_pylist()
    prompts = {row["prompt"][-1]["content"] for row in rows}
    logs = [*quiet.path.glob("logs/*/*"), quiet.path / "status.json"]
    written = "\n".join(log.read_text() for log in logs) + quiet.stderr
    assert len(texts) > 10
    assert not [text for text in texts | prompts if text in written]
    assert not [text for text in prompts if text in (quiet.path / "events.jsonl").read_text()]


def test_the_best_checkpoint_is_kept_and_found(quiet):
    evals = {e["step"]: e["metrics"]["val/acc"] for e in quiet.events("eval") if e["step"]}
    step = min(evals, key=lambda step: (-evals[step], step))
    kept = json.loads((quiet.checkpoints / "best.json").read_text())
    assert kept == {"step": step, "path": f"step_{step:06d}", "val/acc": evals[step]}
    assert checkpoints.find_damage(quiet.checkpoints / kept["path"]) == ""
    assert resolve_checkpoint(f"{quiet.path}@best").model == str(quiet.checkpoints / kept["path"] / "hf")


# An engine that is killed, loses a part, or hangs.


@pytest.fixture(scope="module")
def hurt_engine(folder):
    """The engine killed, then stopped."""
    run = Run(folder, "hurt_engine", "rollout.timeout_s=10").start()
    run.wait_for_step(1, attempt=1)
    run.signal_engine(signal.SIGKILL)
    run.wait_for_step(3, attempt=1)
    run.signal_engine(signal.SIGSTOP)
    run.code = run.end(400)
    return run


def test_a_run_survives_its_engine_with_the_same_results(hurt_engine, quiet):
    assert hurt_engine.code == 0, hurt_engine.stderr[-3000:]
    assert_same_end(hurt_engine, quiet)


def test_events_say_what_happened_to_the_engine(hurt_engine):
    told = [event["message"] for event in hurt_engine.events("warn")]
    assert sum("the rollout engine ended with code" in message for message in told) == 2
    assert any("restart 2 of 3" in message for message in told)
    assert any("was silent for 10 s" in message for message in told)
    assert (
        sum("the run continues with a fresh engine and the current weights" in message for message in told)
        >= 2
    )


# An engine that samples a batch ahead.


@pytest.fixture(scope="module")
def ahead(folder):
    """The engine stopped and killed with a batch begun, its successor killed too; then asked to stop."""
    run = Run(folder, "ahead", "train.async_depth=1", "rollout.max_restarts=1").start()
    run.wait_for_step(1, attempt=1)
    run.signal_engine(signal.SIGSTOP)  # the batch of step 2 or, where that is done, of step 3 stands still
    time.sleep(1)
    run.signal_engine(signal.SIGKILL)
    run.wait_for_step(3, attempt=1)
    run.signal_engine(signal.SIGKILL)
    run.code_of_second_loss = run.end()
    run.told_of_second_loss = run.stderr
    assert_nothing_left(run)
    run.start().wait_for_step(0, attempt=2)
    run.launcher.terminate()
    run.code_of_stop = run.end()
    return run


def test_a_batch_that_was_lost_ahead_is_sampled_anew_from_the_weights_of_the_moment(ahead):
    staleness = {
        e["step"]: e["metrics"]["rollout/staleness"] for e in ahead.events("step") if e["attempt"] == 1
    }
    assert staleness[1] == 0  # nothing was begun before it
    assert sorted(staleness[step] for step in (2, 3)) == [0, 1]
    message = "the run continues with a fresh engine and the current weights"
    assert any(message in event["message"] for event in ahead.events("warn"))


def test_a_run_ends_clearly_when_its_engine_dies_too_often(ahead):
    assert ahead.code_of_second_loss == 1
    assert "rollout.max_restarts=1" in ahead.told_of_second_loss
    assert "whole log: " in ahead.told_of_second_loss
    assert "Traceback" not in ahead.told_of_second_loss.split("error: ")[0]


def test_a_stop_does_not_wait_for_a_batch_that_is_sampled_ahead(ahead):
    assert ahead.code_of_stop == 143
    assert [e["state"] for e in ahead.events("stop")] == ["asked", "saved"]
    newest, problems = checkpoints.newest_good(ahead.checkpoints)
    assert newest.name == checkpoints.step_dir(max(e["step"] for e in ahead.events("step")))
    assert problems == []


# A rank killed in a save, the launcher killed, a checkpoint damaged.


@pytest.fixture(scope="module")
def killed(folder):
    run = Run(folder, "killed").start()
    run.wait(lambda: checkpoints.partial_dir(run.checkpoints, 2).exists())
    (rank,) = run.pids("train.worker")
    os.kill(rank, signal.SIGKILL)
    started = time.monotonic()
    run.code_of_killed_rank = run.end()
    run.end_s = time.monotonic() - started
    run.told_of_killed_rank = run.stderr
    assert_nothing_left(run, 0)
    run.after_rank = checkpoints.newest_good(run.checkpoints)

    run.start()
    run.wait_for_step(3, attempt=2)
    run.launcher.kill()
    run.launcher.communicate()
    assert_nothing_left(run)
    run.left_in_memory = in_memory(run)
    run.state_of_killed = json.loads((run.path / "status.json").read_text())["state"]

    newest = max(checkpoints.steps(run.checkpoints))
    run.damaged = checkpoints.step_dir(newest)
    shard = next((run.checkpoints / run.damaged / "state").glob("**/*optim_states.pt"))
    shard.write_bytes(shard.read_bytes()[:-100])
    (run.checkpoints / "latest.json").write_text("")
    dead = in_memory(run)
    run.finish()
    run.swept = not [name for name in dead if (shared_memory.ROOT / name).exists()]
    return run


def test_a_killed_rank_ends_the_run_within_seconds_and_is_named(killed):
    assert killed.code_of_killed_rank == 1
    assert "trainer rank 0 ended with code -9" in killed.told_of_killed_rank
    assert killed.end_s < 5


def test_a_kill_in_a_save_leaves_only_good_checkpoints(killed):
    path, problems = killed.after_rank
    assert path.name in ("step_000001", "step_000002")
    assert problems == []


def test_what_a_killed_launcher_left_in_memory_is_swept_at_the_next_start(killed):
    assert killed.left_in_memory
    assert killed.swept
    assert killed.state_of_killed == "running"


def test_a_damaged_checkpoint_is_told_of_and_the_one_before_is_used(killed):
    told = [e["message"] for e in killed.events("warn") if e["attempt"] == 3]
    assert any("damaged checkpoint" in message and killed.damaged in message for message in told)
    assert "damaged checkpoint" in killed.stderr


def test_a_run_killed_again_and_again_ends_like_the_quiet_one(killed, quiet):
    assert_same_end(killed, quiet)


def test_inspect_shows_every_step_once(killed):
    repeated = [step for step, _ in killed.losses()]
    assert len(repeated) > len(set(repeated)) == STEPS
    command = [sys.executable, "-m", "distillctl", "inspect", "run", killed.name, "--json"]
    shown = subprocess.run(command, cwd=killed.folder, capture_output=True, text=True, check=True).stdout
    assert (json.loads(shown)["step"], json.loads(shown)["attempt"]) == (STEPS, 3)


# Two ranks, and then one.


def test_two_ranks_lose_one_in_a_save_and_one_goes_on(folder, quiet):
    run = Run(folder, "elastic", "train.world_size=2").start()
    run.wait(lambda: checkpoints.partial_dir(run.checkpoints, 2).exists())
    second = [
        pid for pid in run.pids("train.worker") if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    os.kill(second[0], signal.SIGKILL)
    assert run.end() == 1
    assert "trainer rank 1 ended with code -9" in run.stderr
    path, problems = checkpoints.newest_good(run.checkpoints)
    assert problems == []
    run.overrides = ("train.world_size=1",)
    assert run.start().end() == 2
    assert "train.world_size: 2 -> 1" in run.stderr
    run.finish("--elastic")
    assert {(e["attempt"], e["world_size"]) for e in run.events("start")} == {(1, 2), (2, 1)}
    assert [e["step"] for e in run.events("start") if e["attempt"] == 2] == [int(path.name[-6:])]
    for name, expected in quiet.weights().items():
        torch.testing.assert_close(run.weights()[name], expected, rtol=0, atol=1e-4, msg=name)


# Signals.


@pytest.fixture(scope="module")
def signalled(folder, terminal):
    """Stopped under timeout(1), by two Ctrl-C in a terminal, and by a grace that runs out; then finished."""
    # The quiet run looks at the tokens of more steps, which must not change what is learnt.
    run = Run(folder, "signalled", "checkpoint.grace_s=8", "samples.every=1000")
    run.start(prefix=["timeout", "3600"])
    run.wait_for_step(1, attempt=1)
    everyone = [*run.pids("rollout.worker"), *run.pids("train.worker")]
    run.launcher.terminate()  # timeout(1) hands it on: to the launcher and again to the whole group
    for pid in everyone:  # and as Slurm does, to every process of the job
        os.kill(pid, signal.SIGTERM)
    run.code_under_timeout = run.end()
    run.saved_under_timeout = checkpoints.newest_good(run.checkpoints)[0]

    run.terminal = terminal(100, 30)
    run.launcher = run.terminal.start(run.command(), cwd=folder, stdout=subprocess.DEVNULL)
    run.wait_for_step(0, attempt=2)
    (rank,) = run.pids("train.worker")
    os.kill(rank, signal.SIGSTOP)  # or it ends before all this, and one Ctrl-C would do
    second = subprocess.run(run.command(), cwd=folder, capture_output=True, text=True, check=False)
    run.second_launcher = (second.returncode, second.stderr, run.launcher.pid)
    run.terminal.type(b"\x03")
    run.terminal.wait_for("stopping, with a checkpoint; again: quit at once")
    time.sleep(1.5)
    assert run.launcher.poll() is None
    run.terminal.type(b"\x03")
    started = time.monotonic()
    run.code_of_ctrl_c = run.launcher.wait(timeout=20)
    run.ctrl_c_s = time.monotonic() - started
    run.terminal.close()
    assert_nothing_left(run, 0)

    run.start()
    run.wait_for_step(0, attempt=3)
    os.kill(run.pids("train.worker")[0], signal.SIGSTOP)
    run.launcher.send_signal(signal.SIGHUP)
    started = time.monotonic()
    run.code_of_grace = run.end()
    run.grace_s = time.monotonic() - started
    run.told_of_grace = run.stderr
    run.finish()
    return run


def test_a_stop_under_timeout_checkpoints_and_exits_143(signalled):
    assert signalled.code_under_timeout == 143
    assert signalled.saved_under_timeout is not None
    # In either order: the rank got the signal itself and may save before the launcher looks again.
    assert {(e["signal"], e["state"]) for e in signalled.events("stop") if e["attempt"] == 1} == {
        (signal.SIGTERM, "asked"),
        (signal.SIGTERM, "saved"),
    }
    assert [e["message"] for e in signalled.events("warn")] == []  # no engine was lost


def test_a_second_launcher_exits_2_and_names_the_first(signalled):
    code, told, pid = signalled.second_launcher
    assert code == 2
    assert f"in use by process {pid}" in told


def test_a_second_ctrl_c_in_a_terminal_ends_the_run_at_once(signalled):
    assert signalled.code_of_ctrl_c == 130
    assert signalled.ctrl_c_s < 5
    assert any("by a second signal" in line for line in signalled.terminal.lines)
    assert not signalled.terminal.cursor_is_hidden


def test_a_stop_that_takes_longer_than_the_grace_is_cut_short(signalled):
    assert signalled.code_of_grace == 129
    assert 8 <= signalled.grace_s < 14
    assert "checkpoint.grace_s=8" in signalled.told_of_grace


def test_a_run_that_was_signalled_ends_like_the_quiet_one(signalled, quiet):
    assert_same_end(signalled, quiet)


# Guards.


def test_a_guard_warns_then_stops_and_keeps_the_last_good_checkpoint(folder):
    run = Run(folder, "guarded", "guards.min_entropy=20", "guards.patience=2").start()
    assert run.end() == 1
    assert "entropy has collapsed" in run.stderr
    assert "guards.min_entropy=20" in run.stderr
    assert [e["step"] for e in run.events("warn") if e.get("guard") == "min_entropy"] == [1]
    assert max(e["step"] for e in run.events("step")) == 2
    assert checkpoints.steps(run.checkpoints) == []
