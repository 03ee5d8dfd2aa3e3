"""Reading saved responses (`samples/step_N.parquet`, `eval/step_N.parquet`) for people and pages."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.run import RunDir
from distillctl.samples import TOKEN_TEXT

Sample = dict[str, Any]
"""One response, of JSON's types.

`prompt_id`, `sample`, `prompt`, `ground_truth`, `correct`, `finish_reason`, `text`, `num_tokens`, `mean_kl`
(nats, None where nothing was measured); and per token: `pieces` (its text), `kl`, `logprobs` (None where not
measured), `student_top`, `teacher_top` (lists of [text, probability], likeliest first; empty where nobody
looked).
"""

_STEP = re.compile(r"step_(\d{6,})\.parquet")


def sample_steps(folder: Path) -> dict[int, Path]:
    """Samples files of a folder by step, in ascending order."""
    found = {
        int(match[1]): path for path in folder.glob("*.parquet") if (match := _STEP.fullmatch(path.name))
    }
    return dict(sorted(found.items()))


def load_samples(path: Path, limit: int | None = None) -> list[Sample]:
    """All responses of a file, or the first `limit`. Raises ConfigError for what is no samples file."""
    table = _read(path)
    texts = json.loads((table.schema.metadata or {}).get(TOKEN_TEXT.encode(), b"{}"))
    return [_sample(row, texts) for row in table.slice(0, limit).to_pylist()]


def prompt_ids(path: Path) -> set[str]:
    """Which prompts a file has responses to. Raises ConfigError like `load_samples`."""
    return set(_read(path, "prompt_id")["prompt_id"].to_pylist())


def verdicts(path: Path) -> dict[str, bool]:
    """Whether each prompt whose answer was graded was answered correctly. Raises ConfigError likewise."""
    rows = _read(path, "prompt_id", "correct").to_pylist()
    return {row["prompt_id"]: row["correct"] for row in rows if row["correct"] is not None}


def _read(path: Path, *columns: str) -> Any:
    """The table of a samples file, or some of its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            if "response_ids" not in file.schema_arrow.names:
                raise ConfigError(f"{path}: holds no responses", "samples are in samples/ and eval/ of a run")
            return file.read(columns=list(columns) or None)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", "it is damaged: choose another step") from None


def validation_ends(run: RunDir) -> tuple[Path, Path] | None:
    """Answers of the first and of the newest evaluation; None without two."""
    evals = list(sample_steps(run.eval_dir).values())
    return (evals[0], evals[-1]) if len(evals) > 1 else None


def _sample(row: dict[str, Any], texts: dict[str, str]) -> Sample:
    ids, kl = row["response_ids"], row.get("kl") or [None] * len(row["response_ids"])
    measured = [value for value in kl if value is not None]
    return {
        "prompt_id": row["prompt_id"],
        "sample": row["sample"],
        "prompt": row.get("prompt"),
        "ground_truth": row["ground_truth"],
        "correct": row["correct"],
        "finish_reason": row["finish_reason"],
        "text": row["text"],
        "num_tokens": len(ids),
        "mean_kl": sum(measured) / len(measured) if measured else None,
        "pieces": [texts.get(str(i), f"<{i}>") for i in ids],
        "kl": kl,
        "logprobs": row.get("response_logprobs") or [None] * len(ids),
        "student_top": _top(row, "student", texts),
        "teacher_top": _top(row, "teacher", texts),
    }


def _top(row: dict[str, Any], who: str, texts: dict[str, str]) -> list[list[tuple[str, float]]]:
    """Alternatives of each token with their probabilities."""
    ids, logprobs = row.get(f"{who}_top_ids"), row.get(f"{who}_top_logprobs")
    if ids is None or logprobs is None:
        return []
    return [
        [(texts.get(str(i), f"<{i}>"), round(math.exp(logp), 6)) for i, logp in zip(*pair, strict=True)]
        for pair in zip(ids, logprobs, strict=True)
    ]
