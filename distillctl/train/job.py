"""What the launcher tells a rank: everything already resolved, nothing left to guess. No torch here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

STARTING = "starting processes"
"""Name of the phase that the launcher begins and rank 0 ends."""


@dataclass(frozen=True, slots=True)
class TeacherJob:
    """Where one teacher is."""

    model: str
    """Local model directory; of a teacher behind a URL perhaps without weights."""
    dtype: str
    endpoints: list[str]
    """`http://HOST:PORT` or `unix:/PATH` of the servers that score; empty for a teacher in the ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """One attempt at a run, as written to `logs/attempt_N/job.json`."""

    run_dir: str
    working_directory: str
    """Where the command was typed: relative paths of the configuration are seen from there, and the files of
    `reward.path` and `loss.path` run there."""
    attempt: int
    student: str
    """Local model directory."""
    teachers: dict[str, TeacherJob]
    """By name; `default` is the configuration's `teacher`."""
    device: str
    """`cpu` or `cuda`."""
    world_size: int
    student_dtype: str
    socket: str
    """The rollout worker's unix socket."""
    scratch: str
    """Private directory in memory for weight buckets and rendezvous."""
    checkpoint: str | None
    """Checkpoint directory to resume from."""
    parent_pid: int
    gpus: dict[str, str]
    """The run's GPUs: number among the visible ones to identifier; empty on a CPU."""
    universal: bool = False
    """Whether another number of ranks wrote that checkpoint."""
    preflight_only: bool = False
    """Put everything together, measure what can be measured before the first step, and end."""

    @property
    def run_name(self) -> str:
        """The run directory as seen from where the command was typed."""
        path = Path(self.run_dir)
        below = path.is_relative_to(self.working_directory)
        return str(path.relative_to(self.working_directory) if below else path)

    def save(self, path: Path) -> None:
        """Write the file whose path is the rank's argument."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> TrainJob:
        """Read what `save` wrote."""
        tree = json.loads(path.read_text())
        teachers = {name: TeacherJob(**job) for name, job in tree.pop("teachers").items()}
        return cls(**tree, teachers=teachers)
