"""Runs made for reports and comparisons: events, configuration, samples with alternatives."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.config.loading import load_preset, to_yaml
from distillctl.run.directory import RunDir, write_status
from distillctl.run.events import EventLog
from distillctl.run.sample_files import TOKEN_TEXT, sample_schema

PHASES_S = {"rollout": 6.0, "teacher": 1.0, "update": 2.0, "sync": 1.0}
WORDS = ["Ben", " has", " 7", " cards", ".\n", " so", " the", " answer", " is", " 12", "<|end|>", "####"]


class MadeRun:
    """Writes a run directory as `train` leaves it."""

    def __init__(self, path):
        self.dir = RunDir(path)
        path.mkdir(parents=True)

    def write(self, num_steps, *, scale=1.0, every=10, accuracies=(), overrides=(), warning=None):
        run = self.dir
        run.config_path.write_text(to_yaml(load_preset("tiny-from-small-arith", list(overrides))))
        run.provenance_path.write_text(json.dumps({"platform": "Linux", "num_cpus": 2, "python": "3.11",
                                                   "packages": {"torch": "2.13.0"}}))  # fmt: skip
        log = EventLog(run.events_path, run.begin_attempt())
        log.emit("start", step=0, run=str(run.path), steps=num_steps, student="s", teacher="t", world_size=1)
        for step in range(1, num_steps + 1):
            kl = scale / (1 + step / 10)
            metrics = {"kl/reverse": kl, "kl/forward": kl / 2, "actor/entropy": 0.5 + kl / 10,
                       "teacher/entropy": 0.4, "response_length/mean": 80.0, "actor/loss": kl,
                       "odd/one": float(step % 3)}  # fmt: skip
            timing = {f"timing_s/{name}": seconds for name, seconds in PHASES_S.items()}
            log.emit("step", step=step, metrics={**metrics, **timing, "timing_s/step": 10.0})
        for i, acc in enumerate(accuracies):
            log.emit("eval", step=i * every, metrics={"val/acc": acc}, num=200)
        if warning:
            log.emit("warn", step=num_steps, message=warning)
        log.emit("end", step=num_steps, state="done", exit_code=0, seconds=10.0 * num_steps)
        log.close()
        write_status(run.status_path, {"state": "done", "step": num_steps, "steps": num_steps})
        return self

    def save(self, folder, step, rows, texts=WORDS):
        """A samples file of `eval` or `samples`."""
        (self.dir.path / folder).mkdir(exist_ok=True)
        schema = sample_schema().with_metadata({TOKEN_TEXT: json.dumps(dict(enumerate(texts)))})
        path = self.dir.path / folder / f"step_{step:06d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema), path)
        return self


def sample_row(number, *, tokens=8, seed=0, correct=True, texts=WORDS, prefix="test", **fields):
    """A response of random tokens, with alternatives for each."""
    rng = np.random.default_rng((seed, number))
    ids = rng.integers(0, len(texts), tokens)
    count = min(5, len(texts))
    top = [rng.permutation(len(texts))[:count].tolist() for _ in range(tokens)]
    shares = np.sort(rng.dirichlet(np.ones(count), tokens), axis=1)[:, ::-1]
    logp = [[math.log(max(share, 1e-9)) for share in row] for row in shares]
    return {
        "prompt_id": f"{prefix}/{number}", "sample": 0, "prompt_ids": [1], "response_ids": ids,
        "response_logprobs": [row[0] for row in logp], "kl": rng.exponential(0.5, tokens),
        "finish_reason": "stop" if number % 5 else "length", "text": "".join(texts[i] for i in ids),
        "ground_truth": "12", "correct": correct, "prompt": f"Question {number}?",
        "student_top_ids": top, "student_top_logprobs": logp, "teacher_top_ids": [t[::-1] for t in top],
        "teacher_top_logprobs": logp, **fields,
    }  # fmt: skip


@pytest.fixture(scope="session")
def make_run():
    return MadeRun


@pytest.fixture(scope="session")
def make_row():
    return sample_row
