"""Stages d1, d2 and d3: the rollout worker, its log-probabilities against the trainer's, its start."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import need_data
from measures import dtype, torch_device
from random_models import NUM_TOKENS, folder, need_models
from safetensors.torch import save_file
from settings import NEEDS_GPU, ON_GPU, TINY, WORK, measure_free_memory
from transformers import AutoTokenizer

from distillctl.data.prompts import render
from distillctl.data.read import read_rows
from distillctl.data_types import Prompt, Rollout
from distillctl.host.shared_memory import scratch_directory
from distillctl.models.load import load_model
from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir
from distillctl.models.packed_attention import packed_arguments
from distillctl.objective.matmul import logits
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.rollout.start import engine_settings, start_engine
from distillctl.train.agreement import LIMITS

END_OF_TEXT = 2
LOG_WORDS = ("attention backend", "FlashAttention version", "V2 Model Runner", "KV cache size",
             "KV cache memory", "model runner instead", "CUDA graph", "init engine")  # fmt: skip


def stage_d1() -> dict[str, Any]:
    """The tiny student in the engine, on prompts of its own data."""
    need_data()
    model = find_model("builtin:tiny-student", "student.model").path
    rows = read_rows(WORK / "data/arith/train.parquet")[: 3 if TINY else 64]
    prompts, _ = render(rows, AutoTokenizer.from_pretrained(model), 160)
    with engine(model, 224, 8 if TINY else 64, "d1.log") as started:
        return talk(started, model, prompts, 5 if TINY else 64)


def stage_d2() -> dict[str, Any]:
    """The 0.5B shape in the engine: 256 answers of 512 tokens."""
    need_models()
    model = folder() / "student"
    count, length = (4, 8) if TINY else (256, 128)
    ids = np.random.default_rng(0).integers(10, NUM_TOKENS, (count, length)).tolist()
    prompts = [Prompt(f"row/{i}", row, "", None) for i, row in enumerate(ids)]
    with engine(model, 64 if TINY else 1024, 8 if TINY else 256, "d2.log") as started:
        return talk(started, model, prompts, 8 if TINY else 512)


def stage_d3() -> dict[str, Any]:
    """Whether the engine starts while another process takes 20 GiB of its GPU.

    The trainer does, while vLLM measures what is free: distillctl starts both at the same time.
    """
    if not ON_GPU:
        return NEEDS_GPU
    need_models()
    measure_free_memory()
    taken = [torch.empty(1, device="cuda")]
    with engine(folder() / "student", 1024, 256, "d3.log") as started:
        while not started.is_ready():
            log = started.log.read_text() if started.log.exists() else ""
            if len(taken) <= 10 and "Model Runner" in log:
                taken.append(torch.empty(2 << 30, dtype=torch.uint8, device="cuda"))
            if started.process.poll() is not None:
                break
            time.sleep(0.2)
        is_ready, text = started.is_ready(), started.log.read_text()
    errors = [line[-200:] for line in text.splitlines() if "Error" in line][-3:]
    found = {"taken_gib": 2 * len(taken) - 2, "engine_became_ready": is_ready, "errors": errors}
    return found | {"log": log_facts(started.log), "ok": is_ready}


class Started:
    """A rollout worker that has been started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, socket: Path) -> None:
        self.process = process
        self.log = log
        self.socket = socket
        self.began = time.perf_counter()

    def is_ready(self) -> bool:
        return self.socket.exists()

    def wait(self) -> float:
        """Until it is ready; seconds since it was started. Raises RuntimeError when it has ended."""
        while not self.is_ready():
            if self.process.poll() is not None:
                end = self.log.read_text()[-6000:]
                raise RuntimeError(f"the engine ended with {self.process.returncode}:\n{end}")
            time.sleep(0.1)
        return round(time.perf_counter() - self.began, 1)


