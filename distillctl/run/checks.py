"""The result of a check that the preflight makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    level: Literal["ok", "warn"]
    detail: str
    hint: str = ""
    """How to change it; may be empty."""


def lines(checks: Sequence[Check]) -> list[str]:
    """Each check as one line: `warn eos: DETAIL (fix: HINT)`."""
    return [
        f"{check.level:<4} {check.name}: {check.detail}" + (f" (fix: {check.hint})" if check.hint else "")
        for check in checks
    ]
