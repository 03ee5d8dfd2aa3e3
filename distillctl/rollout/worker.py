"""The rollout worker: `python -m distillctl.rollout.worker SETTINGS.json`.

It owns one `vllm.LLM` and serves one client at a time over a unix socket: token ids in, token ids and
log-probabilities out. The socket appears when the engine is ready. The requests are generate, score and push.
During a request the worker sends `{"progress": finished sequences}` at most once a second.

The worker ignores SIGINT, SIGTERM and SIGHUP, because a scheduler may send them to every process of a job. It
runs until the launcher ends or kills it, or until a request fails.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distillctl.host.parent_death import die_with_parent
from distillctl.rollout import protocol
from distillctl.rollout.protocol import Arrays, Header
from distillctl.rollout.vllm_plugin import ignore_signals, name_shared_memory

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams


REPORT_S = 1.0
"""Shortest time between two progress messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """All settings of the worker; the launcher writes them as JSON."""

    model: str
    dtype: str
    socket: str
    max_model_len: int
    max_num_seqs: int
    num_gpus: int
    """0 on a CPU; otherwise the tensor-parallel size."""
    gpu_memory_utilization: float
    kv_cache_bytes: int | None
    """Size of the KV cache on a CPU; None on a GPU, where vLLM takes what `gpu_memory_utilization` allows."""
    enforce_eager: bool
    parent_pid: int
    max_logprobs: int = 0
    """Most tokens per position whose log-probabilities a request may ask for."""
    max_positions: int | None = None
    """Positions in vLLM's rotary tables; None means as many as the model's config.json says."""

    def save(self, path: Path) -> None:
        """Write the JSON file whose path is the worker's argument."""
        path.write_text(json.dumps(asdict(self)))


def build_engine(settings: EngineSettings) -> LLM:
    """Start vLLM. Chunked prefill is off, because on a CPU it changes the samples of seeded requests."""
    from vllm import LLM

    options: dict[str, Any] = {}
    if settings.num_gpus:
        options["tensor_parallel_size"] = settings.num_gpus
        options["gpu_memory_utilization"] = settings.gpu_memory_utilization
    else:
        options["kv_cache_memory_bytes"] = settings.kv_cache_bytes
    if settings.max_positions is not None:
        options["hf_overrides"] = {"max_position_embeddings": settings.max_positions}
    return LLM(
        model=settings.model,
        dtype=settings.dtype,
        load_format="safetensors",
        trust_remote_code=False,
        skip_tokenizer_init=True,
        generation_config="vllm",
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=max(settings.max_model_len, 8192),
        enable_chunked_prefill=False,
        enforce_eager=settings.enforce_eager,
        logprobs_mode="processed_logprobs",
        max_logprobs=settings.max_logprobs,
        worker_extension_cls="distillctl.rollout.vllm_plugin.WeightReceiver",
        seed=0,
        disable_log_stats=True,
        **options,
    )


