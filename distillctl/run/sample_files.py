"""Saved responses (`samples/step_N.parquet`, `eval/step_N.parquet`): their schema, and reading them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pydantic_core import from_json

from distillctl.errors import ConfigError
from distillctl.files.memory_limit import limited, readable_bytes
from distillctl.files.parquet import opened_parquet
from distillctl.run.checkpoints import step_of
from distillctl.run.directory import RunDir

if TYPE_CHECKING:
    import pyarrow as pa

TOKEN_TEXT = "token_text"
"""Key in the schema metadata of a samples file: a JSON object with the text of every token id in it."""
Alternatives = list[tuple[str, float]]
"""The most likely tokens at a position: text and probability, most likely first."""


class Sample(TypedDict):
    """One saved response, in JSON's types."""

    prompt_id: str
    sample: int
    """Number among the responses to its prompt."""
    prompt: str | None
    ground_truth: str | None
    correct: bool | None
    finish_reason: str
    text: str
    num_tokens: int
    mean_kl: float | None
    """Nats; None if it was not measured."""
    pieces: list[str]
    """The text of each token."""
    kl: list[float | None]
    """Of each token, nats; None where it was not measured."""
    logprobs: list[float | None]
    """Of each token, nats; None where it was not measured."""
    student_top: list[Alternatives]
    """Of each token; empty if they were not recorded."""
    teacher_top: list[Alternatives]
    """Of each token; empty if they were not recorded."""


_HINT = "it is damaged: choose another step"
_EVERY_RESPONSE = ("prompt_id", "sample", "response_ids", "finish_reason", "text")
"""Columns that must not hold nulls."""
_PER_TOKEN = ("kl", "response_logprobs", "student_top_ids", "student_top_logprobs", "teacher_top_ids",
              "teacher_top_logprobs")  # fmt: skip
"""Columns that hold one entry per token of the response, or null."""


def sample_schema() -> pa.Schema:
    """Schema of `samples/step_N.parquet` and `eval/step_N.parquet`: one row per response.

    The columns of the most likely tokens are null where these were not recorded.
    """
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    numbers = pa.list_(pa.float32())
    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("sample", pa.int32()),
            ("prompt_ids", ids),
            ("response_ids", ids),
            ("response_logprobs", numbers),
            ("kl", numbers),
            ("finish_reason", pa.string()),
            ("text", pa.string()),
            ("ground_truth", pa.string()),
            ("correct", pa.bool_()),
            ("prompt", pa.string()),
            ("student_top_ids", pa.list_(ids)),
            ("student_top_logprobs", pa.list_(numbers)),
            ("teacher_top_ids", pa.list_(ids)),
            ("teacher_top_logprobs", pa.list_(numbers)),
        ]
    )


def sample_steps(folder: Path) -> dict[int, Path]:
    """Samples files of a folder by step, in ascending order."""
    files = folder.glob("*.parquet")
    found = {step: path for path in files if (step := step_of(path.stem)) is not None}
    return dict(sorted(found.items()))


def load_samples(path: Path, limit: int | None = None) -> list[Sample]:
    """All responses of a file, or the first `limit`. Raises ConfigError unless it is a samples file."""
    table = _read(path)
    texts = _token_texts(path, table.schema.metadata or {})
    rows = table.slice(0, limit).to_pylist()
    return [_sample(row, texts, f"{path}: row {number}") for number, row in enumerate(rows)]


def prompt_ids(path: Path) -> set[str]:
    """Ids of the prompts that a file has responses to. Raises ConfigError like `load_samples`."""
    return set(_read(path, "prompt_id")["prompt_id"].to_pylist())


def verdicts(path: Path) -> dict[str, bool]:
    """Whether the response to each graded prompt is correct, by prompt id. Raises ConfigError likewise."""
    rows = _read(path, "prompt_id", "correct").to_pylist()
    return {row["prompt_id"]: row["correct"] for row in rows if row["correct"] is not None}


