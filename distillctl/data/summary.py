"""Counts of the rows that `prep` writes, for `manifest.json` and in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distillctl.answers.truths import read_truth
from distillctl.data.columns import ColumnTally
from distillctl.grading.answer_types import ANSWER_TYPES, DEFAULT

Row = Mapping[str, Any]


def counts(splits: Mapping[str, Sequence[Row]], tally: ColumnTally) -> dict[str, Any]:
    """Counts over the rows of each split, in the schema of prompt files. `tally` counts their source.

    Per split: `rows`, `rows_with_answer` (a ground truth) and `rows_with_reference` (a whole answer); for
    numeric data also `rows_with_number` (the ground truth is a number) and `rows_with_text` (it is not).
    `duplicates`: rows with the same prompt as an earlier row. `shared_prompts`: rows of other splits with the
    same prompt as a training row. `fields`: for each field that is read, the source rows in which it is not
    empty. `unused_columns`: columns with text that are not read.
    """
    prompts = {split: [json.dumps(row["prompt"]) for row in rows] for split, rows in splits.items()}
    everything = [prompt for listed in prompts.values() for prompt in listed]
    train = set(prompts["train"])
    others = [prompt for split, listed in prompts.items() if split != "train" for prompt in listed]
    return {
        "rows": {split: len(rows) for split, rows in splits.items()},
        "rows_with_answer": {
            split: _num_filled(rows, "reward_model", "ground_truth") for split, rows in splits.items()
        },
        "rows_with_reference": {
            split: _num_filled(rows, "extra_info", "answer") for split, rows in splits.items()
        },
        **_number_counts(splits),
        "duplicates": len(everything) - len(set(everything)),
        "shared_prompts": sum(prompt in train for prompt in others),
        "fields": {name: tally.filled[name] for name in tally.used},
        "unused_columns": list(tally.unused),
    }


def _number_counts(splits: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, int]]:
    """`rows_with_number` and `rows_with_text`; empty if no row is numeric."""
    numbers: dict[str, int] = {}
    texts: dict[str, int] = {}
    for split, rows in splits.items():
        rewards = [row["reward_model"] for row in rows]
        truths = [reward["ground_truth"] for reward in rewards if reward["style"] == "rule"]
        numbers[split] = sum(read_truth(truth).value is not None for truth in truths)
        texts[split] = len(truths) - numbers[split]
    found = any(numbers.values()) or any(texts.values())
    return {"rows_with_number": numbers, "rows_with_text": texts} if found else {}


def lines(manifest: Mapping[str, Any]) -> list[str]:
    """The rows of each split in words."""
    told = []
    for split, num_rows in manifest["rows"].items():
        told.append(
            f"{split}: {num_rows:,} rows, {manifest['rows_with_answer'][split]:,} with a ground truth, "
            f"{manifest['rows_with_reference'][split]:,} with a reference answer"
        )
    return told


def remarks(manifest: Mapping[str, Any]) -> list[str]:
    """In words, what the user may not have intended. The list is empty for ordinary data."""
    num_rows = sum(manifest["rows"].values())
    told = []
    *others, last = (name for name in ANSWER_TYPES if name != DEFAULT)
    for name, filled in manifest["fields"].items():
        if filled < num_rows:
            told.append(f"field `{name}`: in {filled:,} of {num_rows:,} rows")
    for split, num_texts in manifest.get("rows_with_text", {}).items():
        if num_texts:
            num_truths = num_texts + manifest["rows_with_number"][split]
            told.append(
                f"{split}: {num_texts:,} of {num_truths:,} answers are not numbers and are compared as text; "
                f"set their type with --answer-type {', '.join(others)} or {last}"
            )
    if repeated := manifest["duplicates"]:
        told.append(f"duplicates: {repeated:,} of {num_rows:,} rows have the same prompt as an earlier row")
    if shared := manifest["shared_prompts"]:
        told.append(f"held-back rows whose prompt is in train too: {shared:,}")
    if manifest["unused_columns"]:
        names = ", ".join(f"`{name}`" for name in manifest["unused_columns"])
        told.append(f"columns with text that are not used: {names}")
    return told


def _num_filled(rows: Sequence[Row], column: str, key: str) -> int:
    return sum(row[column][key] is not None for row in rows)
