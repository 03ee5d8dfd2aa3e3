"""Live sinks of a run's numbers (`train.logger`): what the displays show, for dashboards elsewhere.

They read events.jsonl as the displays do, so a tracker that fails or hangs cannot hold up the training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from distillctl.config.schema import Config
from distillctl.monitor.tensorboard import TensorBoardWriter
from distillctl.run.directory import RunDir

PROJECT = "distillctl"


class TensorBoardTracker:
    """Writes to RUN/tensorboard."""

    def __init__(self, folder: Path) -> None:
        self._writer = TensorBoardWriter(folder)

    def recall(self, event: dict[str, Any]) -> None:
        """The attempt before wrote it."""

    def apply(self, event: dict[str, Any]) -> None:
        """Write the numbers of a step or an evaluation."""
        if event["kind"] in ("step", "eval"):
            self._writer.add(event["step"], event["metrics"])
            self._writer.flush()

    def tick(self) -> None:
        """Nothing changes with time."""

    def close(self) -> None:
        """Close the file."""
        self._writer.__exit__(None, None, None)


class ServiceTracker:
    """wandb, or trackio, which has the same interface; both read their own environment variables.

    The run's name there is its label; a resumed run goes on under the same one.
    """

    def __init__(self, name: Literal["wandb", "trackio"], run_dir: RunDir, config: Config) -> None:
        self._name, self._run_dir, self._config = name, run_dir, config
        self._module: Any = None

    def _start(self) -> Any:
        """The service's module, with the run begun; trackio wants that in the thread that logs."""
        options: dict[str, Any] = {"project": PROJECT, "name": self._run_dir.label, "resume": "allow"}
        module: Any
        if self._name == "wandb":
            import wandb

            module = wandb

            # Its key of a run; trackio goes by the name.
            options |= {"id": self._run_dir.label.replace("/", "-"), "dir": str(self._run_dir.path)}
        else:
            import trackio

            module = trackio
        module.init(**options, config=self._config.model_dump(mode="json"))
        return module

    def recall(self, event: dict[str, Any]) -> None:
        """The attempt before sent it."""

    def apply(self, event: dict[str, Any]) -> None:
        """Send the numbers of a step or an evaluation."""
        if event["kind"] in ("step", "eval"):
            self._module = self._module or self._start()
            known = {name: value for name, value in event["metrics"].items() if value is not None}
            self._module.log(known, step=event["step"])

    def tick(self) -> None:
        """Nothing changes with time."""

    def close(self) -> None:
        """End the run there."""
        if self._module is not None:
            self._module.finish()


def trackers(config: Config, run_dir: RunDir) -> list[TensorBoardTracker | ServiceTracker]:
    """One for each name in `train.logger`."""
    return [
        TensorBoardTracker(run_dir.path / "tensorboard")
        if name == "tensorboard"
        else ServiceTracker(name, run_dir, config)
        for name in config.train.logger
    ]
