"""What a step measures: seconds of its phases, and sums over the tokens of all ranks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distillctl.data_types import MicroBatch, Rollout, Scored
from distillctl.objective.chunked import stat_names
from distillctl.objective.inputs import Objective, Teacher, Tokens
from distillctl.train.distributed import Ranks

_WEIGHTED = ("actor/loss", "actor/kl_loss", "actor/pg_loss")
"""Parts of what is minimised: aggregated as the loss is. All others are means over response tokens."""
_SFT = "actor/sft_loss"


@dataclass(frozen=True, slots=True)
class Item:
    """A micro-batch, ready for the update."""

    teacher: str | None
    """Name of its teacher; None for reference answers."""
    scored: Scored
    tokens: Tokens
    objective: Objective

    @property
    def batch(self) -> MicroBatch:
        """The micro-batch itself."""
        return self.scored.batch


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
        """`timing_s/<phase>` and `timing_s/step`, everything since construction."""
        phases = {f"timing_s/{phase}": seconds for phase, seconds in self.seconds.items()}
        return {**phases, "timing_s/step": time.perf_counter() - self._start}


class Tally:
    """Sums over the tokens this rank has seen, to be added up over the ranks at the end of a step.

    `lengths` are the trained tokens of each rollout of the global batch, `teachers` all their names.
    """

    def __init__(self, rollouts: list[Rollout], lengths: list[int], teachers: list[str]) -> None:
        self._lengths = lengths
        self._offsets = np.cumsum([0, *lengths])
        self._untrained = [len(r.response_ids) - n for r, n in zip(rollouts, lengths, strict=True)]
        self._kl = torch.zeros(int(self._offsets[-1]))
        self._sums: dict[str, Tensor] = {}
        """float64 [2] by name: the sum over tokens, and over how many of them."""
        self._several = len(teachers) > 1

    def add(self, item: Item, teacher: Teacher, stats_SN: Tensor) -> None:
        """Count one micro-batch; fillers count for nothing but keep the keys the same on every rank."""
        names = stat_names(item.objective, teacher, rewarded=item.tokens.advantages_N is not None)
        stats_SN, count = stats_SN.double() * item.batch.weight, stats_SN.shape[1] * item.batch.weight
        means_S, weighted_S = stats_SN.sum(-1).cpu(), (stats_SN @ item.tokens.weights_N.double()).cpu()
        for name, mean, weighted in zip(names, means_S, weighted_S, strict=True):
            self._add(name, weighted if name in _WEIGHTED else mean, count)
        if item.teacher is None:
            self._add(_SFT, means_S[0], count)
            return
        kl_N = stats_SN[names.index("kl/reverse")].float().cpu()
        if self._several:
            self._add(f"kl/reverse/{item.teacher}", kl_N.double().sum(), count)
        start = 0
        for member in item.batch.members:
            low, length = self._offsets[member], self._lengths[member]
            self._kl[low : low + length] = kl_N[start : start + length]
            start += length

    def _add(self, name: str, value: Tensor, count: float) -> None:
        entry = self._sums.setdefault(name, torch.zeros(2, dtype=torch.float64))
        entry += torch.stack([value, value.new_tensor(count)])

    def reduce(self, ranks: Ranks) -> dict[str, float]:
        """The step's metrics: sums of the weighted terms, of all others means over the tokens that have them.

        Of several teachers only some may list tokens, so each mean has a count of its own.
        """
        totals = ranks.sum(torch.stack(list(self._sums.values())))
        sums = dict(zip(self._sums, totals.tolist(), strict=True))
        learns_answers = _SFT in sums
        mode = 0.0 if learns_answers or "actor/pg_loss" in sums else 1.0
        metrics = {"actor/pg_loss": 0.0, "actor/distillation_mode": mode}
        for name, (total, count) in sums.items():
            metrics[name] = total if name in _WEIGHTED else total / count
        return metrics

    def kl(self, ranks: Ranks) -> list[np.ndarray]:
        """Reverse KL per token of every rollout of the step; NaN where a token was not trained on."""
        flat = ranks.sum(self._kl).numpy()
        trained = np.split(flat, self._offsets[1:-1])
        rest = [np.full(count, np.nan, np.float32) for count in self._untrained]
        return [np.concatenate(pair) for pair in zip(trained, rest, strict=True)]


def throughput(rollouts: list[Rollout], timer: Timer, version: int) -> dict[str, float]:
    """Lengths of the responses, tokens per second, and how many optimizer steps behind weights `version` were
    those that wrote them. Rollouts that were sampled during the step before have no rate of their own."""
    responses = [len(rollout.response_ids) for rollout in rollouts]
    total = sum(rollout.length for rollout in rollouts)
    cut = sum(rollout.finish_reason == "length" for rollout in rollouts)
    staleness = version - sum(rollout.weight_version for rollout in rollouts) / len(rollouts)
    rate = {} if staleness else {"perf/rollout_tokens_per_s": sum(responses) / timer.seconds["rollout"]}
    return {
        "rollout/staleness": staleness,
        "response_length/mean": sum(responses) / len(rollouts),
        "response_length/clip_ratio": cut / len(rollouts),
        "perf/tokens_per_s": total / timer.metrics()["timing_s/step"],
        **rate,
    }
