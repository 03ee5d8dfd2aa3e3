"""`distillctl prep`: writes the prompts of a data set as parquet files in verl's schema.

In: a `DataSet`, which a file in `sets/` makes. Out: a directory with `train.parquet`, usually `test.parquet`,
and `manifest.json`, which describes the source and the result. `prepare` reads and checks every row before it
writes anything. Files get their final names only when all of them are complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from distillctl import __version__
from distillctl.data.columns import ColumnTally
from distillctl.data.out_folder import MANIFEST, SPLITS, digest, require_free, staged
from distillctl.data.schema import Example, schema, to_row
from distillctl.data.summary import counts
from distillctl.errors import ConfigError
from distillctl.grading.answer_types import require_answer
from distillctl.terminal.progress import track

Manifest = dict[str, Any]
"""The content of `manifest.json`.

Its keys are `kind`, `source` (a name, never a path), `distillctl` (version), the keys of `summary.counts`,
`source_sha256` and `sha256` (hex digests of the files read and written, by file name).
"""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """What `prep` writes."""

    data_source: str
    """The column `data_source` of every row."""
    splits: Mapping[str, Iterable[Example]]
    """The examples of `train` and perhaps `test`. They are read only after the check that `--out` is free."""
    source: str | None = None
    """The name of the place that the examples come from, never a path; None stands for `data_source`."""
    files: Sequence[Path] = ()
    """The files that are read."""
    columns: ColumnTally = field(default_factory=lambda: ColumnTally(()))
    """The columns of the source, counted while the examples are read."""


def prepare(
    name: str, data_set: DataSet, out: Path, limit: int | None = None, *, force: bool = False
) -> Manifest:
    """Write a data set to the folder `out`; `limit` keeps the first examples of each split.

    Raises ConfigError for bad rows, for splits without `train`, and when `out` has earlier results and
    `force` is off. Raises EnvironmentUnfit when `out` cannot be written.
    """
    if not {"train"} <= data_set.splits.keys() <= set(SPLITS):
        found = ", ".join(data_set.splits) or "none"
        raise ConfigError(
            f"{name}: the splits of this data set are {found}",
            "`splits` of its DataSet has to have `train`, and may have `test`",
        )
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}", "give the number of rows to keep of each split, at least 1")
    require_free(out, data_set.files, force=force)
    splits = {split: _rows(name, data_set, split, limit) for split in data_set.splits}
    data_set.columns.check()
    return _write(name, data_set, out, splits)


def _rows(name: str, data_set: DataSet, split: str, limit: int | None) -> list[Row]:
    """The rows of a split, with progress on stderr."""
    rows = []
    for index, example in enumerate(track(islice(data_set.splits[split], limit), f"reading {split}")):
        if example.ground_truth is not None:
            require_answer(example.ground_truth, example.answer_type, f"{name}: {split} row {index}")
        rows.append(to_row(example, split, index, data_set.data_source))
    return rows


def _write(name: str, data_set: DataSet, out: Path, splits: Mapping[str, Sequence[Row]]) -> Manifest:
    """Write all splits, then the manifest. A folder with a manifest is complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with staged(out) as stage:
        for split, rows in splits.items():
            pq.write_table(pa.Table.from_pylist(rows, schema()), stage / f"{split}.parquet")
        manifest = {
            "kind": name,
            "source": data_set.source or data_set.data_source,
            "distillctl": __version__,
            **counts(splits, data_set.columns),
            "source_sha256": _digests(data_set.files),
            "sha256": _digests(sorted(stage.glob("*.parquet"))),
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (stage / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its name."""
    return {path.name: digest(path) for path in paths}
