"""Gather weights from ZeRO-3 in buckets, and write the files of a push into the rollout engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from distillctl.train.student import Student

BUCKET_BYTES = 256 << 20
"""Bytes gathered at a time: enough to hide the latency of a gather, and little compared with a model."""


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
            bucket = []
            filled = 0
        bucket.append((name, parameter))
        filled += size
    yield bucket


class WeightWriter:
    """Writes the student's weights to files that the engine can load."""

    def __init__(self, student: Student, folder: Path, *, is_main: bool) -> None:
        """The main rank writes the files. `folder` is private and in memory (/dev/shm)."""
        self._student = student
        self._folder = folder
        self._is_main = is_main

    def write(self) -> list[Path]:
        """Gather and write all weights. Returns the files; an empty list on other ranks. Collective."""
        files = []
        for index, tensors in enumerate(gathered(self._student.model)):
            if self._is_main:
                files.append(self._write(index, tensors))
        return files

    def _write(self, index: int, tensors: dict[str, Tensor]) -> Path:
        from safetensors.torch import save_file

        path = self._folder / f"bucket_{index:03d}.safetensors"
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
        return path