@contextmanager
def engine(model: Path, max_model_len: int, max_num_seqs: int, log_name: str) -> Iterator[Started]:
    """The worker as a run starts it, killed at the end."""
    log = WORK / "logs" / log_name
    log.unlink(missing_ok=True)
    with scratch_directory() as scratch:
        settings = engine_settings(
            ModelDir(model), dtype=str(dtype()).removeprefix("torch."), socket=scratch / "rollout.sock",
            max_model_len=max_model_len, max_num_seqs=max_num_seqs, num_gpus=int(ON_GPU),
            gpu_memory_utilization=0.3, enforce_eager=True,
        )  # fmt: skip
        process = start_engine(replace(settings, max_logprobs=8), scratch / "engine.json", log)
        try:
            yield Started(process, log, Path(settings.socket))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def talk(started: Started, model_dir: Path, prompts: list[Prompt], max_tokens: int) -> dict[str, Any]:
    """Generate, repeat, list tokens, score, push changed weights, score again."""
    found: dict[str, Any] = {"start_s": started.wait()}
    sampling = Sampling(1.0, 1.0, max_tokens, [END_OF_TEXT])
    with closing(RolloutClient(started.socket, 10)) as client:
        client.generate(prompts[:2], 1, sampling, 0, 0)  # compiles kernels
        start = time.perf_counter()
        first = client.generate(prompts, 1, sampling, 0, 1)
        seconds = time.perf_counter() - start
        num_tokens = sum(len(rollout.response_ids) for rollout in first)
        found |= {"generate_s": round(seconds, 2), "tokens": num_tokens}
        found |= {"tokens_per_s": round(num_tokens / seconds)}
        found["repeats_bit_for_bit"] = _are_same(first, client.generate(prompts, 1, sampling, 0, 1))
        top = client.generate(prompts[:4], 1, sampling, 0, 1, 4)
        found["topk_shape"] = list(top[0].topk_ids.shape)
        model = load_model(str(model_dir), dtype()).to(torch_device()).eval()
        found["gap"] = gaps(client, model, prompts, first)
        found["push_s"] = _push_changed(client, model)
        after = client.generate(prompts[:8], 1, sampling, 0, 2)
        found["gap_after_push"] = gaps(client, model, prompts, after)
    limit = LIMITS[dtype()].nats
    within = [found[key]["canary_median"] <= limit for key in ("gap", "gap_after_push")]
    return found | {"log": log_facts(started.log), "ok": all(within)}


def _are_same(first: list[Rollout], again: list[Rollout]) -> bool:
    return all(
        np.array_equal(one.response_ids, other.response_ids)
        and np.array_equal(one.response_logprobs, other.response_logprobs)
        for one, other in zip(first, again, strict=True)
    )


def _push_changed(client: RolloutClient, model: Any) -> float:
    """Change every weight of `model`, push them; seconds of the push."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    with scratch_directory() as scratch:
        file = scratch / "changed.safetensors"
        tensors = {name: value.detach().cpu().contiguous() for name, value in model.named_parameters()}
        save_file(tensors, file)
        start = time.perf_counter()
        client.push([file], 1)
        return round(time.perf_counter() - start, 2)


def gaps(
    client: RolloutClient, model: Any, prompts: list[Prompt], rollouts: list[Rollout]
) -> dict[str, float]:
    """Log-probabilities of engine and trainer, in nats: prompts as a run's canary, and sampled tokens.

    A canary's gap is the statistic that the run takes for this dtype (largest or mean of its tokens).
    """
    limit = LIMITS[dtype()]
    statistic = np.max if limit.statistic == "largest" else np.mean
    heads = [prompt.token_ids[:64] for prompt in prompts[:40]]
    canary = [float(statistic(np.abs(client.score(ids) - own_logprobs(model, ids)))) for ids in heads]
    deltas = np.concatenate([_sampled_deltas(model, rollout) for rollout in rollouts[:8]])
    return {
        "canary_median": round(float(np.median(canary)), 4),
        "canary_max": round(max(canary), 4),
        "share_over_tolerance": sum(gap > limit.nats for gap in canary) / len(canary),
        "rollout_max": round(float(np.abs(deltas).max()), 4),
        "rollout_mean": round(float(np.abs(deltas).mean()), 5),
        "mismatch_kl": float((np.exp(deltas) - 1 - deltas).mean()),
    }


def _sampled_deltas(model: Any, rollout: Rollout) -> np.ndarray:
    ids = [*rollout.prompt.token_ids, *rollout.response_ids.tolist()]
    ours = own_logprobs(model, ids)[len(rollout.prompt.token_ids) - 1 :]
    return ours - rollout.response_logprobs


@torch.no_grad()
def own_logprobs(model: Any, ids: list[int]) -> np.ndarray:
    """float32 [T - 1]: log-probabilities of a sequence as the trainer computes them for its canary."""
    row_T = torch.tensor(ids, device=torch_device())
    hidden_TH = model.base_model(**packed_arguments(row_T, (len(ids),))).last_hidden_state[0, :-1]
    logp_TV = logits(hidden_TH, model.get_output_embeddings().weight).float().log_softmax(-1)
    return logp_TV.gather(-1, row_T[1:, None]).squeeze(-1).cpu().numpy()


def log_facts(log: Path) -> list[str]:
    """What the engine's log says of its backend, runner and cache."""
    lines = [line for line in log.read_text().splitlines() if any(word in line for word in LOG_WORDS)]
    return list(dict.fromkeys(line.split("] ", 1)[-1][:140] for line in lines))[:8]
