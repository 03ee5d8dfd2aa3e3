"""Stages b3 and b4: teacher and update phase without an engine, and settings that only a GPU can run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measures import dtype, lap, peak_gib, timed, wait_for_device
from random_models import NUM_TOKENS, SHAPES, flagship_config, folder
from settings import CHECK, DEVICE, ON_GPU, PYTHON, TINY, WORK

from distillctl.config.schema import Config
from distillctl.data_types import Prompt, Rollout
from distillctl.objective.inputs import Objective
from distillctl.teacher.local import LocalTeacher
from distillctl.train.batch import micro_batches, weighted
from distillctl.train.distributed import Distributed
from distillctl.train.objectives import make_objective
from distillctl.train.student import Student
from distillctl.train.training_batch import ScoredBatch
from distillctl.train.weight_sync import WeightWriter

PEAK_FLOPS = 989e12
"""Dense bfloat16 products of an H100 SXM (NVIDIA's data sheet)."""
CASES = {
    "base": [], "many micro-batches": ["train.micro_batch_tokens=1024"], "zero 0": ["zero.stage=0"],
    "zero 1": ["zero.stage=1"], "zero 2": ["zero.stage=2"], "float32": ["student.dtype=float32"],
    "checkpointing": ["student.gradient_checkpointing=true"], "offload optimizer": ["zero.offload=optimizer"],
    "offload all": ["zero.offload=all"], "teacher offload": ["teacher.offload=cpu"],
    "teacher shard": ["teacher.shard=true"],
}  # fmt: skip
"""Overrides of each; offloading is refused on a CPU."""
CPU_CASES = ("base", "many micro-batches", "teacher shard")


@dataclass(kw_only=True)
class Parts:
    """Student, teacher and a batch of random tokens on one rank, through distillctl's own classes."""

    config: Config
    distributed: Distributed
    teacher: LocalTeacher
    student: Student
    objective: Objective
    rollouts: list[Rollout]
    seconds: dict[str, float]
    """Of each part's start."""
    batches: list[ScoredBatch] = field(default_factory=list)

    def score(self) -> None:
        """The teacher phase."""
        members = range(len(self.rollouts))
        batches = micro_batches(self.rollouts, members, self.config, self.distributed)
        self.batches = [
            ScoredBatch(micro_batch=batch, scores=scores, objective=self.objective)
            for batch, scores in zip(batches, self.teacher.score(batches), strict=True)
        ]

    def update(self) -> dict[str, float]:
        """The update phase; the step's metrics and its loss."""
        loss = 0.0
        for batch in self.batches:
            stats = self.student.forward_backward(batch, last=batch is self.batches[-1])
            weights_N = batch.micro_batch.tokens.weights_N
            loss += float(stats.stats_SN[0].double() @ weights_N.double())
        return self.student.step() | {"loss": loss}


def build_parts(
    *overrides: str, sequences: int, prompt: int, response: int, teacher: str = "teacher"
) -> Parts:
    """Everything loaded, and `sequences` random sequences of `prompt` and `response` tokens."""
    config = flagship_config("train.steps=100", "train.epochs=null", *overrides)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": DEVICE}
    distributed = Distributed(0, 1, DEVICE, WORK / f"rendezvous{time.time_ns()}")
    seconds["ranks"] = lap(start)
    start = time.perf_counter()
    loaded = LocalTeacher(
        str(folder() / teacher), dtype(), distributed.device,
        shard=config.teacher.shard, offload=config.teacher.offload == "cpu",
    )  # fmt: skip
    seconds["load_teacher"] = lap(start)
    start = time.perf_counter()
    student = Student(config.student.model, dtype(), config, 100)
    seconds["load_student"] = lap(start)
    torch.manual_seed(0)
    return Parts(
        config=config,
        distributed=distributed,
        teacher=loaded,
        student=student,
        objective=make_objective(config, NUM_TOKENS),
        rollouts=weighted(_random_rollouts(sequences, prompt, response), config),
        seconds=seconds,
    )


def _random_rollouts(sequences: int, prompt: int, response: int) -> list[Rollout]:
    ids = np.random.default_rng(0).integers(10, NUM_TOKENS, (sequences, prompt + response))
    logprobs = np.zeros(response, np.float32)
    return [
        Rollout(
            prompt=Prompt(f"row/{i}", row[:prompt].tolist(), "", None), group=i, sample=0, weight_version=0,
            response_ids=row[prompt:].astype(np.int32), response_logprobs=logprobs, finish_reason="length",
        )
        for i, row in enumerate(ids)
    ]  # fmt: skip


def stage_b3() -> dict[str, Any]:
    """Teacher and update phase of the flagship shapes on 256 sequences of 384 tokens; the weight gather."""
    sequences, prompt, response = (8, 6, 10) if TINY else (256, 128, 256)
    micro_batch = f"train.micro_batch_tokens={64 if TINY else 16384}"
    parts = build_parts(micro_batch, sequences=sequences, prompt=prompt, response=response)
    found: dict[str, Any] = {"seconds": parts.seconds, "model_gib": peak_gib()}
    num_tokens = sequences * (prompt + response)
    student, teacher = SHAPES["student"], SHAPES["teacher"]
    heads = 6 * student["hidden_size"] + 2 * teacher["hidden_size"]
    flops = {
        "teacher": 2 * _layer_parameters(teacher) * num_tokens,
        "update": 6 * _layer_parameters(student) * num_tokens + heads * NUM_TOKENS * sequences * response,
    }
    for phase, run in (("teacher", parts.score), ("update", parts.update)):
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        seconds = timed(run, 2)
        found[phase] = {
            "s": round(seconds, 3),
            "tokens_per_s": round(num_tokens / seconds),
            "tflops": round(flops[phase] / seconds / 1e12, 1),
            "mfu_of_989": round(flops[phase] / seconds / PEAK_FLOPS, 3),
            "peak_gib": peak_gib(),
        }
    return found | {"metrics": parts.update(), "write_weights_s": _write_weights_s(parts)}


def _layer_parameters(shape: dict[str, Any]) -> int:
    """Of all layers: each multiplies every token (2 FLOPs a parameter)."""
    hidden = shape["hidden_size"]
    key_value = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    attention = 2 * hidden**2 + 2 * hidden * key_value
    return shape["num_hidden_layers"] * (attention + 3 * hidden * shape["intermediate_size"])


def _write_weights_s(parts: Parts) -> float:
    target = Path("/dev/shm/distillctl_gpu_check_push")
    target.mkdir(exist_ok=True)
    seconds = timed(WeightWriter(parts.student, target, is_main=True).write)
    shutil.rmtree(target)
    return round(seconds, 3)


def stage_b4() -> dict[str, Any]:
    """Every setting's first gradient norm, which must not depend on it.

    Several run at a time, each in a process of its own, because DeepSpeed starts once.
    """
    names = list(CASES) if ON_GPU else CPU_CASES
    with ThreadPoolExecutor(6 if ON_GPU else 1) as pool:
        found: dict[str, Any] = dict(zip(names, pool.map(_run_case, names), strict=True))
    norms = [result["grad_norm"] for result in found.values() if isinstance(result, dict)]
    agree = len(norms) == len(names) and max(norms) - min(norms) < 0.02 * max(norms)
    return found | {"ok": agree}


def _run_case(name: str) -> dict[str, Any] | str:
    """What the case printed, or the end of its error."""
    environment = dict(os.environ) | ({"GPU_CHECK_FLOAT32": "1"} if name == "float32" else {})
    done = subprocess.run(
        [PYTHON, CHECK, "--case", name], capture_output=True, text=True, check=False, env=environment
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"s"')]
    return json.loads(lines[-1]) if lines else (done.stderr or done.stdout)[-400:]


def run_case(name: str) -> None:
    """One process of b4: two updates; prints a line of JSON."""
    sequences, prompt, response = (4, 6, 10) if TINY else (64, 64, 64)
    overrides = ["train.micro_batch_tokens=65536", *CASES[name]]
    if TINY:
        overrides = [override.replace("=1024", "=20") for override in overrides]
    parts = build_parts(*overrides, sequences=sequences, prompt=prompt, response=response, teacher="other")
    wait_for_device()
    start = time.perf_counter()
    parts.score()
    updates = [parts.update(), parts.update()]
    wait_for_device()
    found = {
        "s": round(time.perf_counter() - start, 2),
        "grad_norm": round(updates[0]["actor/grad_norm"], 6),
        "loss": [round(update["loss"], 6) for update in updates],
        "peak_gib": peak_gib(),
    }
    print(json.dumps(found), flush=True)
