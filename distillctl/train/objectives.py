"""From the configuration to what the objective needs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from distillctl.config.schema import Config
from distillctl.objective.inputs import Objective
from distillctl.train.custom_loss import CustomLoss

LOGITS_BYTES = 128 << 20
"""float32 logits of one chunk by default. The loss holds about six tensors of that size at its peak, so that
with a vocabulary of 152k and 896 hidden units it stays under 1.5 GB, the head's gradient included."""

MAX_RATIO = 2.0
"""Truncation of the importance weights of stale tokens, as verl's rollout correction has it (F. Yao et al.,
"Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025)."""


def make_objective(config: Config, vocab_size: int, folder: Path = Path()) -> Objective:
    """The objective of a run, for a shared vocabulary of `vocab_size`.

    The file of `loss.path` is executed in `folder`, from which a relative path is seen. Raises ConfigError
    where it cannot be used.
    """
    loss = config.loss
    shared = [field.name for field in fields(Objective) if hasattr(loss, field.name)]
    given = {name: getattr(loss, name) for name in shared} | {
        "vocab_size": vocab_size,
        "custom": None if loss.path is None else CustomLoss.load(loss.path, folder),
        "rollout_temperature": config.rollout.temperature,
        "max_ratio": MAX_RATIO if config.train.async_depth else None,
        "chunk_size": loss.chunk_size or max(1, LOGITS_BYTES // (4 * vocab_size)),
    }
    return Objective(**given)
