"""What an evaluation asks: the files of the command line, or those of the run with the run's own limits."""

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
"""Name of the file, without its suffix, that stands for a folder that `prep` wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalData:
    """The rows of all files together, and the limits that come with them."""

    files: list[str]
    """The files as they were given."""
    source: str
    """What names them: `--data`, or the run's key."""
    paths: list[Path]
    """Where they are."""
    rows: list[PromptRow]
    file_of_row: list[str]
    prompt_ids: list[str]
    """Of each row, each once."""
    max_prompt_length: int | None = None
    """Tokens; a longer prompt was left out by the run's own evaluations. None: no such limit."""
    max_response_length: int | None = None
    """The run's; None where the checkpoint belongs to no run."""


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    path: Path


def eval_data(run: Path | None, given: Sequence[str], limit: int | None, *, limits: bool = True) -> EvalData:
    """Read the files `given`, or else all of the run's `data.val_files` with the limits of its evaluations.

    `limit`: first rows only, of all files together. `limits`: False where the run's response limit is not
    wanted. Raises ConfigError for files that are not there or hold no prompts, and without any file.
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
    source, first = f"data.val_files of {run}", limit or config.eval.limit
    return _read(files, source, first, config.data.max_prompt_length, response)


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
    """The files that one `--data` means: a file, a folder's held-back split, or all that a pattern finds."""
    path = os.path.expanduser(given)
    if os.path.lexists(path) or not glob.has_magic(given):
        return [_File(given, _held_back(Path(path)))]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise ConfigError(f"--data: no file is named like {given}", "check the pattern, or name the files")
    return [_File(name, _held_back(Path(name))) for name in found]


def _held_back(path: Path) -> Path:
    """The file itself, or the held-back split in a folder."""
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
    """`files` without those that are there under another name already: their prompts would count twice."""
    kept: dict[object, _File] = {}
    for file in files:
        first = kept.setdefault(identity(file.path), file)
        if first is not file:
            twice = "given twice" if file.name == first.name else f"the same file as {first.name}"
            note(f"{file.name} is {twice}: its prompts count once")
    return list(kept.values())


def _files_of_run(run: Path, config: Config) -> list[_File]:
    """The run's validation files, as often as it counted them. Relative ones are looked for in the current
    folder and then in those above the run; where several are found, the one with the hash that the run noted
    is it."""
    noted = read_object(RunDir(run).provenance_path).get("data_sha256")
    hashes = noted if isinstance(noted, dict) else {}
    files = [_File(name, _find(run, name, hashes.get(name))) for name in config.data.val_files]
    if len({identity(file.path) for file in files}) < len(files):
        note(f"data.val_files of {run} names a file twice: its prompts count as often, as in the run")
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
        note(f"{files[0]} has changed since the run read it: its accuracies are of other prompts")
    return (same or files)[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
