"""Live trackers (`train.logger`): they send a run's numbers to a dashboard such as TensorBoard.

Trackers read events.jsonl like the displays, so a tracker that fails or hangs cannot hold up the training. To
add one, write a function that starts it and list it in `TRACKERS`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distillctl.errors import EnvironmentUnfit
from distillctl.monitor.tensorboard import TensorBoardWriter
from distillctl.run.directory import RunDir

PROJECT = "distillctl"


class Sink(Protocol):
    """A tracker that has started."""

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        """Record the numbers of a step or an evaluation."""

    def finish(self) -> None:
        """End the tracking. No call follows."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """The run that a tracker records."""

    path: Path
    """The run directory."""
    label: str
    """The run's name in the tracker. A resumed run keeps its name."""
    config: Mapping[str, Any]
    """The run's configuration, in JSON's types."""


@dataclass(frozen=True, slots=True)
class Tracker:
    """An entry of `TRACKERS`."""

    package: str
    """The Python package that the tracker needs. The extra that installs it has the tracker's name."""
    start: Callable[[TrackedRun], Sink]
    """Starts the tracker. Called in the thread that logs, before the first numbers."""
    folder: str | None = None
    """The folder that the tracker writes in the run directory, if any."""
    files: tuple[str, ...] = ()
    """The files that the tracker writes in the run directory itself. Name all of them: `train` refuses a link
    in place of the folder or of such a file."""


def _tensorboard(run: TrackedRun) -> Sink:
    return TensorBoardWriter(run.path / "tensorboard")


def _wandb(run: TrackedRun) -> Sink:
    """Start wandb, which reads its own environment variables."""
    import wandb

    key = run.label.replace("/", "-")
    wandb.init(
        project=PROJECT, name=run.label, id=key, resume="allow", dir=str(run.path), config=dict(run.config)
    )
    sink: Sink = wandb
    return sink


def _trackio(run: TrackedRun) -> Sink:
    """Start trackio, which reads its own environment variables and identifies a run by its name."""
    import trackio

    trackio.init(project=PROJECT, name=run.label, resume="allow", config=dict(run.config))
    sink: Sink = trackio
    return sink


TRACKERS = {
    "tensorboard": Tracker("tensorboardX", _tensorboard, folder="tensorboard"),
    "wandb": Tracker("wandb", _wandb, folder="wandb"),
    "trackio": Tracker("trackio", _trackio),
}
"""The choices of `train.logger`."""


def require_tracker(name: str) -> None:
    """Raise EnvironmentUnfit with the pip command if the package of a tracker is not installed."""
    package = TRACKERS[name].package
    if importlib.util.find_spec(package) is None:
        message = f"{name}: the package {package} is not installed"
        raise EnvironmentUnfit(message, f"pip install 'distillctl[{name}]'")


class LiveTracker:
    """A tracker as a `follow.Display`."""

    def __init__(self, tracker: Tracker, run: TrackedRun) -> None:
        self._tracker = tracker
        self._run = run
        self._sink: Sink | None = None

    def recall(self, event: dict[str, Any]) -> None:
        """Do nothing: an earlier attempt sent this event."""

    def apply(self, event: dict[str, Any]) -> None:
        """Send the numbers of a step or an evaluation."""
        if event["kind"] in ("step", "eval"):
            self._sink = self._sink or self._tracker.start(self._run)
            known = {name: value for name, value in event["metrics"].items() if value is not None}
            self._sink.log(known, step=event["step"])

    def tick(self) -> None:
        """Do nothing: a tracker changes only with events."""

    def close(self) -> None:
        """End the tracking."""
        if self._sink is not None:
            self._sink.finish()


def trackers(names: Sequence[str], run_dir: RunDir, config: Mapping[str, Any]) -> list[LiveTracker]:
    """One tracker for each of `names`, the value of `train.logger`. `config` is in JSON's types."""
    run = TrackedRun(run_dir.path, run_dir.label, config)
    return [LiveTracker(TRACKERS[name], run) for name in names]
