"""How a step's time grows with batch, response length, vocabulary and layers: a table with slopes.

    python tests/benchmarks/scaling.py [--only batch length vocabulary layers] [--steps 4]

Every point is a run of `distillctl train` on a random student and teacher (Qwen2, 128 hidden units; 4 layers
and 8,192 tokens of vocabulary unless these are what grows), with prompts of arithmetic and responses of just
the given length. Seconds are medians over the steps but the first and the last. The slope beside a point is
log(time / time before) / log(size / size before): 1 is linear, 0 constant.
"""

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from random_models import make_model
from transformers import Qwen2Config

from distillctl.run.events import read_events

SIZES = {
    "batch": (8, 32, 128, 256),
    "length": (64, 256, 1024),
    "vocabulary": (2048, 16384, 151_936),
    "layers": (2, 4, 8),
}
DEFAULTS = {"batch": 32, "length": 64, "vocabulary": 8192, "layers": 4}
PHASES = ("rollout", "teacher", "update", "sync", "step")
HIDDEN, HEADS, KV_HEADS, INTERMEDIATE = 128, 4, 2, 384


def shape(vocabulary, layers):
    return Qwen2Config(
        vocab_size=vocabulary, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip


def measure(scratch, number, point, num_steps):
    models = [scratch / f"{name}_{number}" for name in ("student", "teacher")]
    for seed, model in enumerate(models):
        make_model(model, shape(point["vocabulary"], point["layers"]), seed)
    run = scratch / f"run_{number}"
    overrides = {
        "student.model": models[0], "teacher.model": models[1], "data.train_batch_size": point["batch"],
        "data.max_response_length": point["length"], "train.steps": num_steps, "eval.every": 0,
        "samples.every": 1_000_000, "optim.lr": 1e-6, "optim.warmup_steps": 0,
        "optim.schedule": "constant", "train.micro_batch_tokens": 4096,
    }  # fmt: skip
    settings = [f"{key}={value}" for key, value in overrides.items()]
    preset = ["train", "--preset", "tiny-from-small-arith", "--run-dir", run, "--display", "quiet"]
    command = [sys.executable, "-m", "distillctl", *preset, *settings]
    subprocess.run([str(part) for part in command], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    steps = [e["metrics"] for e in read_events(run / "events.jsonl") if e["kind"] == "step"][1:-1]
    return {phase: median(step[f"timing_s/{phase}"] for step in steps) for phase in PHASES}


def slope(seconds, before, size, size_before):
    return math.log(seconds / before) / math.log(size / size_before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    print("| | " + " | ".join(f"{phase} s (slope)" for phase in PHASES) + " |")
    print("|---|" + "---|" * len(PHASES))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        prep = [sys.executable, "-m", "distillctl", "prep", "arith"]
        subprocess.run(prep, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        for name in args.only:
            before = None
            for size in SIZES[name]:
                found = measure(scratch, f"{name}_{size}", {**DEFAULTS, name: size}, args.steps)
                cells = [f"{found[phase]:.2f}" for phase in PHASES]
                if before:
                    cells = [
                        f"{cell} ({slope(found[phase], before[1][phase], size, before[0]):.2f})"
                        for cell, phase in zip(cells, PHASES, strict=True)
                    ]
                print(f"| {name} {size:,} | " + " | ".join(cells) + " |", flush=True)
                before = size, found


if __name__ == "__main__":
    main()
