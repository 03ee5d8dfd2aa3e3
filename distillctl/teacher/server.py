"""A teacher's vLLM server as a process of the run: `python -m distillctl.teacher.server PARENT_PID ARGS`.

The process first arranges to die with its parent, and then becomes vLLM's own server. Imports no torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from distillctl.host import shared_memory
from distillctl.host.parent_death import die_with_parent

MAX_NUM_SEQS = 16
"""Most sequences scored at the same time."""
MAX_BATCHED_TOKENS = 2048
"""Most tokens of one forward pass; longer prompts are split. vLLM holds the logits of this many rows over the
whole vocabulary, and again in float32, besides the memory that it has planned for."""
_SWITCHES = [
    "--enforce-eager",
    "--skip-tokenizer-init",
    "--no-enable-prefix-caching",  # the cache holds no prompt log-probabilities
    "--no-enable-log-requests",
    "--disable-uvicorn-access-log",
    "--disable-fastapi-docs",
    "--disable-log-stats",
]


def server_arguments(
    model: Path,
    *,
    dtype: str,
    socket: Path,
    max_model_len: int,
    max_logprobs: int,
    ask_ids: bool,
    kv_cache_bytes: int | None,
    num_gpus: int,
    gpu_memory_utilization: float,
) -> list[str]:
    """Arguments of vLLM's server: token ids in and out, no tokenizer, no TCP port, no prompts in the log.

    `kv_cache_bytes` is for a CPU, where `num_gpus` is 0. `ask_ids` turns on the route that scores chosen
    tokens.
    """
    values = {
        "--model": model.absolute(),
        "--uds": socket,
        "--dtype": dtype,
        "--load-format": "safetensors",
        "--generation-config": "vllm",
        "--max-model-len": max_model_len,
        "--max-num-seqs": MAX_NUM_SEQS,
        "--max-num-batched-tokens": MAX_BATCHED_TOKENS,
        "--max-logprobs": max_logprobs,
        "--seed": 0,
        "--shutdown-timeout": 0,
    }
    if num_gpus:
        values |= {"--tensor-parallel-size": num_gpus, "--gpu-memory-utilization": gpu_memory_utilization}
    else:
        values["--kv-cache-memory-bytes"] = kv_cache_bytes
    switches = [*_SWITCHES, "--enable-scale-out"] if ask_ids else _SWITCHES
    return [text for name, value in values.items() for text in (name, str(value))] + switches


def server_command(arguments: list[str]) -> list[str]:
    """Command line of vLLM's server."""
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments]


def start_server(arguments: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start the server in its own process session. Call this from the main thread (see `parent_death`).

    Its working directory is the private directory that `environment` names for temporary files (`TMPDIR`).
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "distillctl.teacher.server", str(os.getpid()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=environment["TMPDIR"],
            start_new_session=True,
        )


def main() -> None:
    """Entry point. `exec` keeps the signal on the parent's death and the mask of the socket's file mode."""
    die_with_parent(int(sys.argv[1]))
    shared_memory.mark(shared_memory.owner(int(sys.argv[1])))
    os.umask(0o077)
    os.execv(sys.executable, server_command(sys.argv[2:]))


if __name__ == "__main__":
    main()
