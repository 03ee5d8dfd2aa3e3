"""Checks of the folder in `--source`, for all data sets of `prep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillctl.errors import ConfigError


def require_folder(source: Path) -> None:
    """Raise ConfigError unless `--source` is a folder."""
    if not source.is_dir():
        what = "is not a directory" if source.exists() else "does not exist"
        raise ConfigError(f"{source}: {what}", "give --source the file or directory with your data")


def require_one(source: Path, split: str, paths: Sequence[Path]) -> None:
    """Raise ConfigError when several files in `source` claim to be the whole of one split."""
    if len(paths) > 1:
        names = ", ".join(str(path.relative_to(source)) for path in paths)
        raise ConfigError(f"{source}: has several files of {split}: {names}", "keep one of them there")
