"""Checks of the preflight on the loaded models, before the first step.

Each check scores a few training prompts. Their second halves stand in for responses.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from distillctl.config.schema import teacher_section
from distillctl.data_types import MicroBatch, Prompt, Rollout
from distillctl.errors import ConfigError, RunFailed
from distillctl.host.hardware import memory_bytes
from distillctl.models.model_dir import ModelDir
from distillctl.objective.inputs import Objective
from distillctl.objective.teacher_scores import TopK
from distillctl.run.checks import Check
from distillctl.teacher.interface import Teacher
from distillctl.teacher.local import LocalTeacher
from distillctl.teacher.quantization import quantization_kl
from distillctl.teacher.served import ServedTeacher
from distillctl.train.agreement import gap
from distillctl.train.batch import collate
from distillctl.train.student import Student
from distillctl.train.training_batch import ScoredBatch

NUM_PROMPTS = 4
LARGE_QUANTIZATION_KL = 0.1
"""Nats per token. A quantised teacher that costs this or more gets a warning: distillation of a good pair
ends at about this KL."""
MAX_SELF_KL = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Largest mean KL of a model from itself, in nats: the two passes may differ in rounding only."""
NEAR_UNIFORM = 0.95
"""A teacher with at least this share of the largest entropy, ln V, gets a warning. The tiny one has 11 %."""
_CHUNK = 64
"""Tokens whose logits exist at the same time."""
WORKSPACE_BYTES = 1 << 30
"""Memory, in bytes, that a copy of a model needs to score the prompts, besides its weights."""


def probe(prompts: Sequence[Prompt], device: torch.device) -> MicroBatch:
    """The first prompts as a micro-batch: first halves become prompts, second halves responses."""
    rollouts = []
    for number, prompt in enumerate(prompts[:NUM_PROMPTS]):
        ids = prompt.token_ids
        half = (len(ids) + 1) // 2
        start = Prompt(prompt.prompt_id, ids[:half], "", None)
        response = np.array(ids[half:] or ids[-1:], np.int32)
        rollouts.append(
            Rollout(
                prompt=start,
                group=number,
                sample=0,
                response_ids=response,
                response_logprobs=np.zeros(len(response), np.float32),
                finish_reason="stop",
                weight_version=0,
            )
        )
    return collate(rollouts, range(len(rollouts)), device)


def self_test(student: Student, path: str, dtype: torch.dtype, batch: MicroBatch, vocab_size: int) -> Check:
    """Score the student with a teacher from its own files, by the code that trains. The KL must be 0.

    Collective. Loads a second copy of the model on every rank. Raises RunFailed for another KL, ConfigError
    for NaN.
    """
    (scores,) = LocalTeacher(path, dtype, batch.rows_N.device).score([batch])
    objective = Objective(vocab_size=vocab_size, chunk_size=_CHUNK)
    stats = student.statistics(ScoredBatch(micro_batch=batch, scores=scores, objective=objective))
    kl = float(stats["kl/reverse"].mean())
    _require_finite("student.model", kl)
    if not abs(kl) < MAX_SELF_KL[dtype]:
        raise RunFailed(
            f"the student has a KL of {kl:.1e} nats from itself (allowed: {MAX_SELF_KL[dtype]:.0e})",
            "this machine does not load or run student and teacher alike: every KL would be off by as much",
        )
    return Check("self-test", "ok", f"the student's KL from itself is {kl:.1e} nats per token")


def teacher_checks(
    name: str,
    teacher: Teacher,
    student: Student,
    dtype: torch.dtype,
    batch: MicroBatch,
    vocab_size: int,
) -> list[Check]:
    """Whether the student can learn anything from a teacher, whose precision is `dtype`. Collective.

    Warns about a teacher that is nearly uniform on the prompts, as untrained weights are, and about a teacher
    that is the student itself. For a teacher that lists tokens, only a lower bound of the entropy is known.
    Raises ConfigError for NaN.
    """
    (scores,) = teacher.score([batch])
    objective = Objective(vocab_size=vocab_size, kind="sampled", chunk_size=_CHUNK)
    stats = student.statistics(ScoredBatch(micro_batch=batch, scores=scores, objective=objective))
    if scores.listed is None:
        entropy = float(stats["teacher/entropy"].mean())
    else:
        entropy = _least_entropy(scores.listed, vocab_size)
    kl = float(stats["kl/reverse"].mean())
    _require_finite(f"{teacher_section(name)}.model", kl, entropy)
    bound = max(MAX_SELF_KL[dtype], MAX_SELF_KL[student.dtype])
    return _teacher_findings(teacher_section(name), kl, entropy, math.log(vocab_size), bound)


def _require_finite(key: str, *values: float) -> None:
    """Raise ConfigError unless these values, computed from a model's log-probabilities, are finite."""
    if not math.isfinite(sum(values)):
        shown = ", ".join(f"{value:g}" for value in values)
        raise ConfigError(
            f"{key}: its log-probabilities are not finite ({shown})",
            "its weights hold NaN or infinity: download or copy the model again",
        )


