"""The rows for a run's training and evaluations, read before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillctl.config.schema import Config
from distillctl.data.checks import require_each_once, require_routes
from distillctl.data.read import PromptRow, read_rows
from distillctl.errors import ConfigError
from distillctl.files.reading import require_utf8


@dataclass(frozen=True, slots=True)
class RunRows:
    """All rows of `data.train_files`, and the rows of `data.val_files` that evaluations use."""

    train: list[PromptRow]
    val: list[PromptRow]
    """Empty without evaluations."""


def read_run_rows(config: Config) -> RunRows:
    """Read the data files that the config names.

    Raises ConfigError when a file cannot be read, a validation file appears twice, no row chooses among
    several teachers, or the rows do not fill a batch.
    """
    data = config.data
    require_utf8(Path.cwd(), "the working directory")
    require_each_once(data.val_files)
    train = [row for file in data.train_files for row in read_rows(Path(file), data.teacher_key)]
    require_routes(config, train)
    val = [row for file in data.val_files if config.eval.every for row in read_rows(Path(file))]
    if data.train_batch_size > len(train):
        raise ConfigError(
            f"data.train_batch_size={data.train_batch_size}, but the data has {len(train)} prompts",
            f"lower it to data.train_batch_size={len(train)}, or prepare more data",
        )
    return RunRows(train, val[: config.eval.limit])
