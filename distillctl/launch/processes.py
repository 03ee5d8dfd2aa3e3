"""Start the processes of a run, each in its own session with its own log, and end them. Imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from distillctl.host.isolation import child_environment, without_launchers
from distillctl.launch.plan import Plan, file_name
from distillctl.rollout.start import engine_environment, start_engine
from distillctl.rollout.worker import EngineSettings
from distillctl.teacher.logins import logins_environment
from distillctl.teacher.server import start_server

LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 1 << 16


@dataclass(slots=True)
class Child:
    """A process of the run."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """The last lines of the process's log."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines)


def start_rollout_engine(plan: Plan, settings: EngineSettings, logs: Path) -> Child:
    """Start the rollout engine."""
    log = logs / "rollout.log"
    process = start_engine(settings, logs / "engine.json", log, plan.config.rollout.gpus)
    return Child("rollout engine", process, log)


def start_teacher(plan: Plan, name: str, socket: Path, logs: Path) -> Child:
    """Start the server of one of the plan's `served` teachers."""
    gpus = plan.config.all_teachers[name].gpus
    log = logs / f"teacher_{file_name(name)}.log"
    num_gpus = len(gpus or []) if plan.device == "cuda" else 0
    environment = engine_environment(num_gpus, gpus, socket.parent)
    process = start_server(plan.server_arguments(name, socket), environment, log)
    return Child(f"teacher server {name}", process, log)


def start_rank(plan: Plan, rank: int, job: Path, scratch: Path) -> Child:
    """Start a trainer rank in the private directory `scratch`. Its log is written beside the file `job`."""
    log = job.with_name(f"rank_{rank}.log")
    environment = {**without_launchers(os.environ), **plan.rank_environment(rank)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            plan.rank_command(str(job.absolute())),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment({**environment, **logins_environment(plan.config)}, scratch),
            cwd=scratch,
            start_new_session=True,
        )
    return Child(f"trainer rank {rank}", process, log)


def kill(children: Iterable[Child]) -> None:
    """SIGKILL every process of every child's session and wait for the children.

    The processes have nothing to tidy: a checkpoint is complete or absent, and `shared_memory.sweep` finds
    files in memory by name.
    """
    children = list(children)
    for child in children:
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, signal.SIGKILL)
    for child in children:
        child.process.wait()