class Engine:
    """Handles the requests with a running `LLM`."""

    def __init__(self, llm: LLM, settings: EngineSettings) -> None:
        self.llm = llm
        self.settings = settings
        self.version = 0
        self.report: Callable[[int], None] = lambda num_finished: None
        """Called after each step of the engine with the number of finished sequences."""

    def generate(self, header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
        """Sample one response per prompt: pause, enqueue all, resume, wait.

        Scheduling starts only when every request is queued. So vLLM batches the same requests the same way
        each time, and their tokens and log-probabilities are bit-identical. If `num_topk` in the header is
        above 0, the reply also has `topk_ids`, int32 [all tokens, num_topk]; if it is null, the
        log-probabilities are 0.
        """
        prompts = protocol.unpack(arrays["prompts"], arrays["prompt_lengths"])
        seeds = [int(seed) for seed in arrays["seeds"]]
        outputs = self._run(prompts, [self._params(header, seed) for seed in seeds])
        completions = [output.outputs[0] for output in outputs]
        for completion in completions:
            if completion.finish_reason not in ("stop", "length"):
                raise RuntimeError(f"a request ended with {completion.finish_reason!r}")
        tokens, lengths = protocol.pack([c.token_ids for c in completions], "int32")
        logprobs = np.zeros(len(tokens), np.float32)
        if header["num_topk"] is not None:
            logprobs, _ = protocol.pack([_sampled_logprobs(c.logprobs) for c in completions], "float32")
        stopped = np.array([c.finish_reason == "stop" for c in completions], dtype=np.uint8)
        reply = {"tokens": tokens, "lengths": lengths, "logprobs": logprobs, "stopped": stopped}
        if num_topk := header["num_topk"]:
            reply["topk_ids"] = np.concatenate([_topk_ids(c.logprobs, num_topk) for c in completions])
        return {"version": self.version}, reply

    def score(self, header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
        """Log-probability of each token of one sequence except the first, under the current weights."""
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False, flat_logprobs=True
        )
        (output,) = self._run([arrays["tokens"]], [params])
        logprobs = np.array(_sampled_logprobs(output.prompt_logprobs), dtype=np.float32)
        return {"version": self.version}, {"logprobs": logprobs}

    def push(self, header: Header, arrays: Arrays) -> tuple[Header, Arrays]:
        """Load the safetensors files that the header names, and take over its weight version."""
        self.llm.collective_rpc("load_pushed", args=(header["files"],))
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be reset after a weight push")
        self.version = int(header["version"])
        return {"version": self.version}, {}

    def _params(self, header: Header, seed: int) -> SamplingParams:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=header["temperature"],
            top_p=header["top_p"],
            max_tokens=header["max_tokens"],
            stop_token_ids=header["stop_token_ids"],
            seed=seed,
            logprobs=header["num_topk"],
            detokenize=False,
            flat_logprobs=True,
        )

    def _run(self, prompts: list[np.ndarray], params: list[SamplingParams]) -> list[Any]:
        self.llm.sleep(level=0, mode="keep")
        self.llm.enqueue(
            [{"prompt_token_ids": prompt.tolist()} for prompt in prompts], params, use_tqdm=False
        )
        self.llm.wake_up(tags=["scheduling"])
        outputs: list[Any] = []
        while self.llm.llm_engine.has_unfinished_requests():  # as `wait_for_completion`, plus reports
            outputs += (output for output in self.llm.llm_engine.step() if output.finished)
            self.report(len(outputs))
        return sorted(outputs, key=lambda output: int(output.request_id))


def _sampled_logprobs(flat: Any) -> list[float]:
    """The first log-probability of each position: vLLM lists the sampled token (or prompt token) first."""
    pairs = zip(flat.start_indices, flat.end_indices, strict=True)
    return [flat.logprobs[start] for start, end in pairs if end > start]


def _topk_ids(flat: Any, num_topk: int) -> np.ndarray:
    """The tokens that vLLM lists after the sampled one, most likely first; int32 [T, num_topk]."""
    return np.array(flat.token_ids, np.int32).reshape(-1, 1 + num_topk)[:, 1:]


def serve(engine: Engine) -> None:
    """Serve requests until this process is killed or a request fails; a client may disconnect and return."""
    path = Path(engine.settings.socket)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(1)
        while True:
            connection, _ = listener.accept()
            with connection, suppress(protocol.Closed):
                _serve_client(engine, connection)


def _serve_client(engine: Engine, connection: socket.socket) -> None:
    """Serve one client. Raises `protocol.Closed` when it disconnects."""
    requests = {"generate": engine.generate, "score": engine.score, "push": engine.push}
    last = 0.0

    def report(num_finished: int) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_S:
            last = time.monotonic()
            protocol.send(connection, {"progress": num_finished})

    engine.report = report
    while True:
        header, arrays = protocol.receive(connection)
        protocol.send(connection, *requests[header["request"]](header, arrays))


def main() -> None:
    """Run the worker. An error ends the process; the traceback is in its log."""
    settings = EngineSettings(**json.loads(Path(sys.argv[1]).read_text()))
    die_with_parent(settings.parent_pid)
    ignore_signals()
    os.umask(0o077)
    name_shared_memory()
    serve(Engine(build_engine(settings), settings))


if __name__ == "__main__":
    main()
