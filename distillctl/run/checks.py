"""Results of the checks that the preflight makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check."""

    name: str
    level: Literal["ok", "warn"]
    detail: str
    hint: str = ""
    """How to fix it; may be empty."""


def lines(checks: Sequence[Check]) -> list[str]:
    """Each check as one line: `warn eos: DETAIL (fix: HINT)`."""
    return [
        f"{check.level:<4} {check.name}: {check.detail}" + (f" (fix: {check.hint})" if check.hint else "")
        for check in checks
    ]
