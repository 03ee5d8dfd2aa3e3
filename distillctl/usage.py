"""What the processes of a run take of memory and GPUs, now."""

from __future__ import annotations

import os
from pathlib import Path

from distillctl.machine import num_gpus

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


def gpu_metrics() -> dict[str, float]:
    """`gpu/used_bytes/N` and `gpu/utilization/N` of every GPU, by NVML (not yet run on a GPU)."""
    metrics: dict[str, float] = {}
    for number in range(num_gpus()):
        import pynvml

        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        metrics[f"gpu/used_bytes/{number}"] = float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        metrics[f"gpu/utilization/{number}"] = busy / 100
    return metrics
