"""`eval --require`: expressions such as `acc>=0.40`, `acc-baseline>=0.05`, `gap_closed>=0.5`."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distillctl.errors import ConfigError

NAMES = ("acc", "acc_low", "acc_high", "verl_strict", "verl_flexible", "format_rate", "truncation_rate",
         "response_length", "tokens_per_s", "pass_at_k", "maj_at_k", "kl", "gap_closed")  # fmt: skip
"""Values that a requirement may name. All except `gap_closed` also exist as `NAME-baseline`, the difference
from the first baseline."""
BASELINE = "-baseline"
_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_EXPRESSION = re.compile(r"\s*([\w@-]+?)\s*(>=|<=|>|<)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One parsed expression."""

    expression: str
    name: str
    sign: str
    bound: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a requirement holds."""

    expression: str
    met: bool
    reason: str


def parse(expression: str) -> Requirement:
    """Parse `NAME>=NUMBER` (also <=, >, <). Raises ConfigError for anything else."""
    match = _EXPRESSION.fullmatch(expression)
    if match is None:
        raise ConfigError(
            f"--require {expression!r} is not a condition", "e.g. 'acc>=0.40' or 'acc-baseline>=0.05'"
        )
    name, sign, number = match.groups()
    base = name.removesuffix(BASELINE)
    if base not in NAMES or name == f"gap_closed{BASELINE}":
        near = difflib.get_close_matches(base, NAMES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        known = f"{hint}known: {', '.join(NAMES)}"
        raise ConfigError(f"--require {expression!r}: there is no value {name!r}", known)
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        hint = "shares are between 0 and 1"
        raise ConfigError(f"--require {expression!r}: {number!r} is not a number", hint)
    return Requirement(expression.strip(), name, sign, bound)


def check(requirements: Sequence[Requirement], values: Mapping[str, float | None]) -> list[Outcome]:
    """The outcomes in order. A requirement on a value that was not measured is not met."""
    return [_outcome(requirement, values.get(requirement.name)) for requirement in requirements]


def _outcome(requirement: Requirement, value: float | None) -> Outcome:
    if value is None or math.isnan(value):
        return Outcome(
            requirement.expression, False, f"{requirement.name} was not measured{_why(requirement.name)}"
        )
    met = _OPERATORS[requirement.sign](value, requirement.bound)
    return Outcome(requirement.expression, met, f"{requirement.name} is {value:.4g}")


def _why(name: str) -> str:
    """What it takes to measure a value."""
    if name == "gap_closed":
        return ": it needs two --baseline models, the student before training and a teacher that is better"
    if name.startswith("kl"):
        return ": it needs --teacher"
    return ": it needs --baseline" if name.endswith(BASELINE) else ": the data has no ground truth"
