"""The folder that a data set of `prep` reads: refusals that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillctl.errors import ConfigError


def require_folder(source: Path) -> None:
    """Raise ConfigError when `--source` is no folder."""
    if not source.is_dir():
        what = "is not a directory" if source.exists() else "does not exist"
        raise ConfigError(f"{source}: {what}", "--source names where your data lies")


def require_one(source: Path, split: str, paths: Sequence[Path]) -> None:
    """Raise ConfigError for several files in `source` of which each is all of a split."""
    if len(paths) > 1:
        names = ", ".join(str(path.relative_to(source)) for path in paths)
        raise ConfigError(f"{source}: has several files of {split}: {names}", "leave one of them there")
