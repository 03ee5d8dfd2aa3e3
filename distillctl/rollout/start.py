"""Starting a rollout worker: its environment, log and process session. No torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.host.gpus import cuda_environment, visible_gpus
from distillctl.host.hardware import cpu_runtime, cpus
from distillctl.host.isolation import child_environment
from distillctl.host.shared_memory import owner
from distillctl.models.architecture import ModelShape
from distillctl.models.model_dir import ModelDir
from distillctl.rollout.vllm_plugin import OWNER_ENV
from distillctl.rollout.worker import EngineSettings

READY_TIMEOUT_S = 600.0
"""Longest time that an engine may take to start; a large model on a GPU takes minutes, the tiny one 12 s."""

_INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH",
    "CC", "CXX", "CPATH", "LIBRARY_PATH", "TMP", "TEMP",
)  # fmt: skip
_INHERITED_PREFIXES = (
    "HF_", "VLLM_", "XDG_", "PYTHON", "CUDA_", "NVIDIA_", "NCCL_", "UCX_", "CUBLAS_", "TORCH_", "PYTORCH_",
    "TORCHINDUCTOR_", "TRITON_", "FLASHINFER_",
)  # fmt: skip
"""Variables that an engine inherits from the caller's environment. The compilers' settings are among them,
because vLLM compiles kernels on a GPU (Triton asks for CC, CPATH and LIBRARY_PATH)."""
_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",  # else a caller's environment could allow pickle in requests
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "false",  # else responses would be in the log
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "distillctl",
    "VLLM_SERVER_DEV_MODE": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""Variables that every engine gets, whatever the caller's environment says."""
_MAX_KV_CACHE_BYTES = 8 << 30
_PLAIN_ROPES = ("default", "llama3")
"""Rotary embeddings whose angles depend on the position alone. For these a table of the positions that occur
is enough; vLLM would make as many rows as config.json says."""
_MAX_POSITIONS = 1 << 24
"""Most rows of a table that cannot be shortened; the largest known context has 10 million tokens."""


def engine_environment(num_gpus: int, gpus: list[int] | None, sockets: Path) -> dict[str, str]:
    """Environment of an engine: what it needs, and none of our variables that would change how it starts.

    Those would be a trainer's RANK, OMP_NUM_THREADS or LD_PRELOAD. `gpus` are indices into the visible GPUs;
    None means the first `num_gpus`. `sockets` is a private directory. The engine works in it and keeps its
    sockets and temporary files there; vLLM leaves a file behind at each start (`get_file_store_init_method`).

    On a CPU the engine gets every core; by default vLLM reserves one of two. torch.compile is off there: what
    vLLM compiles even in eager mode takes 20 s at the first start and makes nothing faster. oneDNN keeps its
    last 16 matrix products instead of 1,024. Each new number of rows in a ragged batch adds one per layer
    shape, and the engine would grow by hundreds of MiB. The layers share the last 16, and vLLM keeps 32 per
    layer itself.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    kept |= _ALWAYS | {OWNER_ENV: owner(), "TMPDIR": str(sockets), "VLLM_RPC_BASE_PATH": str(sockets)}
    if num_gpus:
        ids = visible_gpus().ids
        kept |= cuda_environment(ids[place] for place in gpus or range(num_gpus))
        # By default torch keeps compiled kernels with the temporary files, which are removed after the run.
        kept.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.expanduser("~/.cache/distillctl/torchinductor"))
        return child_environment(kept, sockets)
    kept["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cpus()))
    kept["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    kept["TORCHDYNAMO_DISABLE"] = "1"
    kept["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "16"
    return child_environment(kept | cpu_runtime(), sockets)


def worker_environment(num_gpus: int, gpus: list[int] | None, sockets: Path) -> dict[str, str]:
    """`engine_environment`, with settings that keep a CPU engine in a single process.

    vLLM starts its processes one after the other, and each imports all of vLLM: three take 34 s, one takes
    12 s. In a single process vLLM leaves the number of threads to OMP_NUM_THREADS.
    """
    environment = engine_environment(num_gpus, gpus, sockets)
    if not num_gpus:
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        environment["OMP_NUM_THREADS"] = str(len(cpus()))
    return environment


def kv_cache_bytes(shape: ModelShape, max_model_len: int, max_num_seqs: int) -> int:
    """Bytes of a CPU engine's KV cache: room for `max_num_seqs` full sequences in float32, at most 8 GiB.

    A block holds 128 tokens on a CPU, and every sequence may leave one partly empty.
    """
    needed = shape.kv_bytes_per_token(4) * max_num_seqs * (max_model_len + 128)
    return min(max(needed, 64 << 20), _MAX_KV_CACHE_BYTES)


def rope_type(config: Mapping[str, Any]) -> str:
    """Type of the rotary embeddings according to a config.json; `default` if it names none."""
    if config.get("dual_chunk_attention_config"):
        return "dual chunk"
    trees = [
        tree for name in ("rope_parameters", "rope_scaling") if isinstance(tree := config.get(name), dict)
    ]
    trees += [
        tree for outer in trees for tree in outer.values() if isinstance(tree, dict)
    ]  # per kind of layer
    kinds = [tree.get("rope_type", tree.get("type", "default")) for tree in trees]
    return str(next((kind for kind in kinds if kind != "default"), "default"))


def engine_settings(
    model: ModelDir,
    *,
    dtype: str,
    socket: Path,
    max_model_len: int,
    max_num_seqs: int,
    num_gpus: int = 0,
    gpu_memory_utilization: float = 0.9,
    enforce_eager: bool = True,
) -> EngineSettings:
    """Settings of a rollout worker that this process starts."""
    shape = model.shape
    length = min(max_model_len, shape.max_positions)
    plain = rope_type(model.config) in _PLAIN_ROPES
    if not plain and shape.max_positions > _MAX_POSITIONS:
        raise ConfigError(
            f"{model}: max_position_embeddings={shape.max_positions} is above {_MAX_POSITIONS}",
            "set it to the longest sequence that the model supports",
        )
    return EngineSettings(
        model=str(model.path.absolute()),
        dtype=dtype,
        socket=str(socket),
        max_model_len=length,
        max_num_seqs=max_num_seqs,
        num_gpus=num_gpus,
        gpu_memory_utilization=gpu_memory_utilization,
        kv_cache_bytes=None if num_gpus else kv_cache_bytes(shape, length, max_num_seqs),
        enforce_eager=enforce_eager,
        parent_pid=os.getpid(),
        max_positions=length if plain else None,
    )


def start_engine(
    settings: EngineSettings, settings_path: Path, log: Path, gpus: list[int] | None = None
) -> subprocess.Popen[bytes]:
    """Start the worker in a process session of its own; call it from the main thread.

    The worker dies with the thread that started it (`host.parent_death`).
    """
    settings.save(settings_path)
    folder = Path(settings.socket).parent
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "distillctl.rollout.worker", str(settings_path.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=worker_environment(settings.num_gpus, gpus, folder),
            cwd=folder,
            start_new_session=True,
        )
