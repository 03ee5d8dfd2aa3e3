"""The metrics of a run: name, unit, meaning, row on the screen.

To add a metric that depends on a step's rollouts, give it an entry in `METRICS` with a function of the
rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillctl.data_types import Rollout


@dataclass(frozen=True, slots=True)
class ScreenRow:
    """A metric's row on the screen."""

    place: int
    """The screen shows the rows in this order."""
    label: str
    form: Callable[[float], str]
    """Gives the text of a finite value."""
    sparse: bool = False
    """Whether the metric is measured only at some steps; its curve then leaves out the others."""


@dataclass(frozen=True, slots=True)
class Metric:
    """The description of a metric."""

    unit: str
    meaning: str
    screen: ScreenRow | None = None
    """Its row on the screen; None if the screen does not show it."""
    of_rollouts: Callable[[Sequence[Rollout]], float] | None = None
    """The function from all rollouts of a step to its value; None if the step measures it elsewhere."""


def _mean_length(rollouts: Sequence[Rollout]) -> float:
    return sum(len(rollout.response_ids) for rollout in rollouts) / len(rollouts)


def _share_cut(rollouts: Sequence[Rollout]) -> float:
    return sum(rollout.finish_reason == "length" for rollout in rollouts) / len(rollouts)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


METRICS = {
    "actor/loss": Metric("nats", "the loss that is minimised: all terms, aggregated by loss.aggregate"),
    "actor/kl_loss": Metric("nats", "the distillation term (loss.kind) before its coefficient"),
    "actor/pg_loss": Metric("nats", "the policy-gradient term of a task reward; 0 without a reward"),
    "actor/distillation_mode": Metric("flag", "1 if the loss has no task reward and no reference answers"),
    "actor/sft_loss": Metric("nats", "cross-entropy on the reference answers, with loss.sft_coef"),
    "actor/pg_clipfrac": Metric("share", "tokens whose policy gradient was clipped, if the loss has one"),
    "actor/entropy": Metric(
        "nats", "the student's exact entropy", screen=ScreenRow(20, "entropy", "{:.3f}".format)
    ),
    "actor/grad_norm": Metric(
        "-", "global gradient norm before clipping", screen=ScreenRow(60, "grad_norm", "{:.3g}".format)
    ),
    "actor/lr": Metric("-", "learning rate of this step"),
    "actor/skipped_steps": Metric(
        "steps", "optimizer steps skipped so far because loss or gradient was not finite"
    ),
    "kl/reverse": Metric(
        "nats",
        "KL(student || teacher): exact; a lower bound with a served teacher",
        screen=ScreenRow(10, "kl/reverse", "{:.4f}".format),
    ),
    "kl/forward": Metric("nats", "KL(teacher || student): exact; a lower bound with a served teacher"),
    "kl/k1": Metric("nats", "k1 estimate of kl/reverse from the sampled tokens"),
    "kl/k3": Metric("nats", "k3 estimate of kl/reverse from the sampled tokens"),
    "teacher/entropy": Metric(
        "nats", "the teacher's entropy on the student's samples, as exact as kl/reverse"
    ),
    "topk/student_mass": Metric("share", "the student's probability of the tokens that a top-k loss lists"),
    "topk/teacher_mass": Metric("share", "the teacher's probability of the tokens that a top-k loss lists"),
    "topk/overlap": Metric("share", "the student's top-k tokens that are the teacher's too, in a top-k loss"),
    "reward/mean": Metric("-", "mean task reward of the rollouts, with reward.path"),
    "rollout/mismatch_kl": Metric(
        "nats",
        "k3 estimate of KL(engine || trainer) on the sampled tokens",
        screen=ScreenRow(70, "mismatch_kl", "{:.1e}".format),
    ),
    "rollout/staleness": Metric("steps", "optimizer steps since the weights that wrote the rollouts"),
    "response_length/mean": Metric(
        "tokens",
        "mean length of the responses",
        screen=ScreenRow(50, "resp_len", "{:.1f}".format),
        of_rollouts=_mean_length,
    ),
    "response_length/clip_ratio": Metric(
        "share", "responses cut at data.max_response_length", of_rollouts=_share_cut
    ),
    "timing_s/rollout": Metric("s", "sampling, or waiting for it, and sharing the rollouts with the ranks"),
    "timing_s/teacher": Metric("s", "building the micro-batches, and the teacher's forward pass"),
    "timing_s/update": Metric("s", "the student's forward and backward passes, and the optimizer step"),
    "timing_s/sync": Metric("s", "waiting for the engine, giving it the weights, and checking them"),
    "timing_s/step": Metric("s", "the whole step", screen=ScreenRow(80, "step s", "{:.2f}".format)),
    "perf/tokens_per_s": Metric("tokens/s", "prompt and response tokens over the whole step"),
    "perf/rollout_tokens_per_s": Metric(
        "tokens/s",
        "response tokens over the rollout phase",
        screen=ScreenRow(30, "gen tok/s", "{:,.0f}".format),
    ),
    "memory/trainer_bytes": Metric("bytes", "memory of the largest rank's process, without mapped files"),
    "memory/engine_bytes": Metric("bytes", "memory of the rollout engine's processes, without mapped files"),
    "gpu/used_bytes": Metric("bytes", "memory in use on each GPU, from NVML"),
    "gpu/utilization": Metric("share", "time that each GPU was busy, from NVML"),
    "val/acc": Metric(
        "share",
        "normalised accuracy on the validation prompts, greedy",
        screen=ScreenRow(40, "val/acc", _percent, sparse=True),
    ),
    "val/kl": Metric("nats", "KL(student || teacher) per token of the first 64 greedy validation responses"),
}

LARGE_MISMATCH_KL = 0.015
"""`rollout/mismatch_kl`, in nats, above which rollouts are hardly the student's own samples."""


def metric_table(present: Collection[str]) -> list[tuple[str, Metric]]:
    """The known metrics of `present`, in the order of `METRICS`. `kl/reverse/NAME` (one of several teachers)
    follows `kl/reverse`."""
    table = []
    for name, metric in METRICS.items():
        own = sorted(found for found in present if found.startswith(f"{name}/"))
        table += [(found, metric) for found in ([name] if name in present else []) + own]
    return table


def find(name: str) -> Metric | None:
    """The entry of a metric, or None for an unknown metric. `kl/reverse/NAME` (one of several teachers) has
    the entry of `kl/reverse`, and `gpu/used_bytes/N` that of `gpu/used_bytes`."""
    return METRICS.get("/".join(name.split("/")[:2]))


def rollout_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Every metric that is a function of a step's rollouts. Needs at least one rollout."""
    return {
        name: metric.of_rollouts(rollouts)
        for name, metric in METRICS.items()
        if metric.of_rollouts is not None
    }


def require_described(names: Collection[str]) -> None:
    """Assert that every metric has an entry in `METRICS`."""
    unknown = [name for name in names if find(name) is None]
    assert not unknown, f"no entry in run.metrics.METRICS: {', '.join(unknown)}"
