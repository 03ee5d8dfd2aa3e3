"""Teacher and update phase against plain torch on the same tokens, and what ZeRO-3 costs; measured in turns.

    distillctl prep arith && python tests/benchmarks/random_models.py models
    python tests/benchmarks/train_phases.py models/student models/teacher [--prompts data/arith/train.parquet]
        [--batch 16] [--tokens 128] [--micro-batch-tokens 1024] [--ragged] [--rounds 5]

The batch: the first prompts and random responses of --tokens tokens, with --ragged of 1 to --tokens. The
ways, each in a process of its own, all in float32 with every core:

    zero3   our update: ZeRO-3 on one rank, micro-batches, chunked loss, clipping and AdamW
    torch   the same without DeepSpeed
    dense   one unpadded sequence after another, whole logits of the response, torch's own KL; no optimizer
    score   our teacher phase
    forward the teacher's backbone alone, one unpadded sequence after another

Prints seconds (median over the rounds), peak memory, and ratios with their range over the rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import MethodType

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillctl.config.loading import load_config
from distillctl.data.prompts import render
from distillctl.data.read import read_rows
from distillctl.data_types import Rollout
from distillctl.host.hardware import cpu_runtime, cpus
from distillctl.models.load import load_model
from distillctl.teacher.local import LocalTeacher
from distillctl.train import student
from distillctl.train.batch import micro_batches, weighted
from distillctl.train.distributed import Distributed
from distillctl.train.objectives import make_objective
from distillctl.train.training_batch import ScoredBatch

LR, CLIP = 1e-5, 1.0


def make_rollouts(tokenizer, config, count, num_tokens, *, ragged):
    rows = read_rows(Path(config.data.train_files[0]))[:count]
    prompts, _ = render(rows, tokenizer, config.data.max_prompt_length)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, num_tokens, count) if ragged else [num_tokens] * count
    ids = [rng.integers(10, len(tokenizer), n).astype(np.int32) for n in lengths]
    return [
        Rollout(
            prompt=prompt,
            group=0,
            sample=0,
            response_ids=chosen,
            response_logprobs=np.zeros(len(chosen), np.float32),
            finish_reason="length",
            weight_version=0,
        )
        for prompt, chosen in zip(prompts, ids, strict=True)
    ]


class Way:
    """What all ways share: the models, the batch, its micro-batches and weights."""

    def __init__(self, settings):
        torch.manual_seed(0)
        self.config = load_config(Path(settings["config"]))
        tokenizer = AutoTokenizer.from_pretrained(self.config.student.model)
        rollouts = make_rollouts(
            tokenizer, self.config, settings["batch"], settings["tokens"], ragged=settings["ragged"]
        )
        self.rollouts = weighted(rollouts, self.config)
        self.objective = make_objective(self.config, len(tokenizer))
        self.teacher = LocalTeacher(self.config.teacher.model, torch.float32, torch.device("cpu"))
        distributed = Distributed(0, 1, "cpu", Path(settings["rendezvous"]))
        self.batches = micro_batches(self.rollouts, range(len(self.rollouts)), self.config, distributed)
        self.num_tokens = sum(rollout.length for rollout in self.rollouts)
        self.num_computed = sum(len(batch.input_ids_T) for batch in self.batches)
        self.sequences = [
            torch.tensor([[*r.prompt.token_ids, *r.response_ids.tolist()]]) for r in self.rollouts
        ]
        self.prepare()

    def prepare(self):
        """What a way needs besides."""


class Update(Way):
    def prepare(self):
        self.scored = [
            ScoredBatch(micro_batch=batch, scores=scores, objective=self.objective)
            for batch, scores in zip(self.batches, self.teacher.score(self.batches), strict=True)
        ]
        self.load_student()

    def load_student(self):
        self.student = student.Student(self.config.student.model, torch.float32, self.config, 1000)

    def run(self):
        for batch in self.scored:
            self.forward_backward(batch)
        self.step()

    def forward_backward(self, batch):
        self.student.forward_backward(batch, last=batch is self.scored[-1])

    def step(self):
        self.student.step()


class Torch(Update):
    def load_student(self):
        self.model = load_model(self.config.student.model, torch.float32)
        self.model.forward = MethodType(student._forward, self.model)
        self.model.lm_head.forward = MethodType(student._head_forward, self.model.lm_head)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR)

    def forward_backward(self, batch):
        loss, _ = self.model(*batch.micro_batch.inputs, compute=batch.loss)
        loss.backward()

    def step(self):
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()


class DenseLoss(Way):
    def prepare(self):
        self.model = AutoModelForCausalLM.from_pretrained(self.config.student.model, dtype=torch.float32)
        self.hidden = self.teacher.hidden_states(
            [
                (ids[0], ids.shape[1:], torch.arange(len(r.prompt.token_ids) - 1, r.length - 1))
                for r, ids in zip(self.rollouts, self.sequences, strict=True)
            ]
        )

    def run(self):
        total = sum(len(r.response_ids) for r in self.rollouts)
        head = self.teacher.head_VG
        for ids, hidden in zip(self.sequences, self.hidden, strict=True):
            keep = len(hidden) + 1
            logits = self.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0, :-1]
            log_q, log_p = logits.log_softmax(-1), (hidden @ head.T).log_softmax(-1)
            (F.kl_div(log_p, log_q, reduction="sum", log_target=True) / total).backward()
        self.model.zero_grad()


class Score(Way):
    def run(self):
        self.teacher.score(self.batches)


class Forward(Way):
    def prepare(self):
        model = AutoModelForCausalLM.from_pretrained(self.config.teacher.model, dtype=torch.float32)
        self.model = model.base_model

    @torch.no_grad()
    def run(self):
        for ids in self.sequences:
            self.model(input_ids=ids, use_cache=False)


WAYS = {"zero3": Update, "torch": Torch, "dense": DenseLoss, "score": Score, "forward": Forward}


def child(settings):
    """One way: a run per line of stdin, answered with its seconds."""
    settings = json.loads(settings)
    way = WAYS[settings["way"]](settings)
    way.run()  # warm-up: memory, compiled products
    print("ready", way.num_tokens, way.num_computed, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        way.run()
        print("result", time.perf_counter() - start, peak_bytes(), flush=True)


def peak_bytes():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) << 10


def start(way, config, scratch, args):
    settings = {"way": way, "config": str(config), "rendezvous": str(scratch / way), "batch": args.batch,
                "tokens": args.tokens, "ragged": args.ragged}  # fmt: skip
    code = f"import train_phases as t; t.child({json.dumps(settings)!r})"
    env = {**os.environ, **cpu_runtime(), "RANK": "0",
           "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu",
           "OMP_NUM_THREADS": str(len(cpus()))}  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=env, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=None if args.verbose else subprocess.DEVNULL,
    )  # fmt: skip
    return process, answer(process, "ready")


def answer(process, word):
    for line in process.stdout:
        if line.startswith(word):
            return [float(value) for value in line.split()[1:]]
    sys.exit("a process ended early; --verbose shows why")


def write_config(path, args):
    data = {"train_files": [args.prompts], "val_files": [args.prompts], "max_prompt_length": 384,
            "max_response_length": args.tokens, "train_batch_size": args.batch}  # fmt: skip
    config = {"student": {"model": args.student}, "teacher": {"model": args.teacher}, "data": data,
              "train": {"steps": 1000, "micro_batch_tokens": args.micro_batch_tokens},
              "optim": {"lr": LR, "clip_grad": CLIP, "schedule": "constant"}}  # fmt: skip
    path.write_text(yaml.safe_dump(config))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("student", type=os.path.abspath)
    parser.add_argument("teacher", type=os.path.abspath)
    parser.add_argument("--prompts", default="data/arith/train.parquet", type=os.path.abspath)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--micro-batch-tokens", type=int, default=1024)
    parser.add_argument("--ragged", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        write_config(scratch / "config.yaml", args)
        children, sizes = {}, {}
        for way in args.ways:
            children[way], sizes[way] = start(way, scratch / "config.yaml", scratch, args)
        results = {way: [] for way in args.ways}
        for _ in range(args.rounds):
            for way, process in children.items():
                process.stdin.write("run\n")
                process.stdin.flush()
                results[way].append(answer(process, "result"))
        for process in children.values():
            process.stdin.close()
            process.wait()
    real, computed = next(iter(sizes.values()))
    print(f"{real:.0f} real tokens, {100 * real / computed:.1f} % of those computed")
    for way, found in results.items():
        seconds = [s for s, _ in found]
        print(f"{way:8} {median(seconds):7.3f} s  {real / median(seconds):7.0f} tok/s  "
              f"peak {found[-1][1] / 2**30:.2f} GiB")  # fmt: skip
    for ours, other in (("zero3", "dense"), ("zero3", "torch"), ("score", "forward")):
        if {ours, other} <= results.keys():
            pairs = zip(results[ours], results[other], strict=True)
            ratios = sorted(b[0] / a[0] for a, b in pairs)
            print(f"{ours} against {other}: {median(ratios):.2f} x its speed "
                  f"({ratios[0]:.2f} - {ratios[-1]:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
