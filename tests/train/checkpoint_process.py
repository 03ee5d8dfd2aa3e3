"""Run by test_checkpoint.py in processes of its own, once per rank (RANK, WORLD_SIZE): the tiny student,
saved and loaded without an engine.

    python checkpoint_process.py OUT save       one step and one skipped, then a checkpoint
    python checkpoint_process.py OUT load NAME  the newest checkpoint, then one more step
    python checkpoint_process.py OUT nan        step 2 of 3 has a NaN on the last rank; in every stage
    python checkpoint_process.py OUT fill       two checkpoints, the second on a disk that is full

`save` and `load` take overrides of the configuration after that.
Rank 0 writes what it found to OUT/NAME.json and OUT/NAME.safetensors (NAME is the command where not given,
for `nan` nan_STAGE).
"""

import hashlib
import json
import math
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from student_process import VOCAB_SIZE, make_rollouts
from transformers import AutoTokenizer

from distillctl.config.loading import load_preset
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.models.locate import find_model
from distillctl.objective.aggregate import token_weights
from distillctl.objective.inputs import Objective
from distillctl.run import checkpoints
from distillctl.teacher.local import LocalTeacher
from distillctl.train import checkpoint, rehearsal
from distillctl.train.batch import collate, plan
from distillctl.train.distributed import Distributed
from distillctl.train.student import Student
from distillctl.train.training_batch import ScoredBatch
from distillctl.train.weight_sync import gathered


class Case:
    """The parts of a training step."""

    def __init__(self, out, distributed, *overrides, stage=3, universal=False):
        self.out, self.distributed = out, distributed
        self.folder = out / "checkpoints"
        self.teacher = LocalTeacher(
            str(find_model("builtin:tiny-teacher", "").path), torch.float32, self.distributed.device
        )
        config = load_preset("tiny-from-small-arith", [f"zero.stage={stage}", *overrides])
        self.student = Student(str(given(out)), torch.float32, config, 10, universal=universal)

    def step(self, seed, *, poison=False):
        """One optimizer step on fixed rollouts; its metrics with the loss."""
        rollouts = make_rollouts(seed)
        weights = token_weights("token-mean", [len(r.response_ids) for r in rollouts], 7.0)
        rollouts = [replace(r, token_weight=w) for r, w in zip(rollouts, weights, strict=True)]
        shares = plan([r.length for r in rollouts], 100, self.distributed.world_size)[self.distributed.rank]
        micro = [collate(rollouts, members, self.distributed.device) for members in shares]
        objective, total = Objective(vocab_size=VOCAB_SIZE, kind="reverse_kl", chunk_size=64), torch.zeros(1)
        for batch, scores in zip(micro, self.teacher.score(micro), strict=True):
            if poison and self.distributed.rank == self.distributed.world_size - 1:
                batch.tokens.weights_N[0] = math.nan
            scored = ScoredBatch(micro_batch=batch, scores=scores, objective=objective)
            stats, _ = self.student.forward_backward(scored, last=batch is micro[-1])
            total += stats[0] @ batch.tokens.weights_N
        return {"loss": float(self.distributed.sum(total)), **self.student.step()}

    def weights(self):
        """Full tensors by name."""
        return {n: t.clone() for bucket in gathered(self.student.model) for n, t in bucket.items()}

    def moments(self):
        """Full optimizer moments by name."""
        from deepspeed.utils import safe_get_full_optimizer_state

        named = self.student.model.named_parameters()
        return {f"{key}.{name}": safe_get_full_optimizer_state(parameter, key).clone()
                for name, parameter in named for key in ("exp_avg", "exp_avg_sq")}  # fmt: skip

    def save(self, step):
        """A checkpoint, with guards' state in place of a run's."""
        state = {"guards": {"step": step}}
        return checkpoint.save(self.folder, step, self.student, Tokenizer(), self.distributed, state, keep=2)

    def report(self, name, found, tensors):
        """Rank 0 writes it down."""
        if self.distributed.is_main:
            save_file(
                {key: value.contiguous() for key, value in tensors.items()}, self.out / f"{name}.safetensors"
            )
            (self.out / f"{name}.json").write_text(json.dumps(found))


