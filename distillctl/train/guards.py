"""Guards: signs in a step's metrics that a run goes wrong. Pure Python; every rank decides the same.

To add a guard, write a key in `config/guards.py` and an entry in `Guards._signs`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distillctl.config.guards import GuardsConfig

BASELINE_STEPS = 5
"""Number of first steps. Growth of KL and lengths is measured relative to their means."""
KL_FLOOR = 0.1
"""Nats. A KL that begins below this value may grow to the guard's multiple of this value. The noise of a
single batch can multiply so small a KL."""
_MEANS = ("kl/reverse", "response_length/mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A guard that is violated now."""

    guard: str
    """The configuration key of the guard, without `guards.`."""
    message: str
    hint: str
    count: int
    """Number of violating steps in a row."""
    fatal: bool
    """Whether `count` is enough to stop the run."""


class Guards:
    """Watches the metrics of consecutive steps. Checkpoints keep its state, which consists of plain
    values."""

    def __init__(self, config: GuardsConfig) -> None:
        self._config = config
        self._counts: dict[str, int] = {}
        self._sums = dict.fromkeys(_MEANS, 0.0)
        self._num_summed = 0
        self._num_skipped = 0.0

    @property
    def violated(self) -> bool:
        """Whether the newest step violated a guard, so that its weights are suspect."""
        return bool(self._counts)

    def check(self, metrics: dict[str, float]) -> list[Violation]:
        """Record the metrics of the next step; returns the guards that it violates."""
        skipped = metrics["actor/skipped_steps"] > self._num_skipped
        self._num_skipped = metrics["actor/skipped_steps"]
        if self._num_summed < BASELINE_STEPS and all(math.isfinite(metrics[name]) for name in _MEANS):
            self._num_summed += 1
            for name in _MEANS:
                self._sums[name] += metrics[name]
        signs = {guard: (message, hint) for guard, message, hint in self._signs(metrics, skipped=skipped)}
        self._counts = {guard: self._counts.get(guard, 0) + 1 for guard in signs}
        return [
            Violation(
                guard=guard,
                message=message,
                hint=hint,
                count=self._counts[guard],
                fatal=self._counts[guard] >= self._limit(guard),
            )
            for guard, (message, hint) in signs.items()
        ]

    def _limit(self, guard: str) -> int:
        """Violations in a row that stop the run."""
        limit = self._config.max_skipped_steps if guard == "max_skipped_steps" else self._config.patience
        assert limit is not None
        return limit

    def _signs(self, metrics: dict[str, float], *, skipped: bool) -> Iterator[tuple[str, str, str]]:
        """(guard, message, hint) of each violated guard. NaN violates no limit; its step is `skipped`."""
        config = self._config
        if skipped and config.max_skipped_steps is not None:
            yield (
                "max_skipped_steps",
                "loss or gradient was not finite: optimizer step skipped",
                "lower optim.lr",
            )
        entropy = metrics["actor/entropy"]
        if config.min_entropy is not None and entropy < config.min_entropy:
            message = f"the student's entropy has collapsed to {entropy:.1e} nats"
            yield "min_entropy", message, "lower optim.lr, or set loss.entropy_coeff"
        length = metrics["response_length/mean"]
        first_length = self._baseline("response_length/mean")
        if config.max_length_growth is not None and length > config.max_length_growth * first_length:
            message = f"responses grew from {first_length:.0f} to {length:.0f} tokens"
            yield "max_length_growth", message, "check the stop tokens in the preflight; lower optim.lr"
        mass = metrics.get("topk/teacher_mass", math.nan)
        if config.min_teacher_mass is not None and mass < config.min_teacher_mass:
            message = f"the listed tokens hold only {mass:.2f} of the teacher's probability"
            yield "min_teacher_mass", message, "raise loss.topk, or use an exact loss.kind"
        kl = metrics["kl/reverse"]
        first_kl = self._baseline("kl/reverse")
        if config.max_kl_growth is not None and kl > config.max_kl_growth * max(first_kl, KL_FLOOR):
            message = f"the reverse KL grew from {first_kl:.3f} to {kl:.3f} nats"
            yield "max_kl_growth", message, "lower optim.lr or optim.clip_grad"

    def _baseline(self, name: str) -> float:
        """Mean of the metric over the first steps; infinite before the first step."""
        return self._sums[name] / self._num_summed if self._num_summed else math.inf

    def state(self) -> dict[str, Any]:
        """The state of the guards, in plain types."""
        return {
            "counts": self._counts, "sums": self._sums, "num_summed": self._num_summed,
            "num_skipped": self._num_skipped,
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        self._counts = dict(state["counts"])
        self._sums = dict(state["sums"])
        self._num_summed = state["num_summed"]
        self._num_skipped = state["num_skipped"]
