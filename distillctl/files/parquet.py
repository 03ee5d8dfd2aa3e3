"""Opening untrusted parquet files: the footer is checked before any page is unpacked.

The counts in the footer need not be true. Checking them gives an early, clear message; `memory_limit` is what
bounds the reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distillctl.errors import ConfigError
from distillctl.files.memory_limit import readable_bytes
from distillctl.files.reading import require_file, require_utf8

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_FREE_VALUES = 200_000
"""Rows, and values of a column, that any file may claim, however small it is."""
_VALUES_PER_BYTE = 100
"""Rows and values on top of that for each byte: equal neighbours take almost no room, but prompts differ."""


@contextmanager
def opened_parquet(
    path: Path,
    columns: Sequence[str] | None = None,
    problem: str = "not a readable parquet file",
    hint: str = "it may be truncated or of another kind: write or download it again",
) -> Iterator[pq.ParquetFile]:
    """Open a parquet file while the context is open.

    Raises ConfigError when it is not a parquet file, and when `columns` (None: all) claim to hold more than
    could be read. Errors that pyarrow raises inside the context become ConfigError with `problem` and `hint`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_utf8(path)
    size = require_file(path)
    try:
        # One page at a time, because pages that are read ahead need memory as well.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            _require_sane(path, size, file.metadata, columns)
            yield file
    except (ConfigError, MemoryError):
        raise
    # pyarrow raises plain Python errors as well, for values that Python cannot represent.
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: {problem}: {error}", hint) from error


def _require_sane(path: Path, size: int, metadata: pq.FileMetaData, columns: Sequence[str] | None) -> None:
    """Refuse a footer that claims more rows or values than the file can hold, or more bytes than memory."""
    num_bytes = 0
    num_values = metadata.num_rows
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            if columns is None or chunk.path_in_schema.split(".")[0] in columns:
                num_bytes += max(chunk.total_uncompressed_size, 0)
                num_values = max(num_values, chunk.num_values)
    hint = "check where it is from: a few bytes can unpack to any number of values"
    if num_values > _FREE_VALUES + _VALUES_PER_BYTE * size:
        raise ConfigError(f"{path}: claims to hold {num_values} values in {size} bytes", hint)
    limit = readable_bytes(size)
    if num_bytes > limit:
        raise ConfigError(
            f"{path}: unpacks from {size} bytes to {num_bytes / 2**30:.1f} GiB, but at most "
            f"{limit / 2**30:.1f} GiB are read",
            hint,
        )
