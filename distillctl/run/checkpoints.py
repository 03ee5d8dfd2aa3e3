"""Checkpoints on disk: committing one, finding the one to resume from, removing old ones. No torch.

A checkpoint `step_N/{hf/, state/, manifest.json}` is either complete or absent. It is written as
`.tmp-step_N`, synced, hashed into a manifest and renamed; then `latest.json` points to it. The next start
removes what a crash left under another name. The hashes reveal damage that a bad disk does later.

When a checkpoint is removed, only the files that its manifest lists are deleted. Files that somebody else put
there stay, under `step_N`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import distillctl
from distillctl.errors import ConfigError
from distillctl.files import atomic
from distillctl.files.atomic import read_object, write_json
from distillctl.files.reading import is_regular, read_json
from distillctl.run import unfinished
from distillctl.run.unfinished import TMP, clear, free_beside

FORMAT = 1
"""Version of the manifest's format; manifests of another version are refused."""
MANIFEST = "manifest.json"
_STEP = re.compile(r"step_([0-9]{6,18})")
_OLD_TMP = re.compile(r"\.tmp-(?P<how>dropped|replaced)-(?P<home>step_[0-9]{6,18})")
"""Name of a checkpoint that is being removed."""
OWN_FOLDER = re.compile(f"{_STEP.pattern}|{unfinished.NAME.pattern}|{_OLD_TMP.pattern}")
"""Name of every folder that we make beside the pointers `latest.json` and `best.json`."""
_HINT = "it is damaged: choose or restore another checkpoint"

Sealed = dict[str, dict[str, Any]]
"""SHA-256 and size of each file, `{"sha256", "size_bytes"}`, by its path within the checkpoint."""


def step_of(name: str) -> int | None:
    """The step in a name such as `step_000400`; None for any other name."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None


def step_dir(step: int) -> str:
    """Directory name of a checkpoint."""
    return f"step_{step:06d}"


def partial_dir(folder: Path, step: int) -> Path:
    """Folder in which a checkpoint is written before it is committed."""
    return folder / f"{TMP}{step_dir(step)}"


def universal_dir(folder: Path) -> Path:
    """Folder in which a checkpoint is converted for another number of ranks."""
    return folder / f"{TMP}universal"


def rehearsal_dir(folder: Path) -> Path:
    """Folder in which saving is tested before the first step."""
    return folder / f"{TMP}rehearsal"


def seal(partial: Path, share: int = 0, num_shares: int = 1) -> Sealed:
    """Sync every `num_shares`-th file, starting with number `share`, to the disk and hash it."""
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    return {str(path.relative_to(partial)): _sync_and_hash(path) for path in files[share::num_shares]}


def commit(partial: Path, step: int, world_size: int, sealed: Sealed) -> Path:
    """Make a sealed directory the checkpoint of `step` and the latest one; returns its path.

    A kill at any point leaves the earlier checkpoint or this one. A checkpoint of the same step is replaced:
    it must be damaged, or the run would have resumed from it.
    """
    folder = partial.parent
    final = folder / step_dir(step)
    manifest = {
        "format": FORMAT,
        "step": step,
        "world_size": world_size,
        "distillctl": distillctl.__version__,
        "files": dict(sorted(sealed.items())),
    }
    write_json(partial / MANIFEST, manifest)
    for inside in [*(path for path in partial.rglob("*") if path.is_dir()), partial]:
        _sync(inside)
    replaced = folder / f"{TMP}replaced-{final.name}"
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    _sync(folder)
    write_json(folder / "latest.json", {"step": step, "path": final.name})
    _sync(folder)
    if replaced.exists():
        _finish_removal(replaced, final)
    return final


def rotate(folder: Path, step: int, keep: int, best: int | None = None) -> None:
    """Remove the checkpoints up to `step` except the newest `keep` of them and the one of step `best`.

    Later checkpoints, which this run does not use, stay; so do those whose manifest cannot be read.
    """
    known = [known for known in steps(folder) if known <= step]
    for old in set(known[:-keep]) - {best}:
        path = folder / step_dir(old)
        if _listed(path):
            dropped = folder / f"{TMP}dropped-{path.name}"
            path.rename(dropped)  # so that its own name never holds half a checkpoint
            _finish_removal(dropped, path)


def sweep(folder: Path) -> None:
    """Clean up what a crash in the middle of a save left behind. The caller must hold the run's lock."""
    atomic.sweep(folder)
    for path in folder.glob(f"{TMP}*"):
        if path.is_symlink() or not path.is_dir():
            continue
        if unfinished.NAME.fullmatch(path.name):
            clear(path)
        elif match := _OLD_TMP.fullmatch(path.name):
            home = folder / match["home"]
            if match["how"] == "replaced" and not os.path.lexists(home):
                path.rename(home)  # the crash came before its replacement
            else:
                _finish_removal(path, home)


