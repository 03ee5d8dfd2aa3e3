"""Floats of less than 64 bits as the numbers that were written.

A 32-bit 0.1 converted to a Python float is 0.10000000149011612. The readers here give 0.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Reader = Callable[[Any], Any]


def reader_of(column: Any) -> Reader | None:
    """The reader for Python values of an Arrow type; None for a type without narrow floats."""
    import numpy as np
    import pyarrow as pa

    for is_type, narrow in ((pa.types.is_float32, np.float32), (pa.types.is_float16, np.float16)):
        if is_type(column):
            return _of_number(narrow)
    if pa.types.is_struct(column):
        readers = {field.name: reader for field in column if (reader := reader_of(field.type)) is not None}
        return _of_struct(readers) if readers else None
    is_list = (
        pa.types.is_list(column) or pa.types.is_large_list(column) or pa.types.is_fixed_size_list(column)
    )
    reader = reader_of(column.value_type) if is_list else None
    return None if reader is None else _of_list(reader)


def _of_number(narrow: Any) -> Reader:
    return lambda value: None if value is None else float(str(narrow(value)))


def _of_list(reader: Reader) -> Reader:
    return lambda values: None if values is None else [reader(value) for value in values]


def _of_struct(readers: dict[str, Reader]) -> Reader:
    def read(value: Any) -> Any:
        if value is None:
            return None
        return value | {name: reader(value[name]) for name, reader in readers.items()}

    return read
