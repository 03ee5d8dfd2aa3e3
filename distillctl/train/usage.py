"""Memory and GPUs of a run after a step, as metrics."""

from __future__ import annotations

import os

import torch

from distillctl.train.engine import RolloutEngine
from distillctl.train.ranks import Ranks
from distillctl.usage import gpu_metrics, own_bytes


def usage_metrics(ranks: Ranks, engine: RolloutEngine) -> dict[str, float]:
    """`memory/…` and `gpu/…` metrics; collective."""
    mine = torch.zeros(ranks.world_size, dtype=torch.float64)
    mine[ranks.rank] = own_bytes(os.getpid())
    largest = float(ranks.sum(mine).max())
    return {
        "memory/trainer_bytes": largest,
        "memory/engine_bytes": float(engine.memory_bytes()),
        **gpu_metrics(),
    }
