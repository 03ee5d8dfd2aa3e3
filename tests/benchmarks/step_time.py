"""A training step of distillctl against TRL's DistillationTrainer: same models, prompts, lengths, cores.

    pip install -e '.[cpu,trl]'        # or trl==1.16.0 in an environment of its own: --trl-python PATH
    python tests/benchmarks/step_time.py [--student DIR --teacher DIR] [--gsm8k DIR] [--trl-python PYTHON]
        [--tokens 128] [--batch 16] [--steps 3] [--rounds 1] [--micro-batch-tokens 1024] [--natural] [--hf]

Without models it runs on random weights in the shapes of the SmolLM2 pair (see `random_models.py`), without
--gsm8k, a folder with train.jsonl and test.jsonl, on prompts of `prep arith`. Both train in float32 with all
cores, reverse KL at temperature 1, AdamW, clipping, no dropout; TRL (`trl_step_time.py`) generates with
transformers, because it cannot use vLLM on a CPU. Every response has exactly --tokens tokens; --natural lets
them end, which only a trained student does. First steps are left out, and of ours the last, which looks at
tokens for the samples file. With --hf transformers' `generate` is timed on the same prompts, too, and stands
in for our rollout phase, so that what engine and trainer gain is separate.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

import torch
import yaml
from random_models import make_pair
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillctl.data.prompts import render
from distillctl.data.read import read_rows
from distillctl.host.hardware import cpus
from distillctl.run.events import read_events

MAX_PROMPT = 384
TRL_SCRIPT = Path(__file__).parent / "trl_step_time.py"
PHASES = ("rollout", "teacher", "update", "sync", "step")


def endless(model, folder):
    """A copy of a model directory whose end-of-sequence token is one that it never writes."""
    shutil.copytree(model, folder, symlinks=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    name, number = max(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    for file, value in (
        ("config.json", number), ("generation_config.json", number), ("tokenizer_config.json", name),
    ):  # fmt: skip
        tree = json.loads((folder / file).read_text())
        tree["eos_token" if file.startswith("tokenizer") else "eos_token_id"] = value
        (folder / file).write_text(json.dumps(tree))
    return folder


def command(*arguments, **options):
    done = subprocess.run(list(map(str, arguments)), text=True, capture_output=True, check=False, **options)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return done.stdout


def prepare(args, scratch):
    """Our configuration; prompts for TRL in the order and the wording of ours."""
    if not (args.student and args.teacher):
        pair = make_pair(scratch / "models")
        args.student = args.student or str(pair["student"])
        args.teacher = args.teacher or str(pair["teacher"])
    count = args.batch * (args.steps + 2)
    source = ["prep", "gsm8k", "--source", args.gsm8k] if args.gsm8k else ["prep", "arith"]
    command(sys.executable, "-m", "distillctl", *source, "--limit", count, "--out", "data", cwd=scratch)
    with (scratch / "prompts.jsonl").open("w") as file:
        for row in read_rows(scratch / "data/train.parquet"):
            file.write(json.dumps({"prompt": row.messages}) + "\n")
    student = args.student if args.natural else str(endless(args.student, scratch / "student"))
    data = {"train_files": ["data/train.parquet"], "val_files": ["data/test.parquet"],
            "max_prompt_length": MAX_PROMPT, "max_response_length": args.tokens,
            "train_batch_size": args.batch}  # fmt: skip
    config = {"student": {"model": student}, "teacher": {"model": args.teacher}, "data": data,
              "optim": {"lr": 1e-5, "schedule": "constant"}, "samples": {"every": 1_000_000},
              "train": {"steps": args.steps + 2, "micro_batch_tokens": args.micro_batch_tokens}}  # fmt: skip
    (scratch / "config.yaml").write_text(yaml.safe_dump(config))


def ours(scratch, number):
    """Metrics of the steps that count, and the peak resident memory of the rank."""
    run = scratch / f"run_{number}"
    arguments = ["-m", "distillctl", "train", "--config", scratch / "config.yaml", "--run-dir", run]
    peak = 0
    with subprocess.Popen([sys.executable, *arguments, "--display", "quiet"], cwd=scratch) as process:
        while process.poll() is None:
            time.sleep(0.5)
            peak = max(peak, rank_peak_bytes())
    if process.returncode:
        sys.exit("our run failed")
    events = read_events(run / "events.jsonl")
    return [event["metrics"] for event in events if event["kind"] == "step"][1:-1], peak


def rank_peak_bytes():
    """VmHWM of the process that trains; 0 when there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"distillctl.train.worker" in (folder / "cmdline").read_bytes():
                lines = (folder / "status").read_text().splitlines()
                return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
        except OSError:  # it has ended
            continue
    return 0


