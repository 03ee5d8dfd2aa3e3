"""Times, errors and memory, as every stage measures them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

import torch
from settings import DEVICE, ON_GPU
from torch import Tensor


def torch_device() -> torch.device:
    return torch.device("cuda", 0) if ON_GPU else torch.device(DEVICE)


def dtype() -> torch.dtype:
    """bfloat16 on a GPU, unless a case asks for float32; float32 elsewhere."""
    wide = not ON_GPU or os.environ.get("GPU_CHECK_FLOAT32")
    return torch.float32 if wide else torch.bfloat16


def wait_for_device() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def lap(start: float) -> float:
    """Seconds since `start`, the device's work included."""
    wait_for_device()
    return round(time.perf_counter() - start, 1)


def timed(function: Callable[[], object], rounds: int = 3) -> float:
    """Median seconds of `rounds` calls after one that warms up."""
    function()
    seconds = []
    for _ in range(rounds):
        wait_for_device()
        start = time.perf_counter()
        function()
        wait_for_device()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


def error_of(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, Frobenius norms in float64."""
    found = found.double()
    wanted = wanted.double()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-300))


def are_small(errors: Iterable[float], limit: float = 2e-2) -> bool:
    """Whether all are below `limit`; NaN is not."""
    return all(error < limit for error in errors)


def written(errors: Iterable[float]) -> list[str]:
    return [f"{error:.1e}" for error in errors]


def peak_gib() -> float | None:
    """Most GPU memory that torch has held so far."""
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if ON_GPU else None
