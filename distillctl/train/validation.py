"""Evaluation during training: greedy responses to the validation prompts, from the run's engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.data_types import Rollout
from distillctl.files.atomic import write_json
from distillctl.grading.summary import GradedResponse, grade_rollouts, summarise
from distillctl.rollout.client import RolloutClient
from distillctl.run.checkpoints import step_dir
from distillctl.train.sample_writer import write_samples
from distillctl.train.scoring import scores_by_teacher
from distillctl.train.step import Trainer
from distillctl.train.token_details import NUM_DETAILED, DetailTable, TokenDetails


@dataclass(frozen=True, slots=True)
class Validation:
    """Greedy responses of the student to the validation prompts, graded."""

    trainer: Trainer

    def run(self, step: int, folder: Path) -> dict[str, Any] | None:
        """Evaluate the weights after `step`. Collective. Returns the fields of the event on rank 0.

        Writes `step_N.json` (the summary) and `step_N.parquet` (every response) in `folder`.
        """
        found = self.trainer.engine.ask(self._sample)
        details = self._details(found[0] if found else None)
        if found is None:
            return None
        result = summarise(*found)
        folder.mkdir(exist_ok=True)
        path = folder / f"{step_dir(step)}.json"
        others = [None] * (len(found[0]) - len(details))
        kl = [None if one is None else one.kl for one in [*details, *others]]
        write_samples(path.with_suffix(".parquet"), found[0], kl, details, self.trainer.tokenizer)
        measured = [one.kl for one in details if one is not None]
        known = np.concatenate(measured)[~np.isnan(np.concatenate(measured))] if measured else np.zeros(0)
        mean_kl = float(known.mean()) if known.size else None  # None when a stop came first
        write_json(path, {"step": step, **asdict(result), "kl": mean_kl})
        return {"metrics": {"val/acc": result.acc, "val/kl": mean_kl}, "num": result.num_graded}

    def _sample(self, client: RolloutClient) -> tuple[list[GradedResponse], float]:
        """One graded response to each prompt, and the seconds that the sampling took."""
        trainer = self.trainer
        greedy = replace(trainer.sampling, temperature=0.0, top_p=1.0)
        start = time.perf_counter()
        rollouts = client.generate(trainer.val_prompts, 1, greedy, run_seed=0, step=0)
        seconds = time.perf_counter() - start
        return grade_rollouts(rollouts, trainer.tokenizer), seconds

    def _details(self, found: list[GradedResponse] | None) -> list[TokenDetails | None]:
        """Details of the first responses; None for a response with a token outside the shared vocabulary."""
        prompts = self.trainer.val_prompts[:NUM_DETAILED]
        rollouts = None if found is None else [response.rollout for response in found[: len(prompts)]]
        shared = self.trainer.distributed.share_rollouts(prompts, 1, rollouts)
        vocab_size = self.trainer.objective.vocab_size
        inside = [int(rollout.response_ids.max()) < vocab_size for rollout in shared]
        kept = [rollout for rollout, is_inside in zip(shared, inside, strict=True) if is_inside]
        details = iter(token_details(self.trainer, kept))
        return [next(details) if is_inside else None for is_inside in inside]


def token_details(trainer: Trainer, rollouts: Sequence[Rollout]) -> list[TokenDetails]:
    """Details of each rollout.

    Tokens that a teacher did not score before a stop have no values. Collective. Trains nothing and draws no
    random numbers.
    """
    vocab_size = trainer.objective.vocab_size
    table = DetailTable(rollouts, vocab_size)
    by_teacher = scores_by_teacher(rollouts, trainer.teachers, trainer.config, trainer.distributed)
    for _, scored in by_teacher:
        for batch, one in scored or []:
            found = trainer.student.alternatives(batch, one, vocab_size, table.num_alternatives)
            table.add(batch, found)
    return table.collect(trainer.distributed)
