"""Scalars as TensorBoard event files."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from distillctl.errors import EnvironmentUnfit


class TensorBoardWriter:
    """Writes to a directory while the context is open."""

    def __init__(self, folder: Path) -> None:
        """Raises EnvironmentUnfit when the extra is not installed."""
        require_tracker("tensorboard")
        from tensorboardX import SummaryWriter

        # The library's own name is the second and the host, which another file may have.
        self._writer = SummaryWriter(str(folder), filename_suffix=f".{secrets.token_hex(8)}")

    def add(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """The metrics of one step; missing ones are left out."""
        for name, value in metrics.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Hand everything to the file."""
        self._writer.flush()

    def __enter__(self) -> TensorBoardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
"""Python package of each tracker, which has an extra of its own name."""


def require_tracker(name: str) -> None:
    """Raise EnvironmentUnfit with the pip line when the package of a tracker is missing."""
    if importlib.util.find_spec(_PACKAGES[name]) is None:
        message = f"{name}: the package {_PACKAGES[name]} is not installed"
        raise EnvironmentUnfit(message, f"pip install 'distillctl[{name}]'")