def trl(args, scratch):
    env = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false",
           "OMP_NUM_THREADS": str(len(cpus()))}  # fmt: skip
    size = ["--tokens", args.tokens, "--batch", args.batch // 2, "--accumulate", 2, "--steps", args.steps + 1]
    natural = ["--natural"] if args.natural else []
    out = command(
        args.trl_python, TRL_SCRIPT, args.student, args.teacher, scratch / "prompts.jsonl", *size, *natural,
        env={**os.environ, **env},
    )  # fmt: skip
    return json.loads(out.splitlines()[-1])


@torch.no_grad()
def hf_generate(args, scratch):
    """Seconds of one batch."""
    config = yaml.safe_load((scratch / "config.yaml").read_text())
    student = config["student"]["model"]
    tokenizer = AutoTokenizer.from_pretrained(student, padding_side="left")
    rows = read_rows(scratch / "data/train.parquet")[: args.batch]
    prompts, _ = render(rows, tokenizer, MAX_PROMPT)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    inputs = tokenizer.pad({"input_ids": [prompt.token_ids for prompt in prompts]}, return_tensors="pt")
    start = time.perf_counter()
    model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=args.tokens)
    return time.perf_counter() - start


def report(args, steps, peak, peers, generated):
    seconds = {phase: median(step[f"timing_s/{phase}"] for step in steps) for phase in PHASES}
    lengths = mean(step["response_length/mean"] for step in steps)
    their_s = median(s for peer in peers for s in peer["step_s"][1:])
    their_length = mean(length for peer in peers for length in peer["lengths"][1:])
    rest = seconds["step"] - sum(seconds[phase] for phase in PHASES[:3])
    print(f"distillctl {seconds['step']:.1f} s a step of {args.batch} x {lengths:.0f} tokens: "
          + ", ".join(f"{phase} {seconds[phase]:.1f}" for phase in PHASES[:3])
          + f", all else {rest:.1f} s ({100 * rest / seconds['step']:.1f} %)")  # fmt: skip
    print(f"TRL {their_s:.1f} s a step of {args.batch} x {their_length:.0f} tokens")
    print(f"distillctl is {their_s / seconds['step']:.2f} x as fast")
    print(f"peak resident memory of the trainer: {peak / 2**30:.2f} GiB, "
          f"{peak / max(peer['peak_rss_bytes'] for peer in peers):.2f} of TRL's peak")  # fmt: skip
    if generated:
        with_hf = seconds["step"] - seconds["rollout"] + median(generated)
        print(f"with transformers' generate ({median(generated):.1f} s) as its rollout: {with_hf:.1f} s, "
              f"{their_s / with_hf:.2f} x as fast as TRL")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("--student", "--teacher", "--gsm8k"):
        parser.add_argument(name, type=os.path.abspath)
    parser.add_argument("--trl-python", type=os.path.abspath, default=sys.executable)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--micro-batch-tokens", type=int, default=1024)
    parser.add_argument("--natural", action="store_true")
    parser.add_argument("--hf", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        prepare(args, scratch)
        steps, peak, peers, generated = [], 0, [], []
        for number in range(args.rounds):
            found, reached = ours(scratch, number)
            steps, peak = steps + found, max(peak, reached)
            if args.hf:
                generated.append(hf_generate(args, scratch))
            peers.append(trl(args, scratch))
        report(args, steps, peak, peers, generated)


if __name__ == "__main__":
    main()