def _finish_removal(old: Path, home: Path) -> None:
    """Delete the files of a checkpoint that was moved from `home` to `old`.

    Other files in it move back to `home`, or beside it if `home` is taken.
    """
    own = _listed(old)
    folders = {parent for name in own for parent in Path(name).parents} - {Path()}
    for inside, _, names in os.walk(old, topdown=False):
        for path in (Path(inside, name) for name in names):
            if str(path.relative_to(old)) in own and is_regular(path):
                path.unlink()
        if Path(inside).relative_to(old) in folders:
            with suppress(OSError):  # it is not empty
                os.rmdir(inside)
    if own and is_regular(old / MANIFEST):  # deleted last, so that `sweep` can finish after a crash
        (old / MANIFEST).unlink()
    with suppress(OSError):
        os.rmdir(old)
    if old.exists():
        old.rename(free_beside(home) if os.path.lexists(home) else home)


def _listed(path: Path) -> set[str]:
    """The files that a checkpoint's manifest lists; empty if the manifest cannot be read."""
    try:
        return set(read_manifest(path)["files"])
    except ConfigError:
        return set()


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, in ascending order."""
    found = (_STEP.fullmatch(path.name) for path in folder.glob("step_*") if _is_checkpoint(path))
    return sorted(int(match[1]) for match in found if match)


def _is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, not only what somebody else put into one that was removed later."""
    if not path.is_dir():
        return False
    names = {inside.name for inside in path.iterdir()}
    return not names or bool(names & {MANIFEST, "hf", "state"})


def latest(folder: Path) -> Path | None:
    """The checkpoint that `latest.json` names, or the newest if that pointer is lost; None without any.

    Its hashes are not verified: this is for readers, who should not have to wait for that.
    """
    name = read_object(folder / "latest.json").get("path")
    if isinstance(name, str) and _STEP.fullmatch(name) and (folder / name).is_dir():
        return folder / name
    known = steps(folder)
    return folder / step_dir(known[-1]) if known else None


def mark_best(folder: Path, step: int, acc: float) -> None:
    """Point `best.json` to the checkpoint of `step`, whose validation accuracy is `acc`."""
    write_json(folder / "best.json", {"step": step, "path": step_dir(step), "val/acc": acc})


def best(folder: Path) -> Path | None:
    """The checkpoint that `best.json` names; None if there is none."""
    name = read_object(folder / "best.json").get("path")
    known = isinstance(name, str) and _STEP.fullmatch(name) and (folder / name).is_dir()
    return folder / str(name) if known else None


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint, and what is wrong with each newer one. Verifies every hash."""
    problems: list[str] = []
    for step in reversed(steps(folder)):
        path = folder / step_dir(step)
        problem = find_damage(path)
        if not problem:
            return path, problems
        problems.append(f"{path}: {problem}")
    return None, problems


def find_damage(path: Path) -> str:
    """What makes a checkpoint unusable; an empty string if nothing does."""
    try:
        files = read_manifest(path)["files"]
        for name, entry in files.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["size_bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {entry['size_bytes']}"
            if _hash(file) != entry["sha256"]:
                return f"{name} has changed since it was written (SHA-256 differs)"
    except ConfigError as error:
        return error.message
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return ""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint at `path`; raises ConfigError if it is missing or cannot be used."""
    try:
        manifest = read_json(path / MANIFEST, hint=_HINT)
    except ConfigError as error:
        raise ConfigError(f"{MANIFEST} cannot be used ({error.message})", _HINT) from None
    if manifest.get("format") != FORMAT:
        raise ConfigError(
            f"{MANIFEST} has format {manifest.get('format')!r}, this version reads {FORMAT}", _HINT
        )
    files = manifest.get("files")
    world_size = manifest.get("world_size")
    if not isinstance(files, dict) or type(world_size) is not int or world_size < 1:
        raise ConfigError(f"{MANIFEST} cannot be used: files or world_size is missing or wrong", _HINT)
    for name, entry in files.items():
        known = isinstance(entry, dict) and type(entry.get("size_bytes")) is int
        if not known or not isinstance(entry.get("sha256"), str) or ".." in Path("/", name).parts[1:]:
            raise ConfigError(f"{MANIFEST} cannot be used: its entry for {name!r} is wrong", _HINT)
        if Path(name).is_absolute() or "\0" in name:
            raise ConfigError(f"{MANIFEST} cannot be used: {name!r} is not a file of the checkpoint", _HINT)
    return manifest


def merge(shares: Iterable[Sealed]) -> Sealed:
    """Join what `seal` returned for each share."""
    return {name: entry for share in shares for name, entry in share.items()}


def _sync_and_hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"sha256": _hash(path), "size_bytes": path.stat().st_size}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
