"""Whether two programs with the same weights give the same log-probabilities, and whether a push arrived.

Dimensions: T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distillctl.errors import RunFailed


class Limit(NamedTuple):
    """How much the log-probabilities of two programs with the same weights may differ."""

    statistic: Literal["largest", "mean"]
    """The statistic of |difference| over the tokens."""
    nats: float
    moved: float
    """When one program's log-probabilities change by this mean in nats, the other's must change too."""
    known: float | None = None
    """Limit in nats once the model's rounding is measured; three times that rounding, if that is more."""

    def after(self, first_nats: float | None) -> Limit:
        """The limit for a model whose first gap was `first_nats`; None before the first comparison."""
        if self.known is None or first_nats is None:
            return self
        return self._replace(nats=max(self.known, 3 * first_nats))


LIMITS = {
    torch.float32: Limit("largest", 1e-3, moved=1e-5),
    torch.bfloat16: Limit("mean", 0.5, moved=1e-3, known=0.2),
}
"""The limits by dtype of the weights. In float32, vLLM and transformers agree to 1e-5 on a CPU. In bfloat16,
a single token of a healthy model differs by up to 0.4 nats and the mean of 64 tokens by 0.02 to 0.085. With
one matrix in the place of another, the mean is 0.17 to 2.7. A model that gives the tokens of its prompts
probabilities of 4e-6 rounds more coarsely: its mean is 0.15 to 0.21 (docs/measurements.md)."""


@dataclass(frozen=True, slots=True)
class Gap:
    """How much two programs' log-probabilities of the same tokens differ."""

    nats: float
    limit: Limit

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains the gap. False for NaN."""
        return self.nats <= self.limit.nats

    def __str__(self) -> str:
        """The gap with its limit, for a message."""
        return f"{self.nats:.3g} nats ({self.limit.statistic} of the tokens; allowed: {self.limit.nats:g})"


def gap(ours_T: Tensor, theirs_T: Tensor, dtype: torch.dtype, first_nats: float | None = None) -> Gap:
    """The gap between the log-probabilities that two programs compute from the same weights of `dtype`.

    `first_nats` is the first gap, measured when no push could have gone wrong.
    """
    limit = LIMITS[dtype].after(first_nats)
    difference_T = (ours_T - theirs_T).abs()
    return Gap(float(difference_T.max() if limit.statistic == "largest" else difference_T.mean()), limit)


class Scores(NamedTuple):
    """Log-probabilities of the canary prompt, float32 [T]: the trainer's and the engine's."""

    ours_T: Tensor
    theirs_T: np.ndarray

    def engine_moved(self, before: Scores | None) -> bool:
        """Whether any bit of the engine's scores differs from `before`; True when `before` is None."""
        return before is None or self.theirs_T.tobytes() != before.theirs_T.tobytes()


def require_agreement(
    scores: Scores,
    before: Scores | None,
    dtype: torch.dtype,
    version: int,
    *,
    pushed: bool,
    first_nats: float | None = None,
) -> float:
    """The gap between engine and trainer in nats. Raises RunFailed when the engine lacks our weights.

    `before` has the scores at the last change of this engine's scores; None for a fresh engine. If the
    trainer's scores have changed since then and no bit of the engine's has, the weights did not arrive,
    however small the step. `pushed` says whether the weights came by a push of `version`, or from the same
    files. `first_nats` is as in `gap`.
    """
    found = gap(scores.ours_T, torch.from_numpy(scores.theirs_T.copy()), dtype, first_nats)
    if not found.is_rounding:
        raise RunFailed(*_difference(found, version, pushed=pushed, agreed=before is not None))
    if before is None or scores.engine_moved(before):
        return found.nats
    moved = float((scores.ours_T - before.ours_T).abs().mean())
    if moved > found.limit.moved:
        raise RunFailed(
            f"the weights of step {version} were pushed and changed the trainer's log-probabilities of the "
            f"canary prompt by {moved:.3g} nats (mean of the tokens), but no bit of the engine's",
            "the engine did not take the weights; see rollout.log in the attempt's log folder",
        )
    return found.nats


def _difference(found: Gap, version: int, *, pushed: bool, agreed: bool) -> tuple[str, str]:
    """Message and hint for an engine and a trainer that differ too much."""
    log = "see rollout.log in the attempt's log folder"
    if not pushed:
        return (
            f"engine and trainer differ by {found} on the canary prompt, although both loaded the same files "
            "and nothing was pushed",
            f"vLLM and the trainer compute this model differently; {log}",
        )
    cause = "the engine did not take the weights"
    if not agreed:  # a fresh engine, which has never agreed with the trainer
        cause += ", or vLLM and the trainer compute this model differently"
    return (
        f"after the weights of step {version} were pushed, engine and trainer differ by {found} on the "
        "canary prompt",
        f"{cause}; {log}",
    )
