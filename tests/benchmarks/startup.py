"""From the command to the first training step, against the start of vLLM alone; in turns.

    python tests/benchmarks/startup.py [STUDENT TEACHER] [--rounds 3]

The tiny pair unless others are named (`random_models.py` makes some). Ours ends with the `start` event:
engine and ranks are up, models loaded, weights proved. vLLM's ends when `LLM(...)` with the same options in
the same environment returns.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

from rollout_throughput import ask, start_plain

from distillctl.host.shared_memory import scratch_directory
from distillctl.models.locate import find_model
from distillctl.rollout.start import engine_settings
from distillctl.run.events import read_events

PROMPT, RESPONSE = 160, 96
"""Limits of both, as in the tiny preset."""


def engine_s(model):
    with scratch_directory() as scratch:
        settings = engine_settings(
            find_model(model, "STUDENT"), dtype="float32", socket=scratch / "rollout.sock",
            max_model_len=PROMPT + RESPONSE, max_num_seqs=256,
        )  # fmt: skip
        begin = time.perf_counter()
        child = start_plain(f"import rollout_throughput as b; b.plain({asdict(settings)!r}, 1, 1)", scratch)
        ask(child, "ready")
        seconds = time.perf_counter() - begin
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return seconds


def command_s(student, teacher, folder, number):
    run = Path(folder) / f"run_{number}"
    models = {name: find_model(model, name) for name, model in (("student", student), ("teacher", teacher))}
    settings = [*(f"{name}.model={path}" for name, path in models.items()), "train.steps=1", "eval.every=0",
                "optim.warmup_steps=0", f"data.max_prompt_length={PROMPT}",
                f"data.max_response_length={RESPONSE}", "data.train_batch_size=8"]  # fmt: skip
    preset = ["train", "--preset", "tiny-from-small-arith", "--run-dir", str(run), "--display", "quiet"]
    begin = time.time()
    command = [sys.executable, "-m", "distillctl", *preset, *settings]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next(event["t"] for event in read_events(run / "events.jsonl") if event["kind"] == "start") - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("student", nargs="?", default="builtin:tiny-student")
    parser.add_argument("teacher", nargs="?", default="builtin:tiny-teacher")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prep = [sys.executable, "-m", "distillctl", "prep", "arith"]
        subprocess.run(prep, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        ours, plain = [], []
        for number in range(args.rounds):
            plain.append(engine_s(args.student))
            ours.append(command_s(args.student, args.teacher, folder, number))
    ratios = sorted(a / b for a, b in zip(ours, plain, strict=True))
    print(f"vLLM alone {median(plain):.1f} s, distillctl to its first step {median(ours):.1f} s")
    print(f"ratio {median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
