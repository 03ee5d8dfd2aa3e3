"""Progress of long tasks: a bar that goes away on a terminal, a sign of life in a pipe."""

import subprocess
import sys

import pytest

from distillctl.terminal import progress

COUNT = """
import time
from distillctl.terminal.progress import track
for n in track(range(8), "reading [bold]train", total=8):
    time.sleep(0.2)
"""


def test_a_terminal_gets_a_bar_that_goes_away(terminal):
    screen = terminal(80, 10)
    process = screen.start([sys.executable, "-c", COUNT])
    screen.wait_for("reading [bold]train")
    screen.wait_for("/8")
    assert process.wait(timeout=20) == 0
    screen.close()
    assert not any(screen.lines)
    assert not screen.cursor_is_hidden


def test_a_pipe_gets_nothing_from_a_short_task():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, check=True,
                          env={"FORCE_COLOR": "1", "TERM": "xterm"})  # fmt: skip
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by ten seconds at each look."""
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))


@pytest.mark.usefixtures("clock")
def test_a_pipe_gets_a_line_every_thirty_seconds(capsys):
    assert list(progress.track("abcdef", "reading", total=6)) == list("abcdef")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["reading 3/6", "reading 6/6"]


def test_an_error_in_the_task_is_not_swallowed():
    with pytest.raises(ZeroDivisionError), progress.task("dividing") as advance:
        advance(1 // 0)
