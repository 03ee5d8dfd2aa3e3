"""Run by test_student.py in a process of its own: two optimizer steps on fixed rollouts, without an engine.

    python student_process.py OUT STAGE:MICRO_BATCH_TOKENS ...

Writes OUT/<index>.safetensors (the weights after two steps) and OUT/losses.json (one list per setting).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from distillctl.machine import model_path
from distillctl.objective.reverse_kl import Objective
from distillctl.presets import load_preset
from distillctl.samples import Prompt, Rollout
from distillctl.teacher.local import LocalTeacher
from distillctl.train.batch import collate, plan
from distillctl.train.ranks import Ranks
from distillctl.train.student import Student
from distillctl.train.weights import gathered

LR, BETAS, CLIP, VOCAB_SIZE, NUM_STEPS, ENTROPY = 1e-3, (0.9, 0.95), 1.0, 465, 2, 0.1


def make_rollouts(seed):
    rng = np.random.default_rng(seed)
    rollouts = []
    for index in range(9):
        prompt = Prompt(f"train/{index}", rng.integers(5, 400, rng.integers(1, 20)).tolist(), "", None)
        ids = rng.integers(5, 400, rng.integers(1, 25)).astype(np.int32)
        rollouts.append(Rollout(prompt, 0, ids, np.zeros(len(ids), np.float32), "stop", 0))
    return rollouts


def train(stage, micro_batch_tokens):
    settings = {"zero.stage": stage, "optim.lr": LR, "optim.betas": list(BETAS), "optim.warmup_steps": 0,
                "optim.schedule": "constant", "optim.clip_grad": CLIP}  # fmt: skip
    overrides = [f"{key}={value}" for key, value in settings.items()]
    config = load_preset("tiny-from-small-arith", overrides)
    objective = Objective(1.0, ENTROPY, 1.0, 16, VOCAB_SIZE)
    device = torch.device("cpu")
    teacher = LocalTeacher(
        str(model_path("builtin:tiny-teacher", "")), torch.float32, device, shard=stage == 3
    )
    student = Student(
        str(model_path("builtin:tiny-student", "")), torch.float32, config, objective, NUM_STEPS
    )
    losses = []
    for step in range(NUM_STEPS):
        rollouts = make_rollouts(step)
        num_tokens = sum(len(r.response_ids) for r in rollouts)
        (shares,) = plan([r.length for r in rollouts], micro_batch_tokens, 1)
        batches = [collate(rollouts, members, device) for members in shares]
        total = 0.0
        for batch in batches:
            with teacher.head() as head:
                loss, _ = student.forward_backward(
                    teacher.score(batch), head, 1 / num_tokens, last=batch is batches[-1]
                )
            total += loss
        student.step()
        losses.append(total / num_tokens)
    weights = {n: t.clone() for bucket in gathered(student.model, 50_000) for n, t in bucket.items()}
    return losses, weights


def main():
    out = Path(sys.argv[1])
    Ranks(0, 1, "cpu", out / "rendezvous")
    losses = []
    for index, setting in enumerate(sys.argv[2:]):
        stage, tokens = map(int, setting.split(":"))
        values, weights = train(stage, tokens)
        losses.append(values)
        save_file(weights, out / f"{index}.safetensors")
    (out / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
