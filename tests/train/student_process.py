"""Run by test_student.py in processes of its own: two optimizer steps on fixed rollouts, without an engine.

    python student_process.py OUT STAGE:MICRO_BATCH_TOKENS:CHUNK:KIND:AGGREGATE[:OPTION] ...

or `self-test` or `precision` instead of settings, once per rank (RANK, WORLD_SIZE). Rank 0 writes
OUT/<index>.safetensors (the weights after two steps, and under `grad.` the gradient of the first) and
OUT/losses.json (one list per setting). Options: `untied`, the student is OUT/untied, as `save_untied` leaves
it; `checkpointed`, its activations are; `looked`, what is seen of the first rollouts of the first step is
written under `look.`.
"""

import importlib.util
import json
import math
import os
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from distillctl.config.loading import load_preset
from distillctl.data_types import Prompt, Rollout
from distillctl.errors import ConfigError, RunFailed
from distillctl.models.locate import find_model
from distillctl.objective.aggregate import token_weights
from distillctl.objective.inputs import Objective
from distillctl.teacher.local import LocalTeacher
from distillctl.train import self_checks
from distillctl.train.batch import collate, plan
from distillctl.train.distributed import Distributed
from distillctl.train.student import Student
from distillctl.train.token_details import DetailTable
from distillctl.train.training_batch import ScoredBatch
from distillctl.train.weight_sync import gathered

LR, BETAS, CLIP, VOCAB_SIZE, NUM_STEPS, ENTROPY = 1e-3, (0.9, 0.95), 1.0, 465, 2, 0.1
NUM_DETAILED = 5
DECAY_LR, WEIGHT_DECAY = 0.05, 4.0


def make_rollouts(seed):
    rng = np.random.default_rng(seed)
    rollouts = []
    for index in range(9):
        prompt = Prompt(f"train/{index}", rng.integers(5, 400, rng.integers(1, 20)).tolist(), "", None)
        ids = rng.integers(5, 400, rng.integers(1, 25)).astype(np.int32)
        logp = rng.normal(-6, 0.1, len(ids)).astype(np.float32)
        rollouts.append(
            Rollout(
                prompt=prompt,
                group=0,
                sample=0,
                response_ids=ids,
                response_logprobs=logp,
                finish_reason="stop",
                weight_version=0,
            )
        )
    return rollouts