def given(out):
    """The tiny student with dropout in its configuration and a generation_config.json that transformers loads
    and would not save."""
    path = out / "student"
    if not path.is_dir():
        partial = shutil.copytree(find_model("builtin:tiny-student", "").path, out / f".{os.environ['RANK']}")
        config = json.loads((partial / "config.json").read_text())
        (partial / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
        (partial / "generation_config.json").write_text(GENERATION)
        with suppress(OSError):  # the other rank was faster
            partial.rename(path)
    return path


GENERATION = (
    '{"do_sample": false, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2], "of its own": [1]}\n'
)


class Tokenizer:
    """Stands in for the tokenizer, whose files do not matter here."""

    def save_pretrained(self, folder):
        (Path(folder) / "tokenizer.json").write_text("{}")


class Broken(Tokenizer):
    """One that loads and cannot be saved."""

    def save_pretrained(self, folder):
        raise NotImplementedError("this tokenizer has no save")


class Unreadable(Tokenizer):
    """One whose saved files transformers does not read back: it says so with an OSError of its own."""

    def save_pretrained(self, folder):
        raise OSError("the config file is not a valid JSON file")


def rehearse(case, distributed):
    """What is said of saves that are tried: in full, of the names alone, and with two broken tokenizers."""
    tokenizer = AutoTokenizer.from_pretrained(case.student.path, trust_remote_code=False)
    said = []
    mine = checkpoints.rehearsal_dir(case.folder) / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for attempt, limit in (
        (tokenizer, rehearsal.SMALL_BYTES),
        (tokenizer, 0),
        (Broken(), 0),
        (Unreadable(), 0),
    ):
        rehearsal.SMALL_BYTES = limit
        try:
            checks = rehearsal.rehearse_save(case.folder, case.student, attempt, distributed)
        except ConfigError as error:
            said.append(error.message)
        else:
            said.append([[check.name, check.level, check.detail] for check in checks])
    left = [str(path.relative_to(case.folder)) for path in case.folder.rglob("*")]
    shutil.rmtree(mine.parent)
    return {"said": said, "left": left}


def digest(tensors):
    """Of all weights, bit for bit."""
    joined = hashlib.sha256()
    for name in sorted(tensors):
        joined.update(tensors[name].numpy().tobytes())
    return joined.hexdigest()


def save(out, distributed, *overrides):
    case = Case(out, distributed, *overrides)
    rehearsed = rehearse(case, distributed) if distributed.world_size == 1 else None
    case.step(0)
    case.step(5, poison=True)
    case.save(1)
    tensors = {**case.weights(), **case.moments()}
    after = case.step(1)
    found = {"after": after, "digest": digest(case.weights()), "rehearsed": rehearsed}
    case.report("save", found, tensors)


def load(out, distributed, name, *overrides):
    path, _ = checkpoints.newest_good(out / "checkpoints")
    written_by = checkpoints.read_manifest(path)["world_size"]
    case = Case(out, distributed, *overrides, universal=written_by != distributed.world_size)
    step, state = checkpoint.load(path, case.student, case.distributed)
    tensors = {**case.weights(), **case.moments()}
    after = case.step(1)
    found = {"step": step, "state": state, "after": after, "digest": digest(case.weights())}
    case.save(2)
    case.report(name, found, tensors)


def nan(out, distributed):
    for stage in range(4):
        case = Case(out, distributed, stage=stage)
        steps = [case.step(0)]
        before = digest(case.weights())
        steps.append(case.step(1, poison=True))
        kept = before == digest(case.weights())
        steps.append(case.step(2))
        found = {name: [step[f"actor/{name}"] for step in steps] for name in ("skipped_steps", "lr")}
        case.report(f"nan_{stage}", {**found, "kept": kept}, case.weights())


def fill(out, distributed):
    case = Case(out, distributed)
    case.save(1)
    free = shutil.disk_usage(case.folder).free
    with (case.folder / "ballast").open("wb") as ballast:
        ballast.write(b"x" * (free - (2 << 20)))
    try:
        case.save(2)
    except EnvironmentUnfit as error:
        (case.folder / "ballast").unlink()  # room for what follows
        (out / "fill.json").write_text(json.dumps({"message": error.message, "hint": error.hint}))


def main():
    out, command, *rest = sys.argv[1:]
    rendezvous = Path(out, f"rendezvous_{'_'.join(sys.argv[2:])}")
    distributed = Distributed(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), "cpu", rendezvous)
    {"save": save, "load": load, "nan": nan, "fill": fill}[command](Path(out), distributed, *rest)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
