"""What status.json says over the life of a run: written here alone, by the launcher and by the first rank."""

from __future__ import annotations

import os

from distillctl.run.directory import RunDir, read_status, write_status


def begin(run: RunDir, attempt: int) -> None:
    """The launcher, which is this process, begins an attempt."""
    status = {**read_status(run.status_path), "state": "running", "attempt": attempt, "pid": os.getpid()}
    write_status(run.status_path, status)


def advance(run: RunDir, *, step: int, num_steps: int, attempt: int, launcher_pid: int) -> None:
    """A rank has made `step` of `num_steps` steps."""
    fields = {"step": step, "steps": num_steps, "attempt": attempt, "pid": launcher_pid}
    write_status(run.status_path, {"state": "running", **fields})


def end(run: RunDir, state: str, exit_code: int) -> None:
    """The attempt has ended as `done`, `stopped` or `failed`."""
    status = read_status(run.status_path)
    write_status(run.status_path, {**status, "state": state, "exit_code": exit_code})
