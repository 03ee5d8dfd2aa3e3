"""Evaluation during training: greedy answers to the validation prompts, with the engine already in memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.atomic import write_json
from distillctl.checkpoints import step_dir
from distillctl.evaluate.evaluation import Answer, answers, summarise
from distillctl.rollout.client import Sampling
from distillctl.samples import Prompt
from distillctl.train.loop import Trainer
from distillctl.train.sample_file import write_samples
from distillctl.train.token_views import NUM_VIEWED, TokenView, token_views


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
        found = self.trainer.engine.ask(
            lambda client: answers(client, self.prompts, self.tokenizer, self.sampling)
        )
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

    def _look(self, found: list[Answer] | None) -> list[TokenView | None]:
        """Views of the first answers; none of an answer that leaves the shared vocabulary."""
        prompts = self.prompts[:NUM_VIEWED]
        rollouts = None if found is None else [answer.rollout for answer in found[: len(prompts)]]
        shared = self.trainer.ranks.share_rollouts(prompts, 1, rollouts)
        vocab_size = self.trainer.objective.vocab_size
        inside = [int(rollout.response_ids.max()) < vocab_size for rollout in shared]
        views = iter(token_views(self.trainer, [r for r, ok in zip(shared, inside, strict=True) if ok]))
        return [next(views) if ok else None for ok in inside]