def save_untied(folder):
    """The tiny student with a head of its own, which is not its embedding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        find_model("builtin:tiny-student", "").path, dtype=torch.float32
    )
    model.config.tie_word_embeddings = False
    weight = model.lm_head.weight.detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    model.lm_head.weight = torch.nn.Parameter(weight + 0.1 * weight.std() * noise)
    model.save_pretrained(folder)


def train(distributed, student_path, stage, micro_batch_tokens, chunk_size, kind, aggregate, options):
    from deepspeed.utils import safe_get_full_grad

    settings = {"zero.stage": stage, "optim.lr": LR, "optim.betas": list(BETAS), "optim.warmup_steps": 0,
                "optim.schedule": "constant", "optim.clip_grad": CLIP,
                "student.gradient_checkpointing": "checkpointed" in options}  # fmt: skip
    overrides = [f"{key}={value}" for key, value in settings.items()]
    config = load_preset("tiny-from-small-arith", overrides)
    objective = Objective(
        vocab_size=VOCAB_SIZE, kind=kind.removesuffix("_pg"), topk=4, entropy_coeff=ENTROPY,
        chunk_size=chunk_size, policy_gradient=kind.endswith("_pg"),
    )  # fmt: skip
    teacher = LocalTeacher(
        str(find_model("builtin:tiny-teacher", "").path), torch.float32, distributed.device, shard=stage == 3
    )
    student = Student(student_path, torch.float32, config, NUM_STEPS)
    losses, saved = [], {}
    for step in range(NUM_STEPS):
        rollouts = make_rollouts(step)
        weights = token_weights(aggregate, [len(r.response_ids) for r in rollouts], 7.0)
        rollouts = [replace(r, token_weight=w) for r, w in zip(rollouts, weights, strict=True)]
        shares = plan([r.length for r in rollouts], micro_batch_tokens, distributed.world_size)[
            distributed.rank
        ]
        total = torch.zeros(1)
        table = DetailTable(rollouts[: NUM_DETAILED if "detailed" in options else 0], VOCAB_SIZE)
        micro = [collate(rollouts, members, distributed.device) for members in shares]
        for batch, scores in zip(micro, teacher.score(micro), strict=True):
            scored = ScoredBatch(
                micro_batch=batch, scores=scores, objective=objective,
                detailed_rows=table.wanted(batch), num_alternatives=table.num_alternatives,
            )  # fmt: skip
            stats, found = student.forward_backward(scored, last=batch is micro[-1])
            if found is not None:
                table.add(batch, found)
            total += stats[0] @ batch.tokens.weights_N
        if step == 0:
            named = student.model.named_parameters()
            saved = {f"grad.{name}": safe_get_full_grad(parameter).clone() for name, parameter in named}
            for index, details in enumerate(table.collect(distributed)):
                values = {
                    field.name: torch.from_numpy(getattr(details, field.name)) for field in fields(details)
                }
                saved |= {f"details.{index}.{name}": value for name, value in values.items()}
        student.step()
        losses.append(float(distributed.sum(total)))
    weights = {n: t.clone() for bucket in gathered(student.model, 50_000) for n, t in bucket.items()}
    return losses, {**weights, **saved}


def self_tests(out):
    """What the preflight says of the tiny student against itself, against another model's files and some of
    NaN; and of teachers: another model, itself, one with a head of zeros, whose distribution is uniform, and
    one of NaN.
    """
    student_path, other = (
        str(find_model(f"builtin:{name}", "").path) for name in ("tiny-student", "tiny-teacher")
    )
    student = Student(student_path, torch.float32, load_preset("tiny-from-small-arith"), num_steps=NUM_STEPS)
    batch = self_checks.probe([rollout.prompt for rollout in make_rollouts(0)], torch.device("cpu"))
    said, (zeros, nan) = [], spoilt(out)
    for path in (student_path, other, str(nan)):
        try:
            said.append(self_checks.self_test(student, path, torch.float32, batch, VOCAB_SIZE).detail)
        except (RunFailed, ConfigError) as error:
            said.append(error.message)
    return [*said, *(teacher_checks(student, batch, path) for path in (other, student_path, zeros, nan))]


def teacher_checks(student, batch, path):
    teacher = LocalTeacher(str(path), torch.float32, torch.device("cpu"))
    try:
        found = self_checks.teacher_checks("default", teacher, student, torch.float32, batch, VOCAB_SIZE)
    except ConfigError as error:
        return error.message
    return [(check.level, check.detail) for check in found]


def spoilt(out):
    """The tiny teacher with embeddings, which are its head, of zeros and of NaN."""
    for value in (0.0, math.nan):
        path = shutil.copytree(find_model("builtin:tiny-teacher", "").path, out / f"teacher_{value}")
        tensors = load_file(path / "model.safetensors")
        tensors["model.embed_tokens.weight"].fill_(value)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        yield path


def first_update(student, batch, teacher, objective):
    """The weights after one step."""
    (scores,) = teacher.score([batch])
    scored = ScoredBatch(micro_batch=batch, scores=scores, objective=objective)
    student.forward_backward(scored, last=True)
    student.step()
    return {name: t.float().clone() for bucket in gathered(student.model) for name, t in bucket.items()}


def precision(out):
    """Of every stage and dtype the weights after one step with weight decay, as OUT/DTYPE_STAGE.safetensors;
    of bfloat16 the buffers too, and the KL from itself at each of 1,024 tokens by whom the teacher is."""
    path = str(find_model("builtin:tiny-student", "").path)
    settings = {"optim.lr": DECAY_LR, "optim.weight_decay": WEIGHT_DECAY, "optim.betas": list(BETAS),
                "optim.warmup_steps": 0, "optim.clip_grad": 1e9}  # fmt: skip
    cpu, bfloat16 = torch.device("cpu"), torch.bfloat16
    ids = np.random.default_rng(0).integers(5, 400, 1024).astype(np.int32)
    long = Rollout(
        prompt=Prompt("train/0", [5], "", None),
        group=0,
        sample=0,
        response_ids=ids,
        response_logprobs=np.zeros(1024, np.float32),
        finish_reason="stop",
        weight_version=0,
    )
    batch = collate([long], [0], cpu)  # weights of 1: gradients beside which AdamW's epsilon is nothing
    objective = Objective(vocab_size=VOCAB_SIZE, kind="reverse_kl", chunk_size=256)
    teachers = {
        "copy": LocalTeacher(path, bfloat16, cpu),
        "sharded": LocalTeacher(path, bfloat16, cpu, shard=True),
    }
    if importlib.util.find_spec("bitsandbytes") is not None:
        teachers["int8"] = LocalTeacher(path, bfloat16, cpu, quantization="int8")
    other = LocalTeacher(str(find_model("builtin:tiny-teacher", "").path), torch.float32, cpu)
    other_bfloat16 = LocalTeacher(str(find_model("builtin:tiny-teacher", "").path), bfloat16, cpu)
    found = {f"teacher.{name}.{n}": b.clone() for name, teacher in teachers.items()
             for n, b in teacher._backbone.named_buffers()}  # fmt: skip
    for stage in range(4):
        config = load_preset(
            "tiny-from-small-arith", [f"{k}={v}" for k, v in {**settings, "zero.stage": stage}.items()]
        )
        student = Student(path, bfloat16, config, 10)
        found |= {f"student.{stage}.{name}": b.clone() for name, b in student.model.named_buffers()}
        for name in ("copy", "sharded"):
            (scores,) = teachers[name].score([batch])
            scored = ScoredBatch(micro_batch=batch, scores=scores, objective=objective)
            stats = student.statistics(scored)
            found[f"kl.{stage}.{name}"] = stats["kl/reverse"].clone()
        save_file(
            first_update(student, batch, other_bfloat16, objective),
            out / f"bfloat16_{stage}.safetensors",
        )
        student = Student(path, torch.float32, config, 10)
        save_file(first_update(student, batch, other, objective), out / f"float32_{stage}.safetensors")
    save_file({name: value.contiguous() for name, value in found.items()}, out / "found.safetensors")


def main():
    out = Path(sys.argv[1])
    distributed = Distributed(
        int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), "cpu", out / "rendezvous"
    )
    losses = []
    if sys.argv[2:] == ["self-test"]:
        (out / "losses.json").write_text(json.dumps(self_tests(out)))
        return
    if sys.argv[2:] == ["precision"]:
        precision(out)
        return
    for index, setting in enumerate(sys.argv[2:]):
        stage, tokens, chunk, kind, aggregate, *options = setting.split(":")
        student = str(out / "untied" if "untied" in options else find_model("builtin:tiny-student", "").path)
        values, weights = train(
            distributed, student, int(stage), int(tokens), int(chunk), kind, aggregate, options
        )
        losses.append(values)
        if distributed.is_main:
            save_file(weights, out / f"{index}.safetensors")
    if distributed.is_main:
        (out / "losses.json").write_text(json.dumps(losses))
    distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
