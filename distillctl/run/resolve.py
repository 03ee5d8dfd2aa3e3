"""Finding the model that a `--checkpoint` or `--baseline` names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillctl.errors import ConfigError
from distillctl.run import checkpoints
from distillctl.run.directory import RunDir, is_run, read_status


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The model that a `--checkpoint` or `--baseline` names."""

    label: str
    """Short name for tables, such as `tiny/0007@400`."""
    model: str
    """A model directory, or a hub id or `builtin:NAME`, which `models.locate` finds."""
    run: Path | None
    """Directory of the run that it belongs to; None if it belongs to no run."""


def resolve_checkpoint(spec: str) -> Checkpoint:
    """Find the model of a run, `RUN@STEP`, `RUN@best`, a checkpoint or a model directory.

    A `spec` that is not on disk is returned as it is. Raises ConfigError if the run has no checkpoint of that
    step (the message lists those it has), and for a directory that holds no model.
    """
    path = Path(spec).expanduser()
    if not path.is_dir():
        owner, at, step = spec.rpartition("@")
        if at and is_run(Path(owner).expanduser()):
            return _at_step(RunDir(Path(owner).expanduser()), step)
        return Checkpoint(spec, spec, None)
    if is_run(path):
        latest = checkpoints.latest(RunDir(path).checkpoints)
        if latest is None:
            raise ConfigError(f"{path} has no checkpoint yet", f"its state is: {_state(RunDir(path))}")
        return _from_directory(latest)
    if (path / "hf").is_dir():
        return _from_directory(path)
    if (path / "config.json").is_file():
        inside = path.resolve()
        if inside.name == "hf" and checkpoints.step_of(inside.parent.name) is not None:
            return _from_directory(inside.parent)
        return Checkpoint(inside.name, str(path), None)
    raise ConfigError(
        f"{path} is neither a run, nor a checkpoint (hf/), nor a model (config.json)",
        "distillctl inspect runs lists the runs below a folder",
    )


def _at_step(run: RunDir, step: str) -> Checkpoint:
    if step == "best":
        best = checkpoints.best(run.checkpoints)
        if best is None:
            hint = "train with checkpoint.best=true and eval.every"
            raise ConfigError(f"{run.path} has no best checkpoint", hint)
        return _from_directory(best)
    steps = checkpoints.steps(run.checkpoints)
    if not (step.isascii() and step.isdigit() and int(step) in steps):
        there = ", ".join(map(str, steps)) or "none"
        raise ConfigError(f"{run.path} has no checkpoint of step {step}", f"steps there: {there}")
    return _from_directory(run.checkpoints / checkpoints.step_dir(int(step)))


def _from_directory(path: Path) -> Checkpoint:
    """The model of a checkpoint directory. The checkpoint belongs to a run unless it was copied out of it."""
    path = path.resolve()
    step = checkpoints.step_of(path.name)
    run = path.parent.parent
    if step is None or not is_run(run):
        return Checkpoint(path.name, str(path / "hf"), None)
    return Checkpoint(f"{RunDir(run).label}@{step}", str(path / "hf"), run)


def _state(run: RunDir) -> str:
    return str(read_status(run.status_path).get("state", "not started"))
