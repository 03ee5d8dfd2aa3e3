"""Starting a rollout worker: its environment, its log, its process session. No torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from distillctl.errors import ConfigError
from distillctl.files.reading import read_json
from distillctl.host.gpus import cuda_environment, visible_gpus
from distillctl.host.hardware import cpu_runtime, cpus
from distillctl.host.isolation import child_environment
from distillctl.host.shared_memory import owner
from distillctl.models.architecture import ModelShape, model_shape
from distillctl.rollout.vllm_plugin import OWNER_ENV
from distillctl.rollout.worker import EngineSettings

READY_TIMEOUT_S = 600.0
"""Longest start of an engine; a large model on a GPU takes minutes, the tiny one 12 s."""

_INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH",
    "CC", "CXX", "CPATH", "LIBRARY_PATH", "TMP", "TEMP",
)  # fmt: skip
_INHERITED_PREFIXES = (
    "HF_", "VLLM_", "XDG_", "PYTHON", "CUDA_", "NVIDIA_", "NCCL_", "UCX_", "CUBLAS_", "TORCH_", "PYTORCH_",
    "TORCHINDUCTOR_", "TRITON_", "FLASHINFER_",
)  # fmt: skip
"""What an engine is handed of the caller's environment, with the compilers' settings: on a GPU vLLM compiles
kernels (Triton asks for CC, CPATH and LIBRARY_PATH)."""
_MAX_KV_CACHE_BYTES = 8 << 30
_PLAIN_ROPES = ("default", "llama3")
"""Rotary embeddings whose angles depend on the position alone, so that a table of the positions that occur is
enough. vLLM makes one of as many rows as config.json names, whatever that is."""
_MAX_POSITIONS = 1 << 24
"""Rows of a table that is not cut; the largest context known has 10 million tokens."""


def engine_environment(num_gpus: int, gpus: list[int] | None, sockets: Path) -> dict[str, str]:
    """A clean environment: what the engine needs, and nothing of ours that would mislead it.

    `sockets`: private directory for vLLM's own, in which the engine works and keeps its temporary files:
    vLLM leaves one for each start behind (`get_file_store_init_method`). `gpus` are places among the visible
    GPUs; None is the first `num_gpus`. A trainer's RANK, OMP_NUM_THREADS or LD_PRELOAD would change how vLLM
    starts. On a CPU the engine gets every core (its own default keeps one of two for itself);
    torch.compile is off there, because what vLLM compiles even in eager mode takes 20 s at the first start
    and gains nothing. oneDNN keeps its last 16 matrix products, not 1,024: each new number of rows in a
    ragged batch makes one per layer shape, and the engine's worker grows by hundreds of MiB; the layers share
    the last ones, and vLLM keeps 32 per layer.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    kept |= {
        OWNER_ENV: owner(),
        "DO_NOT_TRACK": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(sockets),
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",  # never from the caller's environment: pickle in requests
        "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "false",  # nor answers in the log
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_PLUGINS": "distillctl",
        "VLLM_RPC_BASE_PATH": str(sockets),
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if num_gpus:
        ids = visible_gpus().ids
        kept |= cuda_environment(ids[place] for place in gpus or range(num_gpus))
        # By default torch keeps compiled kernels with the temporary files, which end with the run.
        kept.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.expanduser("~/.cache/distillctl/torchinductor"))
        return child_environment(kept, sockets)
    kept["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cpus()))
    kept["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    kept["TORCHDYNAMO_DISABLE"] = "1"
    kept["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "16"
    return child_environment(kept | cpu_runtime(), sockets)


def worker_environment(num_gpus: int, gpus: list[int] | None, sockets: Path) -> dict[str, str]:
    """`engine_environment`, and on a CPU the whole engine in the process that asks for it.

    vLLM's processes are started one after the other, and each imports all of it: three take 34 s, one 12 s.
    vLLM then leaves the number of threads to the environment.
    """
    environment = engine_environment(num_gpus, gpus, sockets)
    if not num_gpus:
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        environment["OMP_NUM_THREADS"] = str(len(cpus()))
    return environment


def kv_cache_bytes(shape: ModelShape, max_model_len: int, max_num_seqs: int) -> int:
    """KV cache of a CPU engine: room for `max_num_seqs` full sequences in float32, at most 8 GiB.

    Blocks are 128 tokens on a CPU; every sequence may leave one partly empty.
    """
    needed = shape.kv_bytes_per_token(4) * max_num_seqs * (max_model_len + 128)
    return min(max(needed, 64 << 20), _MAX_KV_CACHE_BYTES)


def rope_type(model: Path) -> str:
    """Kind of a model's rotary embeddings by its config.json: `default` where it names none."""
    config = read_json(model / "config.json")
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
    model: Path,
    *,
    dtype: str,
    socket: Path,
    max_model_len: int,
    max_num_seqs: int,
    num_gpus: int = 0,
    gpu_memory_utilization: float = 0.9,
    enforce_eager: bool = True,
) -> EngineSettings:
    """Settings of a worker started by this process."""
    shape = model_shape(model)
    length = min(max_model_len, shape.max_positions)
    plain = rope_type(model) in _PLAIN_ROPES
    if not plain and shape.max_positions > _MAX_POSITIONS:
        raise ConfigError(
            f"{model}: max_position_embeddings={shape.max_positions} is above {_MAX_POSITIONS}",
            "set it to the longest sequence that the model was made for",
        )
    return EngineSettings(
        model=str(model.absolute()),
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
    """Start the worker in a process session of its own; call from the main thread (see `lifeline`)."""
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
