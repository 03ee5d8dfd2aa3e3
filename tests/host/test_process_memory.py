"""Memory of processes, against what they are known to have."""

import os
import subprocess
import sys

import pytest

from distillctl.host import process_memory

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
    assert 64 << 20 < process_memory.own_bytes(holder.pid) < 96 << 20


def test_a_group_is_the_sum_of_its_processes(holder):
    own = process_memory.own_bytes(holder.pid)
    assert process_memory.group_bytes(holder.pid) == pytest.approx(own, rel=0.01)
    assert process_memory.group_bytes(os.getpgid(0)) >= process_memory.own_bytes(os.getpid()) * 0.9


def test_a_process_that_is_gone_has_none(holder):
    holder.communicate()
    assert process_memory.own_bytes(holder.pid) == 0
    assert process_memory.group_bytes(holder.pid) == 0


class Nvml:
    """Stands in for NVML: four GPUs, known by number, and one by its UUID. There is no GPU here."""

    class NVMLError(Exception):
        pass

    nvmlInit = staticmethod(lambda: None)
    nvmlDeviceGetCount = staticmethod(lambda: 4)
    nvmlDeviceGetHandleByIndex = staticmethod(lambda number: number)
    nvmlDeviceGetHandleByUUID = staticmethod({"GPU-b": 3}.__getitem__)

    @staticmethod
    def nvmlDeviceGetMemoryInfo(number):
        return type("Memory", (), {"used": 1000 + number})

    @staticmethod
    def nvmlDeviceGetUtilizationRates(number):
        return type("Rates", (), {"gpu": 50 + number})


@pytest.fixture
def nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    return Nvml


def test_each_visible_gpu_is_listed_by_its_place(nvml):
    assert process_memory.gpu_metrics() == {
        "gpu/used_bytes/0": 1002.0, "gpu/utilization/0": 0.52,
        "gpu/used_bytes/1": 1000.0, "gpu/utilization/1": 0.5,
    }  # fmt: skip


def test_of_a_run_only_its_own_gpus_are_listed(nvml):
    assert process_memory.gpu_metrics({"1": "0", "7": "GPU-b"}) == {
        "gpu/used_bytes/1": 1000.0, "gpu/utilization/1": 0.5,
        "gpu/used_bytes/7": 1003.0, "gpu/utilization/7": 0.53,
    }  # fmt: skip
    assert process_memory.gpu_metrics({}) == {}


def test_what_nvml_does_not_tell_is_left_out_and_said(nvml, monkeypatch):
    def refuse(handle):
        raise nvml.NVMLError("Not Supported")

    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", refuse)
    monkeypatch.delattr(nvml, "nvmlDeviceGetUtilizationRates")
    told = []
    assert process_memory.gpu_metrics({"0": "2"}, told.append) == {}
    assert len(told) == 2
    assert told[0] == "gpu/used_bytes/0 is left out: NVML does not give it (Not Supported)"
    assert told[1].startswith("gpu/utilization/0 is left out: NVML does not give it (")


def test_a_driver_that_is_lost_in_a_run_does_not_end_it(nvml, monkeypatch):
    def lost():
        raise nvml.NVMLError("GPU is lost")

    monkeypatch.setattr(nvml, "nvmlInit", lost)
    told = []
    assert process_memory.gpu_metrics({"0": "2"}, told.append) == {}
    assert told == ["GPU metrics are not measured: GPU is lost"]
