"""The rows of a parquet file as plain Python values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillctl.data.columns import may_change_prompt
from distillctl.data.narrow_floats import reader_of
from distillctl.data.values import bad_row, no_column
from distillctl.errors import ConfigError
from distillctl.files.parquet import opened_parquet
from distillctl.terminal.stream import inline

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 256
"""Rows that are unpacked at a time."""
UNREADABLE = object()
"""Stands for a value that Python cannot represent, such as a date in the year 20000, in a column that is not
used. It counts as a value that is not text."""


def parquet_rows(path: Path, columns: Sequence[str], *, whole: bool) -> Iterator[tuple[str, Any]]:
    """Each row as (`file: row N`, its fields).

    The fields are those of `columns` and those that may change the prompt; with `whole`, all fields. Raises
    ConfigError for a file that cannot be read, a column that appears twice, and a value in `columns` that
    Python cannot represent; without `whole`, also when the first of `columns` is missing.
    """
    with opened_parquet(path, () if whole else columns) as file:
        names = file.schema_arrow.names
        if not whole and columns[0] not in names:
            raise no_column(str(path), columns[0], names)
        wanted = [name for name in names if whole or name in columns or may_change_prompt(name)]
        if len(set(wanted)) < len(wanted):
            twice = next(name for name in wanted if wanted.count(name) > 1)
            raise ConfigError(f"{path}: has two columns `{inline(twice)}`", "rename or drop one of them")
        first = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
            found = batch.schema.names
            values = [
                _values(column, path, first, name, used=name in columns)
                for name, column in zip(found, batch.columns, strict=True)
            ]
            for offset, row in enumerate(zip(*values, strict=True)):
                yield f"{path}: row {first + offset}", dict(zip(found, row, strict=True))
            first += batch.num_rows


def _values(column: pa.Array, path: Path, first: int, name: str, *, used: bool) -> list[Any]:
    """A column of the batch that begins with row `first`."""
    import pyarrow as pa

    failures = (pa.ArrowException, KeyError, OverflowError, TypeError, ValueError)
    try:
        found = column.to_pylist()
    except failures:
        found = []
        for offset, scalar in enumerate(column):
            try:
                found.append(scalar.as_py())
            except failures as error:
                if used:
                    raise bad_row(
                        f"{path}: row {first + offset}: `{inline(name)}` cannot be read: {error}",
                        "correct that value, or store the column as text",
                    ) from None
                found.append(UNREADABLE)
    reader = reader_of(column.type) if used else None
    return found if reader is None else [reader(value) for value in found]
