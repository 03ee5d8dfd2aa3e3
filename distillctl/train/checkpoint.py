"""Save and load the state of a run, all ranks together. `distillctl.run.checkpoints` manages the files.

transformers and vLLM load `hf/` as it is. `state/` is DeepSpeed's, for resuming.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Only an exception of pickle is imported: distillctl never pickles.
from pickle import UnpicklingError
from typing import Any

import torch

from distillctl.errors import DistillError, EnvironmentUnfit, RunFailed
from distillctl.host.isolation import NOWHERE, child_environment
from distillctl.models.dropout import saved_as_given
from distillctl.run import checkpoints, unfinished
from distillctl.train.distributed import Distributed
from distillctl.train.student import Student
from distillctl.train.weight_sync import gathered

_TAG = "state"
_UNIVERSAL = "universal"
_GENERATION = "generation_config.json"


@dataclass(frozen=True, slots=True)
class Best:
    """The evaluation with the highest accuracy so far. Among equal ones, the earliest counts."""

    step: int
    acc: float


def save(
    folder: Path,
    step: int,
    student: Student,
    tokenizer: Any,
    distributed: Distributed,
    state: dict[str, Any],
    *,
    keep: int,
    best: Best | None = None,
) -> Path:
    """Write the checkpoint of `step` under `folder`, and delete all but the newest `keep` and the `best`.

    Collective. `state` has the other values that a resumed run needs, in plain types. Raises EnvironmentUnfit
    when the disk refuses.
    """
    partial = checkpoints.partial_dir(folder, step)
    with disk_trouble_explained(folder, f"the checkpoint of step {step}"):
        if distributed.is_main:
            unfinished.make_way(partial)
            partial.mkdir(parents=True)
        distributed.barrier()
        client_state = {"step": step, "run": state}
        student.deepspeed.save_checkpoint(
            str(partial), tag=_TAG, client_state=client_state, save_latest=False
        )
        export(partial / "hf", student, tokenizer, gathered_state(student, distributed), distributed)
        distributed.barrier()
        shares = distributed.gather(checkpoints.seal(partial, distributed.rank, distributed.world_size))
        if distributed.is_main:
            checkpoints.commit(partial, step, distributed.world_size, checkpoints.merge(shares))
            if best is not None and best.step == step:
                checkpoints.mark_best(folder, step, best.acc)
            checkpoints.rotate(folder, step, keep, None if best is None else best.step)
    distributed.barrier()
    return folder / checkpoints.step_dir(step)


def load(path: Path, student: Student, distributed: Distributed) -> tuple[int, dict[str, Any]]:
    """Restore weights, optimizer and schedule from a checkpoint directory; returns its step and its `state`.

    Collective. A checkpoint of another number of ranks is converted first; `student` must then have been made
    with `universal`. The launcher has verified the files. Here torch's restricted unpickler reads them once,
    because DeepSpeed's loading would execute code that a file carries.
    """
    _scan(path / _TAG, distributed)
    folder = path
    tag = _TAG
    if student.universal:
        folder = checkpoints.universal_dir(path.parent)
        tag = _UNIVERSAL
        if distributed.is_main:
            unfinished.make_way(folder)
            _convert(path / _TAG, folder / tag)
        distributed.barrier()
    try:
        loaded, state = student.deepspeed.load_checkpoint(str(folder), tag=tag)
    except ValueError as error:  # torch's optimizer raises it for a state with other parameter groups
        raise RunFailed(
            f"{path} is from another optimizer: {error}",
            "the state of AdamW depends on whether optim.weight_decay is 0; start anew in another --run-dir",
        ) from error
    if loaded is None:
        raise RunFailed(f"{folder / tag} could not be loaded", "start anew with --resume never")
    distributed.barrier()
    if student.universal and distributed.is_main:
        unfinished.clear(folder)
    return int(state["step"]), dict(state["run"])


def kept_best(folder: Path, saved: list[Any] | None, distributed: Distributed) -> Best | None:
    """The best checkpoint (`[step, acc]`) that a loaded checkpoint has saved; None when it does not exist.

    This marks it again: the run may have been killed after it saved the checkpoint and before it marked it.
    """
    if saved is None or saved[0] not in checkpoints.steps(folder):
        return None
    best = Best(*saved)
    if distributed.is_main:
        checkpoints.mark_best(folder, best.step, best.acc)
    return best


@contextmanager
def disk_trouble_explained(folder: Path, what: str) -> Iterator[None]:
    """Turn an error of the disk while `what` is written to `folder` into an EnvironmentUnfit."""
    from safetensors import SafetensorError

    try:
        yield
    except DistillError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer raises RuntimeError
        free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
        raise EnvironmentUnfit(
            f"{what} could not be written to {folder}, which has "
            f"{free / 2**20:.0f} MiB free: {str(error).splitlines()[0]}",
            "make room or make it writable; the same command then resumes from the last good checkpoint",
        ) from error


def gathered_state(student: Student, distributed: Distributed) -> dict[str, torch.Tensor]:
    """The student's whole weights on rank 0, and an empty dictionary on other ranks. Collective."""
    state: dict[str, torch.Tensor] = {}
    for tensors in gathered(student.model):
        if distributed.is_main:
            state.update({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    return state


def export(
    folder: Path, student: Student, tokenizer: Any, state: dict[str, torch.Tensor], distributed: Distributed
) -> None:
    """Write `hf/`: weights, configuration, tokenizer and generation_config.json.

    generation_config.json is copied from the student's folder byte for byte, because transformers refuses to
    save some files that it loads with a warning.
    """
    if not distributed.is_main:
        return
    from transformers import GenerationConfig

    model = student.model
    given = student.path / _GENERATION
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        with saved_as_given(model):
            model.save_pretrained(folder, state_dict=state)
    finally:
        model.generation_config = own
    if given.is_file():
        shutil.copyfile(given, folder / _GENERATION)
    else:  # as transformers would save it, but without its checks
        own.to_json_file(folder / _GENERATION, use_diff=True, keys_to_pop=["compile_config"])
    tokenizer.save_pretrained(folder)


def _scan(state: Path, distributed: Distributed) -> None:
    """Raise RunFailed for a file that holds anything other than tensors and plain values."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum]):
        for file in sorted(state.glob("*.pt"))[distributed.rank :: distributed.world_size]:
            try:
                torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            except (UnpicklingError, RuntimeError, EOFError) as error:  # RuntimeError: not torch's zip format
                raise RunFailed(
                    f"{file} is refused: it holds more than tensors ({str(error).split('. ')[0]})",
                    "distillctl did not write it: move the checkpoint out of the run to resume from an "
                    "earlier one",
                ) from None


def _convert(state: Path, universal: Path) -> None:
    """Run DeepSpeed's converter to the form that any number of ranks can load."""
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(state.absolute()), "--output_folder", str(universal.absolute())]
    environment = child_environment(os.environ, NOWHERE)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=NOWHERE)
    if done.returncode:
        raise RunFailed(
            f"{state} could not be converted for another number of ranks: {done.stderr.splitlines()[-1:]}",
            "resume with the number of ranks that wrote it",
        )
