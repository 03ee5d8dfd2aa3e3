"""The metrics of a step: seconds of its phases, and sums over the tokens of all ranks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from distillctl.data_types import Rollout
from distillctl.run.metrics import rollout_metrics
from distillctl.train.distributed import Distributed
from distillctl.train.token_details import DetailTable, TokenDetails
from distillctl.train.token_table import TokenTable
from distillctl.train.training_batch import TokenStats, TrainingBatch

_WEIGHTED = ("actor/loss", "actor/kl_loss", "actor/pg_loss")
"""Parts of the loss, aggregated as the loss is. All other metrics are means over response tokens."""


class Timer:
    """Seconds of the phases of one step."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[phase] = time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """`timing_s/<phase>` of each phase, and `timing_s/step`, the time since construction."""
        phases = {f"timing_s/{phase}": seconds for phase, seconds in self.seconds.items()}
        return {**phases, "timing_s/step": time.perf_counter() - self._start}


class StepMetrics:
    """Sums over the tokens of this rank, and values of single tokens. `reduce` joins the ranks after a step.

    `rollouts` are those of the global batch. `details` collects the alternatives of the first rollouts.
    """

    def __init__(self, rollouts: list[Rollout], details: DetailTable) -> None:
        self._rewards = [rollout.reward for rollout in rollouts if rollout.reward is not None]
        self._kl = TokenTable(rollouts, 1, torch.float32)
        self._details = details
        self._sums: dict[str, Tensor] = {}
        """float64 [2] by metric name: the sum over tokens, and the number of tokens."""

    def add(self, batch: TrainingBatch, found: TokenStats) -> None:
        """Add one micro-batch. A filler adds 0, but it keeps the names the same on every rank."""
        micro_batch = batch.micro_batch
        stats_SN = found.stats_SN.double() * micro_batch.weight
        count = stats_SN.shape[1] * micro_batch.weight
        means_S = stats_SN.sum(-1).cpu()
        weighted_S = (stats_SN @ micro_batch.tokens.weights_N.double()).cpu()
        for name, mean, weighted in zip(batch.stat_names, means_S, weighted_S, strict=True):
            self._add(name, weighted if name in _WEIGHTED else mean, count)
        for name in batch.loss_names:
            self._add(name, means_S[batch.stat_names.index("actor/loss")], count)
        if "kl/reverse" in batch.stat_names:
            kl_N = stats_SN[batch.stat_names.index("kl/reverse")].float().cpu()
            for name in batch.kl_names:
                self._add(name, kl_N.double().sum(), count)
            if micro_batch.members:
                self._kl.put(micro_batch, kl_N[:, None])
        if found.alternatives is not None:
            self._details.add(micro_batch, found.alternatives)

    def _add(self, name: str, value: Tensor, count: float) -> None:
        entry = self._sums.setdefault(name, torch.zeros(2, dtype=torch.float64))
        entry += torch.stack([value, value.new_tensor(count)])

    def reduce(self, distributed: Distributed) -> dict[str, float]:
        """The step's metrics: sums of the weighted terms, and means of all others over tokens that have them.

        Each mean has a count of its own, because only some of several teachers may list tokens.
        """
        totals = distributed.sum(torch.stack(list(self._sums.values())))
        sums = dict(zip(self._sums, totals.tolist(), strict=True))
        only_distils = not {"actor/sft_loss", "actor/pg_loss"} & set(sums)
        metrics = {"actor/pg_loss": 0.0, "actor/distillation_mode": float(only_distils)}
        for name, (total, count) in sums.items():
            metrics[name] = total if name in _WEIGHTED else total / count
        if self._rewards:
            metrics["reward/mean"] = float(np.array(self._rewards, np.float32).mean())
        return metrics

    def kl(self, distributed: Distributed) -> list[np.ndarray]:
        """float32 [T] of every rollout: reverse KL of each token in nats; NaN for tokens not trained on."""
        return [kl_T1[:, 0] for kl_T1 in self._kl.collect(distributed)]

    def details(self, distributed: Distributed) -> list[TokenDetails]:
        """Details of the first rollouts, as many as `details` was made for."""
        return self._details.collect(distributed)


def throughput(rollouts: list[Rollout], timer: Timer, version: int) -> dict[str, float]:
    """Metrics of the rollouts alone, tokens per second, and staleness.

    Staleness is the mean number of optimizer steps from the weights that wrote the rollouts to weights
    `version`. Rollouts that were sampled during the step before have no sampling rate.
    """
    responses = [len(rollout.response_ids) for rollout in rollouts]
    total = sum(rollout.length for rollout in rollouts)
    staleness = version - sum(rollout.weight_version for rollout in rollouts) / len(rollouts)
    rate = {} if staleness else {"perf/rollout_tokens_per_s": sum(responses) / timer.seconds["rollout"]}
    return {
        "rollout/staleness": staleness,
        **rollout_metrics(rollouts),
        "perf/tokens_per_s": total / timer.metrics()["timing_s/step"],
        **rate,
    }
