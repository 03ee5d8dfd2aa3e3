"""Values as JSON can hold them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillctl.errors.redact import without_logins


def finite(value: Any) -> Any:
    """`value` in a form that JSON can hold.

    numpy scalars become Python numbers, NaN and infinities None, and paths text. Passwords in addresses are
    masked.
    """
    if isinstance(value, str):
        return without_logins(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value
