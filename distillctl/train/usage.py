"""Metrics of memory and GPUs after a step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from distillctl.host.process_memory import gpu_metrics, own_bytes
from distillctl.train.distributed import Distributed
from distillctl.train.rollout_engine import RolloutEngine


class Usage:
    """`memory/…` and `gpu/…` metrics."""

    def __init__(self, gpus: Mapping[str, str], warn: Callable[[int, str], None]) -> None:
        """`gpus` are the GPUs of the run, from number to identifier.

        `warn(step, message)` is called once for each metric that is left out.
        """
        self._gpus = gpus
        self._warn = warn
        self._told: set[str] = set()

    def metrics(self, step: int, distributed: Distributed, engine: RolloutEngine) -> dict[str, float]:
        """The metrics after `step`. Collective."""

        def tell(message: str) -> None:
            if message not in self._told:
                self._told.add(message)
                self._warn(step, message)

        mine = torch.zeros(distributed.world_size, dtype=torch.float64)
        mine[distributed.rank] = own_bytes(os.getpid())
        largest = float(distributed.sum(mine).max())
        return {
            "memory/trainer_bytes": largest,
            "memory/engine_bytes": float(engine.memory_bytes()),
            **gpu_metrics(self._gpus, tell),
        }
