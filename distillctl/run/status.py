"""Updating status.json over the life of a run: only these functions write it, in the launcher and rank 0."""

from __future__ import annotations

import os

from distillctl.run.directory import RunDir, read_status, write_status


def begin(run: RunDir, attempt: int) -> None:
    """Record that this process, the launcher, begins an attempt."""
    status = {**read_status(run.status_path), "state": "running", "attempt": attempt, "pid": os.getpid()}
    write_status(run.status_path, status)


def advance(run: RunDir, *, step: int, num_steps: int, attempt: int, launcher_pid: int) -> None:
    """Record that `step` of `num_steps` steps are done."""
    fields = {"step": step, "steps": num_steps, "attempt": attempt, "pid": launcher_pid}
    write_status(run.status_path, {"state": "running", **fields})


def end(run: RunDir, state: str, exit_code: int) -> None:
    """Record that the attempt ended with `state`: `done`, `stopped` or `failed`."""
    status = read_status(run.status_path)
    write_status(run.status_path, {**status, "state": state, "exit_code": exit_code})
