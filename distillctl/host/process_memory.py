"""What the processes of a run take of memory and GPUs, now."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distillctl.host.gpus import nvml, nvml_handle, visible_gpus

_OWN = ("RssAnon", "RssShmem")
"""Fields of /proc/PID/status that make up a process's own memory: resident, without mapped files, which the
processes share (proc_pid_status(5))."""


def own_bytes(pid: int) -> int:
    """Memory of one process; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields[name].split()[0]) << 10 for name in _OWN if name in fields)


def group_bytes(leader: int) -> int:
    """Memory of all processes in the process group of `leader`."""
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
    """`gpu/used_bytes/N` and `gpu/utilization/N` of GPUs, by NVML (not yet run on a GPU).

    `gpus`: number N to identifier; by default all that this process sees. What NVML does not tell (a MIG
    slice has no utilization, a GPU that shares the machine's memory has none of its own) is left out, and
    `warn` is told each time.
    """
    if gpus is None:
        gpus = {str(number): gpu for number, gpu in enumerate(visible_gpus().ids)}
    if not gpus:
        return {}
    pynvml, reason = nvml()
    if pynvml is None:
        warn(f"there are no metrics of GPUs: {reason}")
        return {}
    metrics: dict[str, float] = {}
    for number, gpu in gpus.items():
        for name, read in _GPU_METRICS.items():
            try:
                metrics[f"{name}/{number}"] = read(pynvml, nvml_handle(pynvml, gpu))
            except (AttributeError, pynvml.NVMLError) as error:
                warn(f"{name}/{number} is left out: NVML does not tell it ({error or type(error).__name__})")
    return metrics


def _used_bytes(pynvml: Any, handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def _utilization(pynvml: Any, handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100


_GPU_METRICS = {"gpu/used_bytes": _used_bytes, "gpu/utilization": _utilization}
