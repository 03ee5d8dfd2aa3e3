"""Checkpoints: `step_N/{hf/, state/, manifest.json}`, complete or not there at all.

`hf/` loads with plain transformers and vLLM; `state/` is DeepSpeed's, for resuming. Everything is written
into a temporary directory, hashed and synced, then renamed; the pointer `latest.json` moves after that, and
old checkpoints go last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import distillctl
from distillctl.errors import RunFailed
from distillctl.run import write_json
from distillctl.train.ranks import Ranks
from distillctl.train.student import Student
from distillctl.train.weights import gathered

FORMAT = 1
_TAG = "state"


def step_dir(step: int) -> str:
    """Directory name of a checkpoint."""
    return f"step_{step:06d}"


def save(folder: Path, step: int, student: Student, tokenizer: Any, ranks: Ranks, *, keep: int) -> Path:
    """Write the checkpoint of `step` under `folder` and drop all but the newest `keep`. Collective."""
    final, partial = folder / step_dir(step), folder / f".tmp-{step_dir(step)}"
    if ranks.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    ranks.barrier()
    student.engine.save_checkpoint(str(partial), tag=_TAG, client_state={"step": step}, save_latest=False)
    _export(partial / "hf", student, tokenizer, ranks)
    ranks.barrier()
    if ranks.is_main:
        _commit(partial, final, step, ranks.world_size)
        _rotate(folder, keep)
    ranks.barrier()
    return final


def load(path: Path, student: Student) -> int:
    """Restore weights, optimizer and schedule from a checkpoint directory; returns its step. Collective."""
    loaded, state = student.engine.load_checkpoint(str(path), tag=_TAG)
    if loaded is None:
        raise RunFailed(f"{path}/{_TAG} could not be loaded", "start anew with --resume never")
    return int(state["step"])


def _export(folder: Path, student: Student, tokenizer: Any, ranks: Ranks) -> None:
    state: dict[str, Any] = {}
    for tensors in gathered(student.model):
        if ranks.is_main:
            state.update({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    if ranks.is_main:
        student.model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)


def _commit(partial: Path, final: Path, step: int, world_size: int) -> None:
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT,
        "step": step,
        "world_size": world_size,
        "distillctl": distillctl.__version__,
        "files": {str(path.relative_to(partial)): _sync_and_hash(path) for path in files},
    }
    write_json(partial / "manifest.json", manifest)
    if final.exists():  # the same step of an earlier attempt
        shutil.rmtree(final)
    partial.rename(final)
    _sync(final.parent)
    write_json(final.parent / "latest.json", {"step": step, "path": final.name})
    _sync(final.parent)


def _rotate(folder: Path, keep: int) -> None:
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)


def _sync_and_hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size_bytes": path.stat().st_size}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
