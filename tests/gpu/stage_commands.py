"""Stages e1, r, f, e2, e3 and g: the commands on the tiny pair and on the flagship shapes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from commands import distillctl, need_data, run_facts
from random_models import FLAGSHIP, folder, need_models
from safetensors.torch import load_file
from settings import DEVICE, NEEDS_GPU, ON_GPU, TINY, WORK, llm_arguments, measure_free_memory

from distillctl.models.locate import find_model
from distillctl.rollout.start import engine_environment
from distillctl.teacher.server import server_arguments, start_server

PRESET = "tiny-from-small-arith"
STEPS, CHECKPOINT_EVERY = (20, 12) if ON_GPU else (4, 2)
SMALL = ("data.train_batch_size=8", "rollout.max_num_seqs=16", "data.max_response_length=24", "eval.limit=8")
SMALL_FLAGSHIP = ("data.train_batch_size=4", "data.max_response_length=8", "rollout.max_num_seqs=8",
                  "data.max_prompt_length=256", "train.micro_batch_tokens=600")  # fmt: skip
SERVER_TIMEOUT_S = 120
RUN_TIMEOUT_S = 100


def _train_tiny(log: str) -> None:
    distillctl(
        "train", "--preset", PRESET, "--run-dir", "tiny", f"train.device={DEVICE}", f"train.steps={STEPS}",
        f"eval.every={STEPS}", "checkpoint.keep=3", f"checkpoint.every={CHECKPOINT_EVERY}",
        *(() if ON_GPU else SMALL), log=log,
    )  # fmt: skip


def stage_e1() -> dict[str, Any]:
    """`train` on the tiny pair, with two evaluations."""
    need_data()
    shutil.rmtree(WORK / "tiny", ignore_errors=True)
    _train_tiny("e1.log")
    found = run_facts("tiny")
    return found | {"ok": found["steps"] == STEPS}


def stage_r() -> dict[str, Any]:
    """The run of e1 again from its checkpoint in the middle, as if killed after it: the same weights?"""
    last = WORK / f"tiny/checkpoints/step_{STEPS:06d}"
    before = load_file(last / "hf/model.safetensors")
    status = WORK / "tiny/status.json"
    shutil.rmtree(last)
    status.write_text(status.read_text().replace('"done"', '"running"'))
    _train_tiny("r.log")
    after = load_file(last / "hf/model.safetensors")
    largest = max(float((value.float() - before[name].float()).abs().max()) for name, value in after.items())
    return {"largest_difference": largest, "same_bit_for_bit": largest == 0.0}


def stage_f() -> dict[str, Any]:
    """`eval` of e1's checkpoint against where it started, with the KL from the teacher."""
    text = distillctl(
        "eval", "--checkpoint", "tiny", "--baseline", "builtin:tiny-student", "--teacher",
        "builtin:tiny-teacher", "--limit", 200 if ON_GPU else 16, "--out", "evaluated", log="f.log",
    )  # fmt: skip
    return {"table": [line for line in text.splitlines() if "%" in line][-4:]}


def stage_e2() -> dict[str, Any]:
    """The flagship preset on random weights, three steps, eager."""
    return _flagship("flagship", "rollout.enforce_eager=true", log="e2.log")


def stage_e3() -> dict[str, Any]:
    """The flagship preset as it stands: CUDA graphs, and vLLM's own measurement of free memory."""
    if not ON_GPU:
        return NEEDS_GPU  # the engine ends without torch.compile, which distillctl turns off on a CPU
    measure_free_memory()
    return _flagship("flagship_as_is", log="e3.log")


def _flagship(name: str, *overrides: str, log: str) -> dict[str, Any]:
    need_data()
    need_models()
    shutil.rmtree(WORK / name, ignore_errors=True)
    distillctl(
        "train", "--preset", FLAGSHIP, "--run-dir", name, 'data.train_files=["data/arith/train.parquet"]',
        'data.val_files=["data/arith/test.parquet"]', f"train.device={DEVICE}",
        f"student.model={folder() / 'student'}", f"teacher.model={folder() / 'teacher'}", "train.steps=3",
        "train.epochs=null", "eval.every=0", "checkpoint.every=0", "checkpoint.best=false",
        *(SMALL_FLAGSHIP if TINY or not ON_GPU else ()), *overrides, log=log,
    )  # fmt: skip
    found = run_facts(name)
    return found | {"ok": found["steps"] == 3}


def stage_g() -> dict[str, Any]:
    """A served teacher on the same GPU: `topk`, and `student_topk`, whose route only GPUs have."""
    if not ON_GPU:
        return NEEDS_GPU
    need_data()
    found = {}
    with _server() as socket:
        for kind in ("topk", "student_topk"):
            name = f"served_{kind}"
            shutil.rmtree(WORK / name, ignore_errors=True)
            distillctl(
                "train", "--preset", PRESET, "--run-dir", name, "train.steps=2", "train.device=cuda",
                "eval.every=0", f"loss.kind={kind}", "loss.topk=8", f"teacher.url=unix:{socket}",
                log=f"g_{kind}.log", timeout_s=RUN_TIMEOUT_S,
            )  # fmt: skip
            facts = run_facts(name)
            found[kind] = {key: facts[key] for key in ("checks", "steps", "last")}
    return found


@contextmanager
def _server() -> Iterator[Path]:
    """The socket of the tiny teacher's server."""
    socket = Path("/dev/shm/distillctl_gpu_check.sock")
    socket.unlink(missing_ok=True)
    arguments = server_arguments(
        find_model("builtin:tiny-teacher", "teacher.model").path, dtype="bfloat16", socket=socket,
        max_model_len=257, max_logprobs=64, ask_ids=True, kv_cache_bytes=None, num_gpus=1,
        gpu_memory_utilization=0.2,
    )  # fmt: skip
    if backend := llm_arguments().get("attention_backend"):
        arguments += ["--attention-backend", str(backend)]
    (WORK / "rpc").mkdir(exist_ok=True)
    log = WORK / "logs/g_server.log"
    server = start_server(arguments, engine_environment(1, [0], WORK / "rpc"), log)
    try:
        deadline = time.monotonic() + SERVER_TIMEOUT_S
        while not socket.exists() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        if not socket.exists():
            raise RuntimeError(log.read_text()[-4000:])
        yield socket
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
