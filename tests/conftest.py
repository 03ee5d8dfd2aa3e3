"""Fixtures of the command line's tests, and of those that look at an engine's processes or at a terminal.

Tests without the mark `engine` or `slow` start no engine and no trainer: such a start fails here.
"""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyte
import pytest

from distillctl.cli import app
from distillctl.launch import train_command

PYTHON = sys.executable
ENGINE_VARIABLES = {"VLLM_PLUGINS", "DS_ACCELERATOR"}
"""distillctl sets the first for vLLM's engines and servers, the second for the ranks of a trainer."""
running: list[pytest.Item] = []
"""The test that runs, if any."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    running.append(item)
    try:
        return (yield)
    finally:
        running.pop()


def starts_engine(command: object, environment: Mapping[str, str] | None) -> bool:
    """Whether a command starts an engine, a server or a trainer itself, or a run that would."""
    words = [os.fspath(word) for word in command] if isinstance(command, list | tuple) else [str(command)]
    if PYTHON not in words:  # a program that a test put in Python's place
        return False
    if "distillctl.train.custom_loss" in words:  # a rank's environment without an engine or a trainer
        return False
    runs = "distillctl" in words and "--dry-run" not in words and {"--run-dir", "--checkpoint"} & set(words)
    return bool(runs or ENGINE_VARIABLES & set(environment or {}))


def _require_mark(event: str, arguments: tuple[object, ...]) -> None:
    if event != "subprocess.Popen" or not running:
        return
    _, command, _, environment = arguments
    marks = {mark.name for mark in running[-1].iter_markers()}
    if not marks & {"engine", "slow"} and starts_engine(command, environment):
        raise RuntimeError(f"{running[-1].nodeid} starts an engine: mark it `engine`")


sys.addaudithook(_require_mark)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Answers of evaluations are kept in a directory of the tests, in child processes too; the caches of the
    engines stay where they are, which saves seconds at each start."""
    before = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with pytest.MonkeyPatch.context() as patch:
        for name, folder in (("VLLM_CACHE_ROOT", "vllm"), ("HF_HOME", "huggingface")):
            patch.setenv(name, os.environ.get(name) or str(before / folder))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["XDG_CACHE_HOME"])


@pytest.fixture
def distillctl(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process, through the script's entry point: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["distillctl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app.main()
        streams = capsys.readouterr()
        return int(ended.value.code or 0), streams.out, streams.err

    return run


class ProcessGroup:
    """The processes that an engine or server started, which are one process group."""

    def __init__(self, leader: int) -> None:
        found = subprocess.run(["pgrep", "-g", str(leader)], capture_output=True, text=True, check=False)
        self.pids = found.stdout.split()

    def addresses(self) -> list[str]:
        """Addresses, as /proc/net/tcp has them, of all listening TCP sockets (Linux: state 0A)."""
        inodes = set()
        for pid in self.pids:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(link) if link.is_symlink() else ""
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        lines = [
            line.split()
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        ]
        return [f[1].split(":")[0] for f in lines if f[3] == "0A" and f[9] in inodes]

    def wait_until_dead(self, timeout_s: float) -> None:
        """Fails when one is alive after that."""
        deadline = time.monotonic() + timeout_s
        while any(_alive(pid) for pid in self.pids):
            assert time.monotonic() < deadline, "processes outlived their parent"
            time.sleep(0.05)


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def process_group() -> type[ProcessGroup]:
    return ProcessGroup


@pytest.fixture(scope="session")
def loopback() -> set[str]:
    return LOOPBACK


TERMINAL_ENVIRONMENT = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONIOENCODING": "utf-8"}


class Terminal:
    """A pseudo-terminal, read all the time by a terminal emulator."""

    def __init__(self, columns, rows):
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self.written = b""
        self._ours, self.descriptor = pty.openpty()
        self._lock = threading.Lock()
        self.resize(columns, rows)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def start(self, command, cwd=None, stdout=None):
        """Run `command` with this as its controlling terminal; its stdout may go elsewhere."""
        kept = {name: value for name, value in os.environ.items() if name not in ("CI", "COLUMNS", "LINES")}
        # As a terminal's shell would: these tests may run in the background, where SIGINT is ignored.
        process = subprocess.Popen(
            ["setsid", "--ctty", "env", "--default-signal=INT", *command], cwd=cwd,
            env=kept | TERMINAL_ENVIRONMENT, stdin=self.descriptor, stderr=self.descriptor,
            stdout=stdout or self.descriptor, text=True,
        )  # fmt: skip
        os.close(self.descriptor)
        return process

    def resize(self, columns, rows):
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        with self._lock:
            self.screen.resize(rows, columns)

    def type(self, text):
        os.write(self._ours, text)

    @property
    def lines(self):
        """What is on the screen now."""
        with self._lock:
            return [line.rstrip() for line in self.screen.display]

    def wait_for(self, text, timeout_s=60):
        """Until `text` is on the screen."""
        deadline = time.monotonic() + timeout_s
        while not any(text in line for line in self.lines):
            assert time.monotonic() < deadline, f"{text!r} never came: {self.lines}"
            time.sleep(0.05)

    @property
    def cursor_is_hidden(self):
        return self.screen.cursor.hidden

    def close(self):
        """After the end of the process: everything it wrote has then been read."""
        self._reader.join(10)
        os.close(self._ours)

    def _read(self):
        stream = pyte.ByteStream(self.screen)
        while True:
            try:
                chunk = os.read(self._ours, 4096)
            except OSError:  # how Linux reports that the other end was closed
                return
            self.written += chunk
            with self._lock:
                stream.feed(chunk)


@pytest.fixture(scope="session")
def terminal():
    return Terminal


@pytest.fixture
def folder(tmp_path, monkeypatch, distillctl):
    """The current directory, with data of `prep arith`; a run that would start anything fails the test."""

    def start(*arguments, **options):
        pytest.fail("the run was started")

    monkeypatch.setattr(train_command.supervisor, "run", start)
    monkeypatch.chdir(tmp_path)
    assert distillctl("prep", "arith", "--limit", 8)[0] == 0
    return tmp_path


def _listing(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def refused(folder, distillctl):
    """Runs a command line that has to be refused without a trace in its folder: message and remedy."""

    def run(*arguments, code=2):
        before = _listing(folder)
        found, out, err = distillctl(*arguments)
        assert (found, out) == (code, "")
        assert _listing(folder) == before
        assert "Traceback" not in err
        assert err.startswith("error: ")
        assert err.count("error: ") == 1
        message, fix = err.removeprefix("error: ").rstrip("\n").split("\n  fix: ")
        assert fix.strip()
        return message, fix

    return run
