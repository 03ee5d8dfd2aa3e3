"""Stages a and d0: the machine's ceilings, and vLLM's compiled kernels on its torch."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from measures import are_small, error_of, timed
from settings import NEEDS_GPU, ON_GPU
from torch import Tensor

PACKAGES = ("torch", "triton", "transformers", "vllm", "deepspeed", "pydantic", "numpy", "tokenizers")


def stage_a() -> dict[str, Any]:
    """Versions, GPU, memory, and two ceilings: matrix products and copies."""
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "shm_free_gib": shutil.disk_usage("/dev/shm").free >> 30,
        "disk_free_gib": shutil.disk_usage("/tmp").free >> 30,
        "cpus": len(os.sched_getaffinity(0)),
    }
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | _gpu() if ON_GPU else found


def _gpu() -> dict[str, Any]:
    listed = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    print(listed.stdout or listed.stderr)
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.empty(1 << 30, device="cuda", dtype=torch.float32)
    target = torch.empty_like(source)
    return {
        "gpu": torch.cuda.get_device_name(0),
        "capability": torch.cuda.get_device_capability(0),
        "cuda": torch.version.cuda,
        "free_gib": torch.cuda.mem_get_info()[0] >> 30,
        "matmul_tflops": round(2 * 8192**3 / timed(lambda: left @ right, 10) / 1e12),
        "copy_tb_per_s": round(8 * source.numel() / timed(lambda: target.copy_(source)) / 1e12, 2),
    }


def stage_d0() -> dict[str, Any]:
    """Relative errors of vLLM's RMS norm, of FlashAttention 3 on a paged cache, and of a Triton kernel."""
    if not ON_GPU:
        return NEEDS_GPU
    start = time.perf_counter()
    from vllm.platforms import current_platform

    found: dict[str, Any] = {
        "import_s": round(time.perf_counter() - start, 1),
        "platform": type(current_platform).__name__,
    }
    errors = {"rms_norm": _rms_norm_error(), "triton_logprobs": _logprobs_error()}
    try:
        errors["flash_attention_3"] = _flash_attention_error()
    except (ImportError, RuntimeError, ValueError, TypeError) as error:  # other GPUs and builds lack it
        found["flash_attention_3"] = f"failed: {error!r}"[:300]
    found |= {name: f"{error:.1e}" for name, error in errors.items()}
    return found | {"ok": len(errors) == 3 and are_small(errors.values())}


def _rms_norm_error() -> float:
    import vllm._custom_ops as ops

    values = torch.randn(64, 896, device="cuda", dtype=torch.bfloat16)
    found = torch.empty_like(values)
    ops.rms_norm(found, values, torch.ones(896, device="cuda").bfloat16(), 1e-6)
    wide = values.float()
    return error_of(found, wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6))


def _logprobs_error() -> float:
    from vllm.v1.worker.gpu.sample.logprob import compute_token_logprobs

    logits = torch.randn(8, 1000, device="cuda")
    ids = torch.arange(16, device="cuda").view(8, 2)
    return error_of(compute_token_logprobs(logits, ids), logits.log_softmax(-1).gather(-1, ids))


def _flash_attention_error() -> float:
    """Two sequences whose keys and values lie in blocks of 16, against SDPA in float32."""
    from vllm.vllm_flash_attn import flash_attn_varlen_func

    lengths = (70, 33)
    query = torch.randn(sum(lengths), 14, 64, device="cuda", dtype=torch.bfloat16)
    cache = torch.randn(2, 16, 16, 2, 64, device="cuda", dtype=torch.bfloat16)
    table = torch.arange(16, device="cuda", dtype=torch.int32).view(2, 8)
    ends = torch.tensor([0, *lengths], device="cuda").cumsum(0, dtype=torch.int32)
    found = flash_attn_varlen_func(
        query, cache[0], cache[1], max_seqlen_q=70, cu_seqlens_q=ends, max_seqlen_k=70, causal=True,
        seqused_k=torch.tensor(lengths, device="cuda", dtype=torch.int32), block_table=table, fa_version=3,
    )  # fmt: skip

    def wanted(number: int, length: int) -> Tensor:
        rows = [blocks[table[number].long()].flatten(0, 1)[:length].float() for blocks in cache]
        key, value = (row.repeat_interleave(7, 1).transpose(0, 1) for row in rows)
        own = query[ends[number] : ends[number + 1]].float().transpose(0, 1)
        return F.scaled_dot_product_attention(own, key, value, is_causal=True).transpose(0, 1)

    return error_of(found, torch.cat([wanted(number, length) for number, length in enumerate(lengths)]))
