"""Whether a run can be resumed, from its directory, configuration and checkpoints. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distillctl.config.loading import load_config, to_yaml
from distillctl.config.schema import Config
from distillctl.errors import ConfigError
from distillctl.files.atomic import write_text
from distillctl.launch.ownership import holds_run
from distillctl.run import checkpoints
from distillctl.run.directory import RunDir, make_directory

_WORLD_SIZE = "train.world_size"


def open_run(config: Config, name: str, path: Path | None, resume: str, *, elastic: bool) -> RunDir:
    """The directory of a new run, or of a run to resume (see `--resume`).

    With `elastic`, a run may resume with another number of ranks. Raises what `require_resumable` raises.
    """
    if path is None:
        if resume == "must":
            raise ConfigError("--resume must needs --run-dir", "name the run to go on with")
        return RunDir.create(Path("runs") / name)
    run_dir = RunDir(path)
    require_resumable(run_dir, config, resume, elastic=elastic)
    make_directory(path)
    return run_dir


def require_resumable(run_dir: RunDir, config: Config, resume: str, *, elastic: bool) -> None:
    """Raise ConfigError unless a run may start or resume in this directory. Changes nothing.

    It is raised for a folder with other content, for one that `resume` does not allow, and for a
    configuration that differs from the run's. An unreadable folder raises EnvironmentUnfit.
    """
    if not holds_run(run_dir):
        if resume == "must":
            hint = "name the run to go on with, or leave --resume out to start one"
            raise ConfigError(f"{run_dir.path} holds no run to go on with", hint)
        if os.path.isfile(run_dir.config_path):  # left by a start that was killed; it is not overwritten
            _require_same(load_config(run_dir.config_path), config, run_dir.config_path, elastic=False)
        return
    if resume == "never":
        raise ConfigError(
            f"{run_dir.path} already holds a run",
            "--resume auto goes on with it; or choose another --run-dir",
        )
    _require_same(load_config(run_dir.config_path), config, run_dir.config_path, elastic=elastic)


def write_config(run_dir: RunDir, config: Config) -> None:
    """Save the configuration of a new run, or the new number of ranks of an old one."""
    if not run_dir.config_path.exists() or load_config(run_dir.config_path) != config:
        write_text(run_dir.config_path, to_yaml(config))


def choose_checkpoint(
    run_dir: RunDir, resume: str, world_size: int, *, elastic: bool
) -> tuple[Path | None, list[str]]:
    """The newest good checkpoint (None to start anew), and what is wrong with newer ones.

    Call this while holding the lock. Every byte is verified. Raises ConfigError when all checkpoints are
    damaged, when `resume` needs one and there is none, and when its number of ranks does not fit.
    """
    path, problems = checkpoints.newest_good(run_dir.checkpoints)
    if path is None and problems:
        raise ConfigError(
            f"every checkpoint of {run_dir.path} is damaged: {'; '.join(problems)}",
            "restore a copy of one, or start anew in another --run-dir",
        )
    if path is None:
        if resume == "must":
            raise ConfigError(
                f"{run_dir.path} has no checkpoint to resume from", "--resume auto starts it anew"
            )
        return None, []
    written_by = checkpoints.read_manifest(path)["world_size"]
    if written_by != world_size and not elastic:
        raise ConfigError(
            f"{path} was written by {written_by} rank(s), this run has {world_size}",
            f"add --elastic to convert it, or set {_WORLD_SIZE}={written_by}",
        )
    return path, problems


def _require_same(old: Config, new: Config, path: Path, *, elastic: bool) -> None:
    before = _flat(old)
    after = _flat(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if elastic:
        keys = [key for key in keys if key != _WORLD_SIZE]
    if keys:
        changed = [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]
        raise ConfigError(
            f"{path} differs from this configuration: {'; '.join(changed)}",
            "resume with the run's own: train --config RUN/config.yaml --run-dir RUN",
        )


def _flat(config: Config) -> dict[str, Any]:
    tree = config.model_dump(mode="json")
    return {f"{section}.{key}": v for section, keys in tree.items() for key, v in keys.items()}
