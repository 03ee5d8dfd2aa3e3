"""Make the objective of a run from its configuration."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from distillctl.config.schema import Config
from distillctl.objective.inputs import Objective
from distillctl.train.custom_loss import CustomLoss

LOGITS_BYTES = 128 << 20
"""Bytes of one chunk's float32 logits by default. The loss holds about six tensors of this size at its peak.
With a vocabulary of 152k and 896 hidden units, it stays under 1.5 GB, including the LM head's gradient."""

MAX_RATIO = 2.0
"""Largest importance weight of a stale token, as in verl's rollout correction (F. Yao et al., "Your Efficient
RL Framework Secretly Brings You Off-Policy RL Training", 2025)."""


def make_objective(config: Config, vocab_size: int, folder: Path = Path()) -> Objective:
    """The objective of a run, for a shared vocabulary of `vocab_size`.

    The file of `loss.path` is executed in `folder`, where relative paths start. Raises ConfigError when it
    cannot be used.
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
