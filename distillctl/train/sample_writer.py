"""Write responses token by token as parquet: the rollouts of a step, or the responses of an evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.files.atomic import replacing
from distillctl.grading.summary import GradedResponse
from distillctl.run.sample_files import TOKEN_TEXT, sample_schema
from distillctl.train.token_details import TokenDetails

EVENT_TOKENS = 200
"""Most tokens of a sample in its event: a screen shows one line of them."""


def write_samples(
    path: Path,
    responses: Sequence[GradedResponse],
    kl: Sequence[np.ndarray | None],
    details: Sequence[TokenDetails | None],
    tokenizer: Any,
) -> None:
    """Write one row per response in the schema of `sample_schema`. The file appears whole or not at all.

    `kl` is float32 [T] for each response, in nats: NaN for a token that was not measured, None for a response
    without measured tokens. `details` are those of the first responses; None for a response without details.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(response, values) for response, values in zip(responses, kl, strict=True)]
    detailed = [(row, one) for row, one in zip(rows, details, strict=False) if one is not None]
    for row, one in detailed:
        row |= _alternatives(one)
    ids = {i for row in rows for name in ("prompt_ids", "response_ids") for i in row[name]}
    ids |= {i for _, one in detailed for part in (one.student_ids, one.teacher_ids) for i in part.flat}
    metadata = {TOKEN_TEXT: json.dumps(token_text(sorted(map(int, ids - {-1})), tokenizer))}
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=sample_schema().with_metadata(metadata)), file)


def sample_event(response: GradedResponse, kl: np.ndarray, tokenizer: Any) -> dict[str, Any]:
    """The fields that the event of a samples file has for one of its rows."""
    ids = response.rollout.response_ids[:EVENT_TOKENS].tolist()
    texts = token_text(sorted(set(ids)), tokenizer)
    return {
        "pieces": [texts[i] for i in ids],
        "kl": _numbers(kl[:EVENT_TOKENS]),
        "mean_kl": float(np.nanmean(kl)),
        "num_tokens": len(response.rollout.response_ids),
        "correct": None if response.grade is None else response.grade.normalised,
    }


def token_text(ids: Iterable[int], tokenizer: Any) -> dict[int, str]:
    """Text of single tokens as they appear inside a text. A part of a character becomes U+FFFD.

    A token is decoded after another token, because SentencePiece tokenizers drop the space before the first.
    """
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1]
    ids = list(ids)
    before = len(tokenizer.decode([anchor]))
    texts = tokenizer.batch_decode([[anchor, i] for i in ids], clean_up_tokenization_spaces=False)
    return {i: text[before:] for i, text in zip(ids, texts, strict=True)}


def _row(response: GradedResponse, kl: np.ndarray | None) -> dict[str, Any]:
    rollout = response.rollout
    return {
        "prompt_id": rollout.prompt.prompt_id,
        "sample": rollout.sample,
        "prompt_ids": rollout.prompt.token_ids,
        "response_ids": rollout.response_ids,
        "response_logprobs": rollout.response_logprobs,
        "kl": None if kl is None else _numbers(kl),
        "finish_reason": rollout.finish_reason,
        "text": response.text,
        "ground_truth": rollout.prompt.ground_truth,
        "correct": None if response.grade is None else response.grade.normalised,
        "prompt": rollout.prompt.text,
    }


def _alternatives(details: TokenDetails) -> dict[str, list[list[float]]]:
    return {
        "student_top_ids": _listed(details.student_ids, details.student_ids),
        "student_top_logprobs": _listed(details.student_logp, details.student_ids),
        "teacher_top_ids": _listed(details.teacher_ids, details.teacher_ids),
        "teacher_top_logprobs": _listed(details.teacher_logp, details.teacher_ids),
    }


def _listed(values: np.ndarray, ids: np.ndarray) -> list[list[float]]:
    """The values of each token, without those whose id is -1."""
    return [row[row_ids >= 0].tolist() for row, row_ids in zip(values, ids, strict=True)]


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
