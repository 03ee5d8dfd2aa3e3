"""The rollouts of a step as `samples/step_N.parquet`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from distillctl.evaluate.evaluation import grade_rollouts
from distillctl.samples import sample_schema
from distillctl.train.loop import StepResult


def write_samples(path: Path, result: StepResult, tokenizer: Any) -> None:
    """Write one row per rollout in the schema of `sample_schema`; the file is whole or not there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    answers = grade_rollouts(result.rollouts, tokenizer)
    for answer, kl in zip(answers, result.kl, strict=True):
        rollout = answer.rollout
        rows.append(
            {
                "prompt_id": rollout.prompt.prompt_id,
                "sample": rollout.sample,
                "prompt_ids": rollout.prompt.token_ids,
                "response_ids": rollout.response_ids,
                "response_logprobs": rollout.response_logprobs,
                "kl": [None if math.isnan(value) else value for value in kl.tolist()],
                "finish_reason": rollout.finish_reason,
                "text": answer.text,
                "ground_truth": rollout.prompt.ground_truth,
                "correct": None if answer.grade is None else answer.grade.normalised,
            }
        )
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=sample_schema()), partial)
    partial.rename(path)
