"""The screen on a real terminal (a pseudo-terminal behind an emulator), and its absence everywhere else."""

import io
import json
import signal
import subprocess
import sys
import time

import pytest

from distillctl.monitor.follow import Follower
from distillctl.monitor.plain import PlainDisplay
from distillctl.run.directory import RunDir
from distillctl.run.events import EventLog
from distillctl.terminal.stream import is_screen

METRICS = {
    "kl/reverse": 0.5,
    "actor/entropy": 0.25,
    "perf/rollout_tokens_per_s": 1234.0,
    "timing_s/step": 2.0,
}


@pytest.fixture
def run(tmp_path):
    """A run that a launcher, this process, holds: it has done two steps of ten."""
    run = RunDir(tmp_path / "run")
    with run.lock():
        run.log = EventLog(run.events_path, 1)
        run.log.emit("start", step=0, run="tiny/0001", steps=10)
        for step in (1, 2):
            run.log.emit("step", step=step, metrics=METRICS)
        yield run
        run.log.close()


def follow(run):
    return [sys.executable, "-m", "distillctl", "inspect", "run", str(run.path), "--follow"]


@pytest.fixture
def watched(run, terminal):
    """`inspect run --follow` on a terminal, killed at the end if it still runs."""
    screen = terminal(80, 24)
    process = screen.start(follow(run), stdout=subprocess.DEVNULL)
    screen.wait_for("step 2/10")
    yield run, screen, process
    if process.poll() is None:
        process.kill()
    process.wait()
    screen.close()


def test_the_screen_follows_the_run_and_the_size_of_the_terminal(watched):
    run, screen, _ = watched
    assert any(line.startswith("kl/reverse") for line in screen.lines)
    assert any("Ctrl-C: leave this view" in line for line in screen.lines)
    run.log.emit("step", step=3, metrics={**METRICS, "kl/reverse": 0.125})
    screen.wait_for("step 3/10")
    screen.wait_for("0.1250")
    screen.resize(44, 24)
    run.log.emit("warn", step=3, message="x" * 100)
    screen.wait_for("step 3: xxx")
    run.log.emit("step", step=4, metrics=METRICS)
    screen.wait_for("step 4/10")
    last = max(i for i, line in enumerate(screen.lines) if line.startswith("tiny/0001"))
    assert not any(line.startswith("metric") for line in screen.lines[last:])  # too narrow for a header


def test_ctrl_c_leaves_the_last_frame_and_the_cursor(watched):
    _, screen, process = watched
    assert screen.cursor_is_hidden
    screen.type(b"\x03")
    assert process.wait(timeout=20) == 0
    screen.wait_for("step 2/10")
    assert not screen.cursor_is_hidden


def test_a_follower_that_is_terminated_is_not_in_the_runs_way(watched):
    run, _, process = watched
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM
    assert run.is_locked()


@pytest.mark.parametrize("loud", [False, True])
def test_no_escape_byte_reaches_a_pipe(run, loud):
    run.log.emit("end", step=2, state="done", exit_code=0, seconds=1.0)
    (run.path / ".lock").unlink()
    colour = {"FORCE_COLOR": "1", "GITHUB_ACTIONS": "1", "TTY_COMPATIBLE": "1", "CLICOLOR_FORCE": "1"}
    done = subprocess.run(
        [*follow(run), "--json"], capture_output=True, check=True, timeout=60,
        env={"PATH": "", "TERM": "xterm-256color"} | (colour if loud else {}),
    )  # fmt: skip
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"step=2/10 kl=0.5000" in done.stderr
    assert json.loads(done.stdout)["step"] == 2


class Tty(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("term", "ci", "expected"),
    [
        ("xterm", "", True),
        ("dumb", "", False),
        ("", "", False),
        ("unknown", "", False),
        ("xterm", "1", False),
    ],
)
def test_where_there_is_a_screen(monkeypatch, term, ci, expected):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert is_screen(Tty()) == expected
    assert not is_screen(io.StringIO())


class Broken:
    """A display with a fault."""

    recall = tick = close = lambda self, *event: None

    def apply(self, event):
        raise ZeroDivisionError


def test_a_fault_in_a_display_ends_neither_the_run_nor_the_other_displays(tmp_path, capsys):
    log, out = EventLog(tmp_path / "events.jsonl", 1), io.StringIO()
    with Follower(tmp_path / "events.jsonl", [Broken(), PlainDisplay(out)]):
        log.emit("warn", step=0, message="first")
        time.sleep(0.5)
        log.emit("warn", step=0, message="second")
    log.close()
    told = capsys.readouterr().err
    assert told.count("Broken failed") == 1
    assert "Broken failed; the run continues" in told
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == ["first", "second"]


def test_what_was_written_before_the_end_is_shown_and_the_past_is_not(tmp_path):
    log, out = EventLog(tmp_path / "events.jsonl", 1), io.StringIO()
    log.emit("warn", step=0, message="of the attempt before")
    with Follower(tmp_path / "events.jsonl", [PlainDisplay(out)]):
        log.emit("warn", step=1, message="now")
    log.close()
    (line,) = out.getvalue().splitlines()
    assert line.endswith("warning step=1 now")
