"""Evaluation during training: greedy answers to the validation prompts, with the engine already in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.data_types import MicroBatch, Prompt, Rollout
from distillctl.files.atomic import write_json
from distillctl.grading.summary import Answer, grade_rollouts, summarise
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.run.checkpoints import step_dir
from distillctl.train.batch import micro_batches
from distillctl.train.sample_writer import write_samples
from distillctl.train.step import Trainer
from distillctl.train.token_table import NUM_VIEWED, TokenTable, TokenView


@dataclass(frozen=True, slots=True)
class Validation:
    """What every evaluation of a run has in common."""

    trainer: Trainer
    prompts: list[Prompt]
    tokenizer: Any
    sampling: Sampling

    def run(self, step: int, folder: Path) -> dict[str, Any] | None:
        """Evaluate the weights after `step`; collective. Returns the fields of its event, on rank 0.

        Writes `step_N.json` (the summary) and `step_N.parquet` (every answer) in `folder`.
        """
        found = self.trainer.engine.ask(self._answers)
        views = self._look(found[0] if found else None)
        if found is None:
            return None
        result = summarise(*found)
        folder.mkdir(exist_ok=True)
        path = folder / f"{step_dir(step)}.json"
        unseen = [None] * (len(found[0]) - len(views))
        kl = [None if view is None else view.kl for view in [*views, *unseen]]
        write_samples(path.with_suffix(".parquet"), found[0], kl, views, self.tokenizer)
        measured = [view.kl for view in views if view is not None]
        known = np.concatenate(measured)[~np.isnan(np.concatenate(measured))] if measured else np.zeros(0)
        mean_kl = float(known.mean()) if known.size else None  # none where a stop came first
        write_json(path, {"step": step, **asdict(result), "kl": mean_kl})
        return {"metrics": {"val/acc": result.acc, "val/kl": mean_kl}, "num": result.num_graded}

    def _answers(self, client: RolloutClient) -> tuple[list[Answer], float]:
        """One graded response to each prompt, and the seconds that sampling them took."""
        start = time.perf_counter()
        rollouts = client.generate(self.prompts, 1, self.sampling, run_seed=0, step=0)
        seconds = time.perf_counter() - start
        return grade_rollouts(rollouts, self.tokenizer), seconds

    def _look(self, found: list[Answer] | None) -> list[TokenView | None]:
        """Views of the first answers; none of an answer that leaves the shared vocabulary."""
        prompts = self.prompts[:NUM_VIEWED]
        rollouts = None if found is None else [answer.rollout for answer in found[: len(prompts)]]
        shared = self.trainer.ranks.share_rollouts(prompts, 1, rollouts)
        vocab_size = self.trainer.objective.vocab_size
        inside = [int(rollout.response_ids.max()) < vocab_size for rollout in shared]
        views = iter(token_views(self.trainer, [r for r, ok in zip(shared, inside, strict=True) if ok]))
        return [next(views) if ok else None for ok in inside]


def token_views(trainer: Trainer, rollouts: Sequence[Rollout]) -> list[TokenView]:
    """Views of the first `NUM_VIEWED` rollouts; none of what a teacher did not answer before a stop.

    Collective; trains nothing and draws no random numbers.
    """
    rollouts = rollouts[:NUM_VIEWED]
    table = TokenTable(rollouts, trainer.objective.vocab_size)
    for name, teacher in trainer.teachers.items():
        members = [i for i, rollout in enumerate(rollouts) if rollout.prompt.teacher == name]
        batches = micro_batches(rollouts, members, trainer.config, trainer.ranks, 1.0)
        answers = trainer.score(teacher, [_listing(trainer, batch) for batch in batches])
        for scored in answers or []:
            with trainer.teacher_view(name, scored) as view:
                found = trainer.student.alternatives(
                    scored.batch, view, trainer.objective.vocab_size, table.count
                )
            table.add(scored.batch, found)
    return table.views(trainer.ranks)


def _listing(trainer: Trainer, batch: MicroBatch) -> MicroBatch:
    """A served teacher that is asked for chosen tokens needs a list, which greedy answers lack."""
    if trainer.asks_for_student_tokens and batch.topk_ids_NK is None:
        return replace(batch, topk_ids_NK=batch.target_ids_N[:, None])
    return batch
