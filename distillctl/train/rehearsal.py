"""Try a save once before the first step, so that no run fails at its first checkpoint.

The trial writes the parts of `hf/` whose save can fail for reasons other than the disk, as a checkpoint
would: configuration, generation_config.json and tokenizer. It writes the tensors of a small model, and checks
the tensor names of any model. Then it reads the files back with transformers.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from distillctl.errors import ConfigError
from distillctl.models.loadable import listed, require_whole
from distillctl.models.tensor_faults import faults, load_on_meta, tensor_names
from distillctl.run import checkpoints
from distillctl.run.checks import Check
from distillctl.train.checkpoint import disk_trouble_explained, export, gathered_state
from distillctl.train.distributed import Distributed
from distillctl.train.student import Student

SMALL_BYTES = 64 << 20
"""Weights of at most this size are written, which takes a tenth of a second. For a larger model, only the
names of the tensors are checked."""
_REFUSALS = (
    ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, StrictDataclassError, TypeError,
    ValueError,
)  # fmt: skip
"""Errors of transformers and tokenizers for files that they cannot write or read back. An OSError with an
errno comes from the disk; one without an errno is about the content of a file."""


def rehearse_save(folder: Path, student: Student, tokenizer: Any, distributed: Distributed) -> list[Check]:
    """Save the student below `folder` as a checkpoint would, read it back and remove it. Collective.

    Returns its checks on rank 0. There it raises ConfigError for a model that cannot be saved or would not
    load again, and EnvironmentUnfit when the disk refuses.
    """
    sizes = (getattr(p, "ds_numel", p.numel()) * p.element_size() for p in student.model.parameters())
    is_small = sum(sizes) <= SMALL_BYTES
    state = gathered_state(student, distributed) if is_small else {}
    if not distributed.is_main:
        return []
    place = checkpoints.rehearsal_dir(folder)
    with disk_trouble_explained(folder, "a save that is tried before the first step"):
        place.mkdir(parents=True, exist_ok=True)
        trial = Path(tempfile.mkdtemp(prefix="hf-", dir=place))
        try:
            return _tried(trial, student, tokenizer, state, distributed)
        except _REFUSALS as error:
            if isinstance(error, ConfigError) or (isinstance(error, OSError) and error.errno is not None):
                raise
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"student.model: a checkpoint of {student.path} could not be saved or would not load again: "
                f"{type(error).__name__}: {reason}",
                "correct the file that the error is about: config.json, generation_config.json or tokenizer",
            ) from error
        finally:
            shutil.rmtree(trial, ignore_errors=True)
            with suppress(OSError):  # another program keeps files there
                place.rmdir()


def _tried(
    trial: Path, student: Student, tokenizer: Any, state: dict[str, torch.Tensor], distributed: Distributed
) -> list[Check]:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    _require_all_named(student)
    export(trial, student, tokenizer, state, distributed)
    AutoConfig.from_pretrained(trial, trust_remote_code=False)
    AutoTokenizer.from_pretrained(trial, trust_remote_code=False)
    if state:
        require_whole(faults(*load_on_meta(trial)), "the model as it would be saved")
    written = GenerationConfig.from_pretrained(trial)
    return [*_name_checks(trial, student, bool(state)), *_generation_checks(student.path, written)]


def _require_all_named(student: Student) -> None:
    """Raise ConfigError for a model with state outside its parameters: only parameters are saved."""
    model = student.model
    saved = {name for name, _ in model.named_parameters()}
    lost = sorted(set(model.state_dict()) - saved - set(model.all_tied_weights_keys))
    if lost:
        raise ConfigError(
            f"student.model: {student.path} keeps {listed(lost)} outside its parameters, which are neither "
            "pushed to the engine nor saved",
            "use a model of the Llama or Qwen families",
        )


def _name_checks(trial: Path, student: Student, written: bool) -> list[Check]:
    """Whether the exported tensors have the names that the model's own files have."""
    if written:
        names = tensor_names(trial)
    else:
        from transformers.core_model_loading import revert_weight_conversion

        shapes = {
            name: torch.empty(getattr(p, "ds_shape", p.shape), dtype=p.dtype, device="meta")
            for name, p in student.model.named_parameters()
        }
        names = set(revert_weight_conversion(student.model, shapes))
    ties = student.model.all_tied_weights_keys
    other = sorted(names - tensor_names(student.path) - set(ties) - set(ties.values()))
    if not other:
        return [
            Check("save", "ok", f"a checkpoint can be saved: {len(names)} tensors, with the model's names")
        ]
    detail = f"a checkpoint has {listed(other)} under names that the files of {student.path} do not have"
    return [Check("save", "warn", detail, "check that the program that will load it knows these names")]


def _generation_checks(source: Path, written: Any) -> list[Check]:
    """Warn about a generation_config.json that transformers loads but would refuse to save."""
    try:
        written.validate(strict=True)
    except ValueError as error:
        keys = re.findall(r"^- `(\w+)`", str(error), re.MULTILINE)
        what = ", ".join(f"{key}={getattr(written, key)}" for key in keys) or str(error).splitlines()[0]
        has_file = (source / "generation_config.json").is_file()
        where = "generation_config.json" if has_file else "config.json"
        detail = f"student's {where} has {what}, which transformers refuses to save: it is kept as it is"
        hint = f"for sampling, set do_sample=true in its {where}; otherwise remove the keys that it ignores"
        return [Check("generation_config", "warn", detail, hint)]
    return []