def _read(path: Path, *columns: str) -> Any:
    """The table of a samples file, or only its `columns`.

    The columns have the types of `sample_schema`, and none of `_EVERY_RESPONSE` has a null. Other columns may
    be missing.
    """
    import pyarrow as pa

    schema = sample_schema()
    with (
        opened_parquet(path, None, "cannot be read", _HINT) as file,
        limited(path, readable_bytes(path.stat().st_size)),
    ):
        there = file.schema_arrow.names
        if "response_ids" not in there:
            raise ConfigError(f"{path}: holds no responses", "samples are in samples/ and eval/ of a run")
        missing = [name for name in _EVERY_RESPONSE if name not in there]
        if missing:
            raise _damaged(path, f"has no column {missing[0]}")
        wanted = list(dict.fromkeys(name for name in columns or there if name in schema.names))
        table = file.read(columns=wanted, use_threads=False)
        for position, name in enumerate(wanted):
            if table.column_names.count(name) != 1:
                raise _damaged(path, f"has several columns named {name}")
            found = table[name]
            kind = schema.field(name).type
            if not found.type.equals(kind):
                try:
                    table = table.set_column(position, name, found.cast(kind))
                except pa.ArrowException:
                    raise _damaged(path, f"its column {name} has the type {found.type}") from None
            if name in _EVERY_RESPONSE and found.null_count:
                raise _damaged(path, f"a row has no {name}")
        return table


def _token_texts(path: Path, metadata: dict[bytes, bytes]) -> dict[str, str]:
    """Text of each token id, from a file's metadata; tokens without a text are shown by their id."""
    try:
        texts = from_json(metadata.get(TOKEN_TEXT.encode(), b"{}"))
    except ValueError:
        texts = None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _damaged(path, f"its metadata {TOKEN_TEXT} does not map token ids to texts")
    return texts


def _damaged(where: object, what: str) -> ConfigError:
    return ConfigError(f"{where}: {what}", _HINT)


def validation_ends(run: RunDir) -> tuple[Path, Path] | None:
    """Samples files of the first and the newest evaluation; None unless there are two."""
    evals = list(sample_steps(run.eval_dir).values())
    return (evals[0], evals[-1]) if len(evals) > 1 else None


def _sample(row: dict[str, Any], texts: dict[str, str], where: str) -> Sample:
    ids = row["response_ids"]
    for name in _PER_TOKEN:
        values = row.get(name)
        if values is not None and len(values) != len(ids):
            raise _damaged(where, f"{name} has {len(values)} entries for {len(ids)} tokens")
    kl = _finite(row.get("kl"), len(ids))
    measured = [value for value in kl if value is not None]
    return {
        "prompt_id": row["prompt_id"],
        "sample": row["sample"],
        "prompt": row.get("prompt"),
        "ground_truth": row.get("ground_truth"),
        "correct": row.get("correct"),
        "finish_reason": row["finish_reason"],
        "text": row["text"],
        "num_tokens": len(ids),
        "mean_kl": sum(measured) / len(measured) if measured else None,
        "pieces": [texts.get(str(i), f"<{i}>") for i in ids],
        "kl": kl,
        "logprobs": _finite(row.get("response_logprobs"), len(ids)),
        "student_top": _top(row, "student", texts, where),
        "teacher_top": _top(row, "teacher", texts, where),
    }


def _finite(values: list[float | None] | None, count: int) -> list[float | None]:
    """`values` with None in place of numbers that are not finite; `count` times None if `values` is None."""
    if values is None:
        return [None] * count
    return [value if value is not None and math.isfinite(value) else None for value in values]


def _top(row: dict[str, Any], who: str, texts: dict[str, str], where: str) -> list[Alternatives]:
    """The most likely tokens at each position with their probabilities; empty if they were not recorded."""
    ids = row.get(f"{who}_top_ids")
    logprobs = row.get(f"{who}_top_logprobs")
    if ids is None or logprobs is None:
        return []
    if any(len(i or []) != len(logp or []) for i, logp in zip(ids, logprobs, strict=True)):
        raise _damaged(where, f"{who}_top_ids and {who}_top_logprobs are of different lengths")
    return [
        [
            (texts.get(str(i), f"<{i}>"), _probability(logp))
            for i, logp in zip(i_K or [], logp_K or [], strict=True)
        ]
        for i_K, logp_K in zip(ids, logprobs, strict=True)
    ]


def _probability(logp: float | None) -> float:
    return round(math.exp(min(logp, 0.0)), 6) if logp is not None and not math.isnan(logp) else 0.0
