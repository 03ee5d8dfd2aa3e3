"""Every response of an evaluation as parquet: `eval --out DIR` writes `DIR/answers.parquet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from distillctl.files.outputs import written
from distillctl.grading.summary import GradedResponse


def write_results(
    path: Path, models: Sequence[tuple[str, Sequence[GradedResponse]]], files: Mapping[str, str]
) -> None:
    """Write one row per response of each model. A kill leaves the whole file or none.

    `models`: the label and the responses of each. `files`: the data file of each prompt, by prompt id.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [("model", pa.string()), ("file", pa.string()), ("prompt_id", pa.string()),
               ("sample", pa.int32()), ("prompt", pa.string()), ("response", pa.string()),
               ("extracted", pa.string()), ("ground_truth", pa.string()), ("correct", pa.bool_()),
               ("verl_strict", pa.bool_()), ("verl_flexible", pa.bool_()), ("has_format", pa.bool_()),
               ("finish_reason", pa.string()), ("num_tokens", pa.int32())]  # fmt: skip
    rows = [_row(model, response, files) for model, responses in models for response in responses]
    with written(path, "--out") as file:
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(columns)), file)


def _row(model: str, response: GradedResponse, files: Mapping[str, str]) -> dict[str, object]:
    grade = response.grade
    rollout = response.rollout
    return {
        "model": model,
        "file": files[rollout.prompt.prompt_id],
        "prompt_id": rollout.prompt.prompt_id,
        "sample": rollout.sample,
        "prompt": rollout.prompt.text,
        "response": response.text,
        "extracted": None if grade is None else grade.extracted,
        "ground_truth": rollout.prompt.ground_truth,
        "correct": None if grade is None else grade.normalised,
        "verl_strict": None if grade is None else grade.strict,
        "verl_flexible": None if grade is None else grade.flexible,
        "has_format": None if grade is None else grade.has_format,
        "finish_reason": rollout.finish_reason,
        "num_tokens": len(rollout.response_ids),
    }
