"""Whether two programs with the same weights give the same log-probabilities, and what proves a push.

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
    """How far the log-probabilities of the same weights may lie apart."""

    statistic: Literal["largest", "mean"]
    """Of |difference| over the tokens."""
    nats: float
    moved: float
    """Mean change, in nats, of one program's log-probabilities that no other program can miss."""
    known: float | None = None
    """Limit in nats for a model whose rounding has been measured, or three times that where it is more."""

    def after(self, first_nats: float | None) -> Limit:
        """The limit for a model whose first gap was `first_nats`; None before there is one."""
        if self.known is None or first_nats is None:
            return self
        return self._replace(nats=max(self.known, 3 * first_nats))


LIMITS = {
    torch.float32: Limit("largest", 1e-3, moved=1e-5),
    torch.bfloat16: Limit("mean", 0.5, moved=1e-3, known=0.2),
}
"""By the weights' dtype. In float32 vLLM and transformers agree to 1e-5 on a CPU. In bfloat16 a single token
of a healthy model lies up to 0.4 nats apart and the mean of 64 tokens 0.02 to 0.085; with the weights of one
matrix in another's place the mean is 0.17 to 2.7. A model that gives its prompts 4e-6 a token rounds coarser,
to 0.15 to 0.21 (docs/measurements.md)."""


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the log-probabilities of the same tokens lie apart."""

    nats: float
    limit: Limit

    @property
    def is_rounding(self) -> bool:
        """Whether rounding explains it; NaN is not."""
        return self.nats <= self.limit.nats

    def __str__(self) -> str:
        """With its limit, for a message."""
        return f"{self.nats:.3g} nats ({self.limit.statistic} of the tokens; allowed: {self.limit.nats:g})"


def gap(ours_T: Tensor, theirs_T: Tensor, dtype: torch.dtype, first_nats: float | None = None) -> Gap:
    """The gap of log-probabilities that two programs compute from the same weights of `dtype`.

    `first_nats`: what it was at first, when nothing could have got lost.
    """
    limit = LIMITS[dtype].after(first_nats)
    difference_T = (ours_T - theirs_T).abs()
    return Gap(float(difference_T.max() if limit.statistic == "largest" else difference_T.mean()), limit)


class Scores(NamedTuple):
    """Log-probabilities of the canary: float32 [T] of the trainer and of the engine."""

    ours_T: Tensor
    theirs_T: np.ndarray

    def engine_moved(self, before: Scores | None) -> bool:
        """Whether a bit of the engine's is other than `before`; True without that."""
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
    """How far engine and trainer lie apart, in nats; raises RunFailed where the engine lacks our weights.

    `before`: the scores when those of the same engine last moved, None of a fresh one. Weights that have
    moved ours since then and not a bit of the engine's did not arrive, however small the step. `pushed`:
    whether the weights came by a push, of `version`, and not from the same files. `first_nats` as for `gap`.
    """
    found = gap(scores.ours_T, torch.from_numpy(scores.theirs_T.copy()), dtype, first_nats)
    if not found.is_rounding:
        raise RunFailed(*_difference(found, version, pushed=pushed, agreed=before is not None))
    if before is None or scores.engine_moved(before):
        return found.nats
    moved = float((scores.ours_T - before.ours_T).abs().mean())
    if moved > found.limit.moved:
        raise RunFailed(
            f"the weights of step {version} were pushed and moved the trainer's log-probabilities of the "
            f"canary prompt by {moved:.3g} nats (mean of the tokens), but not a bit of the engine's",
            "the engine did not take the weights; see rollout.log in the attempt's log folder",
        )
    return found.nats


def _difference(found: Gap, version: int, *, pushed: bool, agreed: bool) -> tuple[str, str]:
    """Message and hint for an engine and a trainer that lie too far apart."""
    log = "see rollout.log in the attempt's log folder"
    if not pushed:
        return (
            f"engine and trainer differ by {found} on the canary prompt, although nothing was pushed: they "
            "loaded the same files",
            f"vLLM and the trainer compute this model differently; {log}",
        )
    cause = "the engine did not take the weights"
    if not agreed:  # a fresh engine: nothing has shown that the two compute the same
        cause += ", or vLLM and the trainer compute this model differently"
    return (
        f"after the weights of step {version} were pushed, engine and trainer differ by {found} on the "
        "canary prompt",
        f"{cause}; {log}",
    )
