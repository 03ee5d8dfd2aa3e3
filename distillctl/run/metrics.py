"""The metrics of a run: the name, unit and meaning of each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """Unit and meaning of a metric."""

    unit: str
    meaning: str


METRICS = {
    "actor/loss": Metric("nats", "what is minimised: all terms, summed up by loss.aggregate"),
    "actor/kl_loss": Metric("nats", "the distillation term before its coefficient, as loss.kind has it"),
    "actor/pg_loss": Metric("nats", "policy-gradient term of a task reward; 0 without one"),
    "actor/distillation_mode": Metric("flag", "1: no task reward and no reference answer is trained on"),
    "actor/sft_loss": Metric("nats", "cross-entropy on the reference answers, with loss.sft_coef"),
    "actor/pg_clipfrac": Metric("share", "tokens whose policy gradient was clipped, where there is one"),
    "actor/entropy": Metric("nats", "student's entropy, exact"),
    "actor/grad_norm": Metric("-", "global gradient norm before clipping"),
    "actor/lr": Metric("-", "learning rate of this step"),
    "actor/skipped_steps": Metric("steps", "optimizer steps skipped so far: loss or gradient not finite"),
    "kl/reverse": Metric("nats", "KL(student || teacher): exact, from a served teacher a lower bound"),
    "kl/forward": Metric("nats", "KL(teacher || student): exact, from a served teacher a lower bound"),
    "kl/k1": Metric("nats", "k1 estimate of kl/reverse from the sampled tokens"),
    "kl/k3": Metric("nats", "k3 estimate of kl/reverse from the sampled tokens"),
    "teacher/entropy": Metric("nats", "teacher's entropy on the student's samples, as exact as kl/reverse"),
    "topk/student_mass": Metric("share", "student's probability on the listed tokens of a top-k loss"),
    "topk/teacher_mass": Metric("share", "teacher's probability on the listed tokens of a top-k loss"),
    "topk/overlap": Metric("share", "student's most likely tokens that are the teacher's, of a top-k loss"),
    "reward/mean": Metric("-", "mean task reward of the rollouts, with reward.path"),
    "rollout/mismatch_kl": Metric("nats", "k3 estimate of KL(engine || trainer) on the sampled tokens"),
    "rollout/staleness": Metric("steps", "optimizer steps since the weights that wrote the rollouts"),
    "response_length/mean": Metric("tokens", "mean length of the responses"),
    "response_length/clip_ratio": Metric("share", "responses cut at data.max_response_length"),
    "timing_s/rollout": Metric("s", "sampling (or waiting for it), and handing the rollouts to the ranks"),
    "timing_s/teacher": Metric("s", "micro-batches and the teacher's forward pass"),
    "timing_s/update": Metric("s", "student's forward and backward pass, optimizer step"),
    "timing_s/sync": Metric("s", "weights into the engine when it is free, and their proof"),
    "timing_s/step": Metric("s", "the whole step"),
    "perf/tokens_per_s": Metric("tokens/s", "prompt and response tokens over the whole step"),
    "perf/rollout_tokens_per_s": Metric("tokens/s", "response tokens over the rollout phase"),
    "memory/trainer_bytes": Metric("bytes", "memory of the largest rank's process, mapped files left out"),
    "memory/engine_bytes": Metric("bytes", "memory of the rollout engine's processes, mapped files left out"),
    "gpu/used_bytes": Metric("bytes", "memory in use of each GPU, by NVML"),
    "gpu/utilization": Metric("share", "time that each GPU was busy, by NVML"),
    "val/acc": Metric("share", "normalised accuracy on the validation prompts, greedy"),
    "val/kl": Metric("nats", "KL(student || teacher) per token of the first 64 validation answers, greedy"),
}

LARGE_MISMATCH_KL = 0.015
"""`rollout/mismatch_kl`, in nats, from which on rollouts are hardly the student's own samples."""


def metric_table(present: Collection[str]) -> list[tuple[str, Metric]]:
    """Those of `present` that are known, in the table's order; `kl/reverse/NAME` (one of several teachers)
    stands behind `kl/reverse`."""
    table = []
    for name, metric in METRICS.items():
        own = sorted(found for found in present if found.startswith(f"{name}/"))
        table += [(found, metric) for found in ([name] if name in present else []) + own]
    return table
