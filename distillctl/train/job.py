"""The job that the launcher gives every rank, with everything resolved. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

STARTING = "starting processes"
"""Name of the phase that the launcher begins and rank 0 ends."""


@dataclass(frozen=True, slots=True)
class TeacherJob:
    """The place of one teacher."""

    model: str
    """Local model directory. For a teacher behind a URL, it may have no weights."""
    dtype: str
    endpoints: list[str]
    """`http://HOST:PORT` or `unix:/PATH` of the servers that score; empty for a teacher in the ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """One attempt of a run, as written to `logs/attempt_N/job.json`."""

    run_dir: str
    working_directory: str
    """The directory in which the user ran the command. Relative paths of the configuration start there, and
    the files of `reward.path` and `loss.path` run there."""
    attempt: int
    student: str
    """Local model directory."""
    teachers: dict[str, TeacherJob]
    """The teachers by name; `default` is the configuration's `teacher`."""
    device: str
    """`cpu` or `cuda`."""
    world_size: int
    student_dtype: str
    socket: str
    """The unix socket of the rollout engine."""
    scratch: str
    """Private directory in memory, for weight buckets and the rendezvous file."""
    checkpoint: str | None
    """Checkpoint directory to resume from; None to start anew."""
    parent_pid: int
    gpus: dict[str, str]
    """The run's GPUs: from the number among the visible ones to the identifier; empty on a CPU."""
    universal: bool = False
    """Whether another number of ranks wrote `checkpoint`."""
    preflight_only: bool = False
    """Build the trainer with all checks, and end before the first step."""

    @property
    def run_name(self) -> str:
        """The run directory, relative to `working_directory` when it lies below it."""
        path = Path(self.run_dir)
        below = path.is_relative_to(self.working_directory)
        return str(path.relative_to(self.working_directory) if below else path)

    def save(self, path: Path) -> None:
        """Write the job to the file that a rank gets as its argument."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> TrainJob:
        """Read a job that `save` wrote."""
        tree = json.loads(path.read_text())
        teachers = {name: TeacherJob(**job) for name, job in tree.pop("teachers").items()}
        return cls(**tree, teachers=teachers)
