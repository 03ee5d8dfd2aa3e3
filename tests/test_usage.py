"""Memory of processes, against what they are known to have."""

import os
import subprocess
import sys

import pytest

from distillctl import usage

HOLD = "import sys; held = b'x' * (64 << 20); print('ready', flush=True); sys.stdin.read()"


@pytest.fixture
def holder():
    """A process group of its own that holds 64 MiB."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.communicate()


def test_own_memory_counts_what_a_process_holds(holder):
    assert 64 << 20 < usage.own_bytes(holder.pid) < 96 << 20


def test_a_group_is_the_sum_of_its_processes(holder):
    assert usage.group_bytes(holder.pid) == pytest.approx(usage.own_bytes(holder.pid), rel=0.01)
    assert usage.group_bytes(os.getpgid(0)) >= usage.own_bytes(os.getpid()) * 0.9


def test_a_process_that_is_gone_has_none(holder):
    holder.communicate()
    assert usage.own_bytes(holder.pid) == 0
    assert usage.group_bytes(holder.pid) == 0


def test_each_gpu_is_listed_by_number(monkeypatch):
    """NVML stands in: there is no GPU here."""

    class Nvml:
        nvmlDeviceGetHandleByIndex = staticmethod(lambda number: number)

        @staticmethod
        def nvmlDeviceGetMemoryInfo(number):
            return type("Memory", (), {"used": 1000 + number})

        @staticmethod
        def nvmlDeviceGetUtilizationRates(number):
            return type("Rates", (), {"gpu": 50 + number})

    monkeypatch.setitem(sys.modules, "pynvml", Nvml)
    monkeypatch.setattr(usage, "num_gpus", lambda: 2)
    assert usage.gpu_metrics() == {
        "gpu/used_bytes/0": 1000.0, "gpu/utilization/0": 0.5,
        "gpu/used_bytes/1": 1001.0, "gpu/utilization/1": 0.51,
    }  # fmt: skip
