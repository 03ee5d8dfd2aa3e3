"""Weights out of ZeRO-3: bucketed gathers, the push into the rollout engine, and its proof."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillctl.errors import RunFailed
from distillctl.rollout.client import RolloutClient
from distillctl.train.student import Student

BUCKET_BYTES = 256 << 20
"""Gathered at a time. Large enough to hide the latency of a gather, small next to a model."""

CANARY_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Largest |difference| in nats between engine and trainer on a canary token. float32 engines agree to 1e-5 on
a CPU; bfloat16 kernels differ by about 0.1."""


def gathered(model: Any, bucket_bytes: int = BUCKET_BYTES) -> Iterator[dict[str, Tensor]]:
    """Full parameters in buckets of at most `bucket_bytes` (or one tensor), in module order.

    Collective: every rank iterates to the end. Tied weights appear once. The tensors alias gathered storage
    and stay valid after the bucket is released.
    """
    from deepspeed import zero

    for bucket in _buckets(list(model.named_parameters()), bucket_bytes):
        with zero.GatheredParameters([parameter for _, parameter in bucket]):
            tensors = {name: parameter.detach() for name, parameter in bucket}
        yield tensors


def _buckets(named: list[tuple[str, Any]], limit: int) -> Iterator[list[tuple[str, Any]]]:
    bucket: list[tuple[str, Any]] = []
    filled = 0
    for name, parameter in named:
        size = getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
        if bucket and filled + size > limit:
            yield bucket
            bucket, filled = [], 0
        bucket.append((name, parameter))
        filled += size
    yield bucket


class WeightPusher:
    """Brings the student's weights into the engine after every optimizer step."""

    def __init__(
        self, student: Student, client: RolloutClient | None, folder: Path, canary_ids: list[int]
    ) -> None:
        """`client` is None on all ranks but 0. `folder` lies in memory (/dev/shm) and is private."""
        self._student = student
        self._client = client
        self._folder = folder
        self._canary_ids = canary_ids
        self._dtype = next(student.model.parameters()).dtype

    def push(self, version: int) -> float:
        """Gather, write, load into the engine as `version`, prove it. Collective; returns as `prove`."""
        files = []
        for index, tensors in enumerate(gathered(self._student.model)):
            if self._client is not None:
                files.append(self._write(index, tensors))
        if self._client is not None:
            self._client.push(files, version)
        return self.prove(version)

    def prove(self, version: int) -> float:
        """Score the canary with engine and trainer; raises `RunFailed` on rank 0 where they disagree.

        Returns the largest difference in nats (0 on the other ranks).
        """
        ours = self._student.logprobs(self._canary_ids)
        if self._client is None:
            return 0.0
        theirs = torch.from_numpy(self._client.score(self._canary_ids).copy())
        gap = float((ours - theirs).abs().max())
        if not gap <= CANARY_TOLERANCE[self._dtype]:
            raise RunFailed(
                f"after the weights of step {version} were pushed, engine and trainer disagree on the canary "
                f"prompt by {gap:.2e} nats (allowed: {CANARY_TOLERANCE[self._dtype]:.0e})",
                "the engine did not take the weights; see rollout.log in the attempt's log folder",
            )
        return gap

    def _write(self, index: int, tensors: dict[str, Tensor]) -> Path:
        from safetensors.torch import save_file

        path = self._folder / f"bucket_{index:03d}.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
        return path
