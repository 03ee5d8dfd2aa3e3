"""The prompts of an evaluation: files from the command line, or those of the run with the run's limits."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from distillctl.config.loading import load_config
from distillctl.config.schema import Config
from distillctl.data.read import SUFFIXES, PromptRow, read_rows
from distillctl.data_types import Prompt
from distillctl.errors import ConfigError
from distillctl.files.atomic import read_object
from distillctl.files.reading import identity
from distillctl.rollout.client import request_names
from distillctl.run.directory import RunDir
from distillctl.terminal.progress import note

HELD_BACK = "test"
"""Name, without suffix, of the file that is read if a folder written by `prep` is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalData:
    """The rows of all files together, and the limits of the run."""

    files: list[str]
    """The files as the user wrote them."""
    source: str
    """What names the files: `--data`, or a key of the run's configuration."""
    paths: list[Path]
    """The files that are read."""
    rows: list[PromptRow]
    file_of_row: list[str]
    prompt_ids: list[str]
    """A unique id for each row."""
    max_prompt_length: int | None = None
    """Limit in tokens: the run's own evaluations leave out longer prompts. None means no limit."""
    max_response_length: int | None = None
    """The run's limit in tokens; None if the checkpoint belongs to no run."""


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    path: Path


def eval_data(run: Path | None, given: Sequence[str], limit: int | None, *, limits: bool = True) -> EvalData:
    """Read the files `given`, or else all of the run's `data.val_files` with the limits of its evaluations.

    `limit`: number of rows to read, counted over all files together. `limits`: whether to apply the run's
    limit on responses. Raises ConfigError if a file is missing or holds no prompts, and if no file is named.
    """
    config = load_config(RunDir(run).config_path) if run is not None and (limits or not given) else None
    response = config.data.max_response_length if config else None
    if given:
        files = [file for text in given for file in _named(text)]
        return _read(_each_once(files), "--data", limit, None, response)
    if run is None or config is None or not config.data.val_files:
        raise ConfigError(
            "--data is needed: the checkpoint does not belong to a run with data.val_files",
            "e.g. --data data/gsm8k/test.parquet",
        )
    files = _files_of_run(run, config)
    source = f"data.val_files of {run}"
    return _read(files, source, limit or config.eval.limit, config.data.max_prompt_length, response)


def _read(
    files: Sequence[_File], source: str, limit: int | None, prompt: int | None, response: int | None
) -> EvalData:
    pairs = [(file.name, row) for file in files for row in read_rows(file.path)][:limit]
    ids = [Prompt(f"{row.split}/{row.index}", [], "", None) for _, row in pairs]
    return EvalData(
        files=[file.name for file in files],
        source=source,
        paths=[file.path for file in files],
        rows=[row for _, row in pairs],
        file_of_row=[name for name, _ in pairs],
        prompt_ids=request_names(ids),
        max_prompt_length=prompt,
        max_response_length=response,
    )


def _named(given: str) -> list[_File]:
    """The files of one `--data`: a file, the held-back split of a folder, or every match of a pattern."""
    path = os.path.expanduser(given)
    if os.path.lexists(path) or not glob.has_magic(given):
        return [_File(given, _held_back(Path(path)))]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise ConfigError(f"--data: no file matches {given}", "check the pattern, or name the files")
    return [_File(name, _held_back(Path(name))) for name in found]


def _held_back(path: Path) -> Path:
    """The file itself, or the held-back split if `path` is a folder."""
    if not os.path.isdir(path):
        return path
    for suffix in (".parquet", ".jsonl", ".json"):
        if os.path.isfile(path / f"{HELD_BACK}{suffix}"):
            return path / f"{HELD_BACK}{suffix}"
    there = sorted(file.name for file in path.glob("*") if file.suffix in SUFFIXES)
    raise ConfigError(
        f"{path} has no held-back split, {HELD_BACK}.parquet",
        f"name a file in it: {', '.join(there[:5]) or 'it has none'}",
    )


def _each_once(files: Sequence[_File]) -> list[_File]:
    """`files` without repetitions, even under another name, because their prompts would count twice."""
    kept: dict[object, _File] = {}
    for file in files:
        first = kept.setdefault(identity(file.path), file)
        if first is not file:
            twice = "given twice" if file.name == first.name else f"the same file as {first.name}"
            note(f"{file.name} is {twice}: its prompts count once")
    return list(kept.values())


def _files_of_run(run: Path, config: Config) -> list[_File]:
    """The run's validation files. A file that the run names twice counts twice, as it did in the run.

    A relative path is looked up in the current folder and then in the folders above the run. If several files
    are found, the one whose hash the run recorded is used.
    """
    noted = read_object(RunDir(run).provenance_path).get("data_sha256")
    hashes = noted if isinstance(noted, dict) else {}
    files = [_File(name, _find(run, name, hashes.get(name))) for name in config.data.val_files]
    if len({identity(file.path) for file in files}) < len(files):
        note(f"data.val_files of {run} names a file twice: its prompts count twice, as they did in the run")
    return files


def _find(run: Path, name: str, noted: object) -> Path:
    places = dict.fromkeys([Path.cwd(), *run.resolve().parents])
    found = [path for path in dict.fromkeys(place / name for place in places) if os.path.exists(path)]
    if not found:
        where = "" if Path(name).is_absolute() else f", neither in {Path.cwd()} nor in a folder above the run"
        raise ConfigError(
            f"data.val_files of {run}: {name}: no such file{where}",
            "start it in the folder the run was started in, or name the data: --data FILE",
        )
    files = [_held_back(path) for path in found]
    if noted is None:
        return files[0]
    same = [file for file in files if os.path.isfile(file) and _sha256(file) == noted]
    if not same:
        note(f"{files[0]} has changed since the run read it: the run's accuracies are on other prompts")
    return (same or files)[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
