"""Scalars as TensorBoard event files."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType


class TensorBoardWriter:
    """Writes to a directory until `finish` or the end of its context. Needs the extra `tensorboard`."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        # The library names a file by the second and the host. Another file may have the same name.
        self._writer = SummaryWriter(str(folder), filename_suffix=f".{secrets.token_hex(8)}")

    def add(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Write the metrics of one step, without those that are None."""
        for name, value in metrics.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """`add` the metrics, then flush everything to the file."""
        self.add(step, metrics)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()

    def __enter__(self) -> TensorBoardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()
