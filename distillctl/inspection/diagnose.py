"""What is wrong with a run, by its own numbers, and the configuration key to turn.

Each check is a function from `Evidence` to findings; to add one, write it and list it in `_CHECKS`. A check
says nothing where its numbers are missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distillctl.config.schema import Config
from distillctl.files.reading import open_regular
from distillctl.inspection.series import Series
from distillctl.run.metrics import LARGE_MISMATCH_KL

MIN_STEPS = 20
"""Fewer steps say nothing about a trend."""
FALL = 0.9
"""The KL is falling when its last tenth of steps is below this times its first tenth."""
RISE = 1.2
"""It is rising when it is above this times that."""
CLOSE_KL = 0.02
"""Nats per token from which on there is little left to learn."""
MAX_CLIPPED = 0.3
"""Share of truncated responses from which on the student hardly learns to end."""
ENTROPY_LEFT = 0.1
"""Share of its first entropy below which a student has collapsed."""
ROLLOUT_SHARE = 0.8
"""Share of the time from which the rollout alone decides the speed."""
ACC_LOSS = 0.05
"""Accuracy that the newest evaluation may lie below the best one."""
LOG_TAIL_BYTES = 200_000
"""End of each log that is searched."""
_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator: can't allocate", "Cannot allocate memory",
                  "No available memory for the cache blocks")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One diagnosis."""

    name: str
    level: Literal["warn", "info"]
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the checks look at."""

    series: Series
    config: Config | None
    """None where config.yaml is missing or of another version."""
    phase_shares: dict[str, float]
    failed: bool
    logs: Path
    """Log folder of the newest attempt."""

    def trend(self, name: str) -> tuple[float, float]:
        """Means of a metric over the first and the last tenth of the steps, NaN for too short a run."""
        values = [value for value in self.series.column(name) if not math.isnan(value)]
        if len(values) < MIN_STEPS:
            return math.nan, math.nan
        tenth = max(len(values) // 10, 2)
        return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth

    def last(self, name: str) -> float:
        """Newest value of a metric, NaN without one."""
        values = self.series.column(name)
        return values[-1] if values else math.nan


def diagnose(evidence: Evidence) -> list[Finding]:
    """All findings, warnings first."""
    found = [finding for check in _CHECKS for finding in check(evidence)]
    return sorted(found, key=lambda finding: finding.level != "warn")


def _kl(evidence: Evidence) -> Iterator[Finding]:
    first, last = evidence.trend("kl/reverse")
    told = f"kl/reverse went from {first:.4f} to {last:.4f} nats"
    if last > RISE * first:
        yield Finding("KL rises", "warn", told, "lower optim.lr (by 3), or optim.clip_grad")
    elif last > FALL * first and first > CLOSE_KL:
        yield Finding("KL does not fall", "warn", told, _why_not_falling(evidence))


def _why_not_falling(evidence: Evidence) -> str:
    config = evidence.config
    if config is not None and evidence.series.steps[-1] <= 2 * config.optim.warmup_steps:
        return f"the warm-up is {config.optim.warmup_steps} steps long: lower optim.warmup_steps or go on"
    return "raise optim.lr (by 3); then data.train_batch_size or rollout.n, for less noise"


def _advantages(evidence: Evidence) -> Iterator[Finding]:
    mode, pg_loss = evidence.last("actor/distillation_mode"), evidence.series.column("actor/pg_loss")
    largest = max((abs(value) for value in pg_loss if not math.isnan(value)), default=0.0)
    if mode == 1.0 and largest > 0.0:
        message = f"actor/pg_loss is {largest:.2e}, and no reward is configured"
        yield Finding("advantages are not zero", "warn", message, "report it: a bug of distillctl")
    elif mode == 0.0:
        message = f"a reward or reference answers are trained on too (actor/pg_loss up to {largest:.2e})"
        remedy = "for distillation alone unset reward.path and loss.sft_coef"
        yield Finding("not distillation alone", "info", message, remedy)


def _memory(evidence: Evidence) -> Iterator[Finding]:
    if not evidence.failed:
        return
    for log in sorted(evidence.logs.glob("*.log")):
        try:
            with open_regular(log) as file:
                file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
                text = file.read(LOG_TAIL_BYTES).decode(errors="replace")
        except OSError:
            continue
        if any(sign in text for sign in _OUT_OF_MEMORY):
            yield Finding("out of memory", "warn", f"{log.name} says so", _memory_remedy(log.name))


def _memory_remedy(log: str) -> str:
    if log.startswith("rollout"):
        return (
            "lower rollout.max_num_seqs or data.max_response_length; on a GPU rollout.gpu_memory_utilization"
        )
    if log.startswith("teacher"):
        return "quantise it (teacher.quantization), or serve it elsewhere (teacher.url)"
    return (
        "lower train.micro_batch_tokens, then loss.chunk_size; set student.gradient_checkpointing=true; "
        "then zero.offload=optimizer"
    )


def _truncation(evidence: Evidence) -> Iterator[Finding]:
    clipped = evidence.last("response_length/clip_ratio")
    if clipped > MAX_CLIPPED:
        message = f"{clipped:.0%} of the newest responses are cut at data.max_response_length"
        yield Finding("responses are cut", "warn", message, "raise data.max_response_length")


def _skipped(evidence: Evidence) -> Iterator[Finding]:
    skipped = evidence.last("actor/skipped_steps")
    if skipped > 0:
        message = f"{skipped:.0f} optimizer steps were skipped: loss or gradient not finite"
        yield Finding("steps were skipped", "warn", message, "lower optim.lr; student.dtype=float32")


def _mismatch(evidence: Evidence) -> Iterator[Finding]:
    mismatch = evidence.last("rollout/mismatch_kl")
    if mismatch > LARGE_MISMATCH_KL:
        message = f"engine and trainer differ by {mismatch:.3f} nats per token"
        yield Finding("rollouts are off-policy", "warn", message, "student.dtype=float32 for both")


def _entropy(evidence: Evidence) -> Iterator[Finding]:
    first, last = evidence.trend("actor/entropy")
    teacher = evidence.last("teacher/entropy")
    if last < ENTROPY_LEFT * first and not last >= teacher / 2:
        message = f"actor/entropy fell from {first:.3f} to {last:.3f} nats (the teacher's is {teacher:.3f})"
        yield Finding("entropy collapsed", "warn", message, "lower optim.lr, or set loss.entropy_coeff")


def _clipping(evidence: Evidence) -> Iterator[Finding]:
    norms = [norm for norm in evidence.series.column("actor/grad_norm") if not math.isnan(norm)]
    if evidence.config is None or len(norms) < MIN_STEPS:
        return
    limit = evidence.config.optim.clip_grad
    share = sum(norm > limit for norm in norms) / len(norms)
    if share > FALL:
        message = f"{share:.0%} of the gradients are longer than optim.clip_grad={limit:g}"
        remedy = "harmless with AdamW; to let their lengths count, raise optim.clip_grad"
        yield Finding("gradients are clipped", "info", message, remedy)


def _speed(evidence: Evidence) -> Iterator[Finding]:
    share = evidence.phase_shares.get("rollout", 0.0)
    if share > ROLLOUT_SHARE:
        message = f"the rollout takes {share:.0%} of the time"
        remedy = "raise rollout.max_num_seqs; on a GPU rollout.gpu_memory_utilization, or give rollout.gpus"
        yield Finding("rollout-bound", "info", message, remedy)


def _accuracy(evidence: Evidence) -> Iterator[Finding]:
    accs = {s: m.get("val/acc") for s, m in evidence.series.evals.items()}
    known = {step: acc for step, acc in accs.items() if acc is not None}
    if not known:
        return
    best, newest = max(known, key=lambda step: known[step]), max(known)
    if known[best] - known[newest] > ACC_LOSS:
        message = f"val/acc was {known[best]:.3f} at step {best} and is {known[newest]:.3f} at step {newest}"
        remedy = "lower optim.lr or stop earlier; evaluate the teacher: is it better on these prompts?"
        yield Finding("accuracy falls", "warn", message, remedy)


_CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _memory, _kl, _advantages, _truncation, _skipped, _mismatch, _entropy, _accuracy, _clipping, _speed,
)  # fmt: skip
