"""A diagnosis of a run from its own numbers, with the configuration keys that help.

Each check is a function from `Evidence` to findings. To add one, write it and list it in `_CHECKS`. A check
without the numbers that it needs finds nothing.
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
"""Fewest steps that show a trend."""
FALL = 0.9
"""The KL falls if its mean over the last tenth of the steps is below this share of the first tenth's mean."""
RISE = 1.2
"""The KL rises if the last mean is above this multiple of the first."""
CLOSE_KL = 0.02
"""KL in nats per token below which the student has little left to learn."""
MAX_CLIPPED = 0.3
"""Share of truncated responses above which the student hardly learns to end a response."""
ENTROPY_LEFT = 0.1
"""The student's entropy has collapsed if it is below this share of its first value."""
ROLLOUT_SHARE = 0.8
"""Share of the step time above which the rollout alone decides the speed."""
ACC_LOSS = 0.05
"""Largest harmless fall of the accuracy from the best to the newest evaluation."""
LOG_TAIL_BYTES = 200_000
"""Bytes at the end of each log that are searched."""
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
    """The input of the checks."""

    series: Series
    config: Config | None
    """None if config.yaml is missing or from another version."""
    phase_shares: dict[str, float]
    failed: bool
    logs: Path
    """Log folder of the newest attempt."""

    def trend(self, name: str) -> tuple[float, float]:
        """Means of a metric over the first and the last tenth of the steps; NaN if the run is too short."""
        values = [value for value in self.series.column(name) if not math.isnan(value)]
        if len(values) < MIN_STEPS:
            return math.nan, math.nan
        tenth = max(len(values) // 10, 2)
        return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth

    def last(self, name: str) -> float:
        """Newest value of a metric, or NaN if it has none."""
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
        yield Finding("KL rises", "warn", told, "divide optim.lr by 3, or lower optim.clip_grad")
    elif last > FALL * first and first > CLOSE_KL:
        yield Finding("KL does not fall", "warn", told, _why_not_falling(evidence))


def _why_not_falling(evidence: Evidence) -> str:
    config = evidence.config
    if config is not None and evidence.series.steps[-1] <= 2 * config.optim.warmup_steps:
        return f"lower optim.warmup_steps={config.optim.warmup_steps}, or wait until the warm-up ends"
    return "multiply optim.lr by 3; then raise data.train_batch_size or rollout.n for less noise"


def _advantages(evidence: Evidence) -> Iterator[Finding]:
    mode = evidence.last("actor/distillation_mode")
    pg_loss = evidence.series.column("actor/pg_loss")
    largest = max((abs(value) for value in pg_loss if not math.isnan(value)), default=0.0)
    if mode == 1.0 and largest > 0.0:
        message = f"actor/pg_loss is {largest:.2e}, and no reward is configured"
        yield Finding("advantages are not zero", "warn", message, "this is a bug of distillctl: report it")
    elif mode == 0.0:
        message = f"the loss also has a reward or reference answers (actor/pg_loss up to {largest:.2e})"
        remedy = "for distillation alone, unset reward.path and loss.sft_coef"
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
            message = f"{log.name} has an out-of-memory error"
            yield Finding("out of memory", "warn", message, _memory_remedy(log.name))


def _memory_remedy(log: str) -> str:
    if log.startswith("rollout"):
        return (
            "lower rollout.max_num_seqs or data.max_response_length; "
            "on a GPU, lower rollout.gpu_memory_utilization"
        )
    if log.startswith("teacher"):
        return "quantise the teacher (teacher.quantization), or serve it on another machine (teacher.url)"
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
        message = f"{skipped:.0f} optimizer steps were skipped, because loss or gradient was not finite"
        yield Finding("steps were skipped", "warn", message, "lower optim.lr, or set student.dtype=float32")


def _mismatch(evidence: Evidence) -> Iterator[Finding]:
    mismatch = evidence.last("rollout/mismatch_kl")
    if mismatch > LARGE_MISMATCH_KL:
        message = f"engine and trainer differ by {mismatch:.3f} nats per token"
        remedy = "set student.dtype=float32: it applies to engine and trainer"
        yield Finding("rollouts are off-policy", "warn", message, remedy)


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
        message = f"{share:.0%} of the gradient norms exceed optim.clip_grad={limit:g}"
        remedy = "harmless with AdamW; to clip fewer gradients, raise optim.clip_grad"
        yield Finding("gradients are clipped", "info", message, remedy)


def _speed(evidence: Evidence) -> Iterator[Finding]:
    share = evidence.phase_shares.get("rollout", 0.0)
    if share > ROLLOUT_SHARE:
        message = f"the rollout takes {share:.0%} of the time"
        remedy = (
            "raise rollout.max_num_seqs; on a GPU, raise rollout.gpu_memory_utilization, or set rollout.gpus"
        )
        yield Finding("rollout-bound", "info", message, remedy)


def _accuracy(evidence: Evidence) -> Iterator[Finding]:
    accs = {s: m.get("val/acc") for s, m in evidence.series.evals.items()}
    known = {step: acc for step, acc in accs.items() if acc is not None}
    if not known:
        return
    best = max(known, key=lambda step: known[step])
    newest = max(known)
    if known[best] - known[newest] > ACC_LOSS:
        message = f"val/acc was {known[best]:.3f} at step {best} and is {known[newest]:.3f} at step {newest}"
        remedy = "lower optim.lr or stop earlier; evaluate the teacher too: it may be worse on these prompts"
        yield Finding("accuracy falls", "warn", message, remedy)


_CHECKS: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    _memory, _kl, _advantages, _truncation, _skipped, _mismatch, _entropy, _accuracy, _clipping, _speed,
)  # fmt: skip