def _teacher_findings(key: str, kl: float, entropy: float, uniform: float, bound: float) -> list[Check]:
    found = []
    if entropy >= NEAR_UNIFORM * uniform:
        detail = (
            f"{key} is nearly uniform on prompts: its mean entropy is {entropy:.3f} nats, and a uniform "
            f"distribution has {uniform:.3f}; it knows nothing about this text"
        )
        found.append(Check("teacher", "warn", detail, f"check {key}.model and its files"))
    if abs(kl) < bound:
        detail = (
            f"{key} is the student's own distribution on prompts: the KL is {kl:.1e} nats per token, "
            f"rounding alone gives up to {bound:.0e}; there is nothing to learn from it"
        )
        found.append(Check("teacher", "warn", detail, f"set {key}.model to another model"))
    if not found:
        detail = f"{key}: mean entropy {entropy:.2f} of at most {uniform:.2f} nats, the student's KL {kl:.2g}"
        found.append(Check("teacher", "ok", detail))
    return found


def _least_entropy(teacher: TopK, vocab_size: int) -> float:
    """A lower bound of the mean entropy in nats.

    No token outside a list of the most likely tokens is more likely than the last token of the list. When
    only the sampled tokens are known, the bound is near ln V if all of their log-probabilities are near -ln
    V, and otherwise 0.
    """
    if teacher.ids_NK.shape[1] < 2:
        uniform = math.log(vocab_size)
        off = float((teacher.target_logp_N + uniform).abs().mean())
        return uniform - off if off <= (1.0 - NEAR_UNIFORM) * uniform else 0.0
    missing_NK = teacher.ids_NK < 0
    logp_NK = teacher.logp_NK.masked_fill(missing_NK, 0.0)
    p_NK = logp_NK.exp().masked_fill(missing_NK, 0.0)
    rest_N = (1.0 - p_NK.sum(-1)).clamp(min=0.0)
    return float((-(p_NK * logp_NK).sum(-1) - rest_N * logp_NK.amin(-1)).mean())


def quantization_cost(
    name: str, quantized: LocalTeacher, path: str, dtype: torch.dtype, batch: MicroBatch, vocab_size: int
) -> Check:
    """Measure the KL of a quantised teacher from the same model in full precision.

    The full model is loaded for this check only. When there is no room for it, the check says so.
    """
    shortage = no_room(path, dtype, batch.rows_N.device)
    if shortage:
        return Check("quantised teacher", "warn", f"{name}: not compared with full precision: {shortage}")
    kl = quantization_kl(path, dtype, batch.rows_N.device, quantized, batch.sequences, vocab_size)
    _free()
    detail = f"{name}: costs a KL of {kl:.1e} nats per token"
    level: Literal["ok", "warn"] = "ok" if kl < LARGE_QUANTIZATION_KL else "warn"
    return Check("quantised teacher", level, detail)


def served_agrees(
    name: str, served: ServedTeacher, path: str, dtype: torch.dtype, batch: MicroBatch
) -> Check:
    """Compare a served teacher with the same weights in this process: same tokens, whole LM head.

    The weights are loaded for this check only. When they are not on this machine, or there is no room for
    them, the check says so. Raises RunFailed when the two disagree, ConfigError for NaN.
    """
    if not ModelDir(Path(path)).weight_files:
        return Check("served teacher", "warn", f"{name}: not compared, its weights are not on this machine")
    shortage = no_room(path, dtype, batch.rows_N.device)
    if shortage:
        return Check("served teacher", "warn", f"{name}: not compared with the local model: {shortage}")
    logp_N = _target_logp(path, dtype, batch)
    _free()
    # A server never replies with NaN, so the local model is checked.
    _require_finite(f"{teacher_section(name)}.model", float(logp_N.sum()))
    (scores,) = served.score([batch])
    found = gap(logp_N, scores.target_logp_N, dtype)
    if not found.is_rounding:
        raise RunFailed(
            f"{name}: server and local model differ by {found} on the same tokens",
            "the server's weights or precision differ from teacher.model and teacher.dtype",
        )
    return Check("served teacher", "ok", f"{name}: agrees with the local model to {found.nats:.1e} nats")


def no_room(path: str, dtype: torch.dtype, device: torch.device) -> str:
    """Why a model directory cannot also be loaded in `dtype`, for lack of memory; empty when it can."""
    from safetensors import safe_open

    num_values = 0
    for file in ModelDir(Path(path)).weight_files:
        with safe_open(file, framework="pt") as opened:
            num_values += sum(math.prod(opened.get_slice(key).get_shape()) for key in opened.offset_keys())
    needed = num_values * dtype.itemsize + WORKSPACE_BYTES
    free = memory_bytes()
    if device.type == "cuda":  # the weights pass through CPU memory on their way to the GPU
        free = min(free, torch.cuda.mem_get_info(device)[0])
    if needed <= free:
        return ""
    return f"a copy of it needs {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free"


def _target_logp(path: str, dtype: torch.dtype, batch: MicroBatch) -> Tensor:
    """log p [N] of the batch's targets under the model in directory `path`, over its whole LM head."""
    (scores,) = LocalTeacher(path, dtype, batch.rows_N.device).score([batch])
    target_ids_N = batch.tokens.target_ids_N
    parts = []
    for start in range(0, len(target_ids_N), _CHUNK):
        span = slice(start, start + _CHUNK)
        known = scores.chunk(span, target_ids_N[span], vocab_size=len(scores.head_VG), temperature=1.0)
        parts.append(known.logp_C)
    return torch.cat(parts)


def _free() -> None:
    """Free the memory of a model that is no longer used; models of transformers contain reference cycles."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing without a GPU
