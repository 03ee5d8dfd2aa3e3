"""The directory of a run: its paths, its lock and its status.

Layout:

    runs/<preset>/0007/   config.yaml provenance.json events.jsonl status.json .lock logs/attempt_1/*.log
      checkpoints/step_000400/{hf/, state/, manifest.json}   checkpoints/latest.json
      samples/step_000400.parquet   eval/step_000400.json
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files import lock
from distillctl.files.atomic import read_object, write_json

_STEP_DIR = re.compile(r"step_([0-9]{6,18})")
_ATTEMPT = re.compile(r"attempt_([0-9]{1,9})")
STATES = ("running", "done", "failed", "stopped")
"""States of a run in status.json."""
STATUS = {"state": str, "step": int, "steps": int, "pid": int, "attempt": int, "exit_code": int}
"""Keys of status.json and the types of their values."""


class RunDir:
    """Paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.provenance_path = path / "provenance.json"
        self.events_path = path / "events.jsonl"
        self.status_path = path / "status.json"
        self.checkpoints = path / "checkpoints"
        self.samples_dir = path / "samples"
        self.eval_dir = path / "eval"

    @classmethod
    def create(cls, root: Path) -> RunDir:
        """Make `root/0001` or the next free number; two launchers never get the same number."""
        make_directory(root)
        try:
            taken = [int(p.name) for p in root.iterdir() if p.name.isascii() and p.name.isdigit()]
            number = max(taken, default=0) + 1
            while True:
                path = root / f"{number:04d}"
                try:
                    path.mkdir()
                    return cls(path)
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise _unusable(root, error) from None

    @property
    def attempt(self) -> int:
        """Number of the newest attempt; 0 before the first."""
        found = (_ATTEMPT.fullmatch(path.name) for path in self.path.glob("logs/attempt_*"))
        return max((int(match[1]) for match in found if match), default=0)

    def logs(self, attempt: int) -> Path:
        """Log folder of an attempt."""
        return self.path / "logs" / f"attempt_{attempt}"

    def begin_attempt(self) -> int:
        """Make the log folder of the next attempt and return the attempt's number."""
        attempt = self.attempt + 1
        self.logs(attempt).mkdir(parents=True)
        return attempt

    @property
    def label(self) -> str:
        """Short name for tables: `<preset>/<number>`, or the folder's own name."""
        return f"{self.path.resolve().parent.name}/{self.path.resolve().name}"

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run's lock for this process; raises ConfigError with the holder's pid if it is taken."""
        make_directory(self.path)
        return lock.hold(self.path / ".lock")

    def is_locked(self) -> bool:
        """Whether a launcher holds the run's lock now."""
        return lock.is_held(self.path / ".lock")


def make_directory(path: Path) -> None:
    """Make a directory of a run unless it exists.

    Raises ConfigError if a file is in the way, EnvironmentUnfit if the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        message = f"{path} cannot be a run directory: a file is in the way"
        raise ConfigError(message, "choose another --run-dir") from None
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> EnvironmentUnfit:
    return EnvironmentUnfit(f"{path} cannot be used: {error.strerror}", "choose another --run-dir")


def open_run(path: Path) -> RunDir:
    """The existing run directory at `path`; raises ConfigError if it is not one."""
    run = RunDir(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run", "distillctl inspect runs lists them")
    if not is_run(path):
        raise ConfigError(
            f"{path} is not a run directory: it has neither events.jsonl nor config.yaml",
            "distillctl inspect runs lists the runs below a folder",
        )
    return run


def is_run(path: Path) -> bool:
    run = RunDir(path)
    return run.events_path.is_file() or run.config_path.is_file()


def write_status(path: Path, status: Mapping[str, Any]) -> None:
    """Replace status.json.

    Its keys are `state` (running, done, failed or stopped), `step`, `steps`, `pid` of the launcher,
    `attempt` and, after the end, `exit_code`.
    """
    write_json(path, status)


def read_status(path: Path) -> dict[str, Any]:
    """The known keys of status.json whose values have the right type; empty if the file cannot be read."""
    found = read_object(path)
    known = {name: value for name, value in found.items() if type(value) is STATUS.get(name)}
    return {name: value for name, value in known.items() if not isinstance(value, int) or abs(value) < 2**63}
