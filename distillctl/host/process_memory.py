"""How much memory and GPU time the processes of a run use at the moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distillctl.host.gpus import nvml, nvml_handle, visible_gpus

_OWN = ("RssAnon", "RssShmem")
"""Fields of /proc/PID/status that add up to a process's own memory: resident memory without mapped files,
which processes share (proc_pid_status(5))."""


def own_bytes(pid: int) -> int:
    """Bytes of memory that one process uses; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields[name].split()[0]) << 10 for name in _OWN if name in fields)


def group_bytes(leader: int) -> int:
    """Bytes of memory that all processes in the process group of `leader` use."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return sum(own_bytes(pid) for pid in pids if _group(pid) == leader)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def gpu_metrics(
    gpus: Mapping[str, str] | None = None, warn: Callable[[str], None] = lambda message: None
) -> dict[str, float]:
    """Read the metrics `gpu/used_bytes/N` and `gpu/utilization/N` from NVML (not yet run on a GPU).

    `gpus` maps number N to an identifier; by default it has all GPUs that this process sees. Metrics that
    NVML does not give are left out, with a call of `warn` each time: a MIG slice has no utilization, and a
    GPU that shares the machine's memory has no memory of its own.
    """
    if gpus is None:
        gpus = {str(number): gpu for number, gpu in enumerate(visible_gpus().ids)}
    if not gpus:
        return {}
    pynvml, reason = nvml()
    if pynvml is None:
        warn(f"GPU metrics are not measured: {reason}")
        return {}
    metrics: dict[str, float] = {}
    for number, gpu in gpus.items():
        for name, read in _GPU_METRICS.items():
            try:
                metrics[f"{name}/{number}"] = read(pynvml, nvml_handle(pynvml, gpu))
            except (AttributeError, pynvml.NVMLError) as error:
                warn(f"{name}/{number} is left out: NVML does not give it ({error or type(error).__name__})")
    return metrics


def _used_bytes(pynvml: Any, handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def _utilization(pynvml: Any, handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100


_GPU_METRICS = {"gpu/used_bytes": _used_bytes, "gpu/utilization": _utilization}
