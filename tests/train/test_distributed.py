"""What ranks need of a GPU before they load anything, and what they tell of it. There is no GPU here."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from distillctl.errors import EnvironmentUnfit
from distillctl.train.distributed import _ask_torch_for_memory, require_cuda
from distillctl.train.usage import Usage


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_a_torch_that_sees_no_gpu_is_exit_3_with_what_it_says():
    with pytest.raises(EnvironmentUnfit) as caught:
        require_cuda(1)
    assert caught.value.message.startswith(f"torch {torch.__version__} cannot use the GPU of rank 1: ")
    assert "CUDA" in caught.value.message or "driver" in caught.value.message
    assert "train.device=cpu" in caught.value.hint


def test_fewer_gpus_than_ranks_are_exit_3(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    require_cuda(0)
    with pytest.raises(EnvironmentUnfit, match=r"torch sees 1 GPUs.*CUDA_VISIBLE_DEVICES=MIG-a,MIG-b"):
        require_cuda(1)


def test_deepspeed_asks_torch_how_much_of_a_gpu_is_free(monkeypatch):
    """By itself it takes the entries of CUDA_VISIBLE_DEVICES for numbers."""
    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "GPU-aaaa")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (7 << 30, 80 << 30))
    accelerator = CUDA_Accelerator()
    with pytest.raises(ValueError, match="GPU-aaaa"):
        accelerator._get_nvml_gpu_id(0)
    _ask_torch_for_memory(accelerator)
    assert accelerator.available_memory() == 7 << 30


def test_what_is_not_known_of_a_gpu_is_said_once_and_ends_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # what makes an import fail
    distributed = SimpleNamespace(rank=0, world_size=1, sum=lambda values: values)
    engine = SimpleNamespace(memory_bytes=lambda: 5)
    told = []
    usage = Usage({"0": "GPU-aaaa"}, lambda step, message: told.append((step, message)))
    for step in (1, 2):
        found = usage.metrics(step, distributed, engine)
        assert set(found) == {"memory/trainer_bytes", "memory/engine_bytes"}
        assert found["memory/engine_bytes"] == 5.0
    assert told == [(1, "GPU metrics are not measured: the package nvidia-ml-py is not installed")]
