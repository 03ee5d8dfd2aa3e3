"""What the stages of a GPU check share: where they run, on what, and at which size. No torch."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECK = Path(__file__).resolve().parent / "check.py"
PYTHON = sys.executable
WORK = Path(os.environ.get("GPU_CHECK_WORK") or Path(tempfile.gettempdir()) / "distillctl_gpu_check")
"""Models, data, runs and logs; kept, so that a later call finds the models and the runs of an earlier one."""
OUT = Path(os.environ.get("OUT") or WORK / "out")
"""Results and the archive of logs."""
DEVICE = os.environ.get("GPU_CHECK_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
TINY = os.environ.get("GPU_CHECK_TINY") == "1"
"""Toy shapes, for a CPU."""
NEEDS_GPU = {"skipped": "needs a GPU"}

LLM_ARGUMENTS = "PYTHON_GPUKIT_LLM"
"""Environment variable: JSON of arguments for `vllm.LLM`. A `sitecustomize` of the machine has to apply it;
without one nothing happens. The name begins so that distillctl hands it on to the engine."""
KV_CACHE_BYTES = (64 << 20) if TINY else (16 << 30)


def llm_arguments() -> dict[str, object]:
    """The arguments that `LLM_ARGUMENTS` holds."""
    return dict(json.loads(os.environ.get(LLM_ARGUMENTS) or "{}"))


def measure_free_memory() -> None:
    """Let vLLM choose the size of the KV cache by the memory that it finds free."""
    kept = {key: value for key, value in llm_arguments().items() if key != "kv_cache_memory_bytes"}
    os.environ[LLM_ARGUMENTS] = json.dumps(kept)
