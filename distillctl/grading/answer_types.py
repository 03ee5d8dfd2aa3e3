"""Answer types: what a ground truth is, by `reward_model.style` of its row.

Each type is a file in `types/`. The file's name is the style, and its `TYPE` is an `AnswerType`. The text
before the end of a response's last think block does not count. `docs/eval.md` has a table of the types.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from distillctl.answers.final_answer import fold
from distillctl.errors import ConfigError
from distillctl.grading import types

DEFAULT = "numeric"
"""The type of a row whose style names no type, such as verl's `rule`."""
ANSWER_TYPES = tuple(sorted(module.name for module in iter_modules(types.__path__)))
"""The names of all answer types, in alphabetical order."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a response is right."""

    same: bool
    extracted: str | None
    """The final answer that was compared with the ground truth; None when the response has none."""
    timed_out: bool = False
    """Whether the comparison took too long. The response then counts as wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerType:
    """How responses are compared with ground truths of a type. All functions take and give plain text."""

    compare: Callable[[Sequence[tuple[str, str]]], list[Verdict]]
    """Gives verdicts on pairs of a response and its ground truth, in order. `each` makes such a function from
    one that compares a single pair."""
    fault: Callable[[str], str | None] = lambda truth: None
    """Says what is wrong with a ground truth, in words that follow "`ground_truth`"; None if nothing is."""
    truth: Callable[[str], str] = str.strip
    """Gives the ground truth that `prep` writes for the text of an answer field."""
    truth_in_turn: Callable[[str], str | None] = lambda turn: None
    """Gives the ground truth that an assistant's whole turn states, as grading finds it; None if it states
    none."""
    answer_key: Callable[[str], Hashable] = fold
    """Gives a key that equal final answers share, so that a majority vote counts them together. By default it
    is the text without case, spacing and outer punctuation."""


def each(compare: Callable[[str, str], Verdict]) -> Callable[[Sequence[tuple[str, str]]], list[Verdict]]:
    """`AnswerType.compare` from a function of one response and its ground truth."""
    return lambda pairs: [compare(response, truth) for response, truth in pairs]


def answer_type(style: object) -> str:
    """The answer type of a row from its `reward_model.style`; `rule` and anything unknown are numeric."""
    return style if isinstance(style, str) and style in ANSWER_TYPES else DEFAULT


@cache
def load(name: str) -> AnswerType:
    """The answer type of a name in `ANSWER_TYPES`. The first call for a name imports its file.

    Raises ConfigError for a file without `TYPE`.
    """
    assert name in ANSWER_TYPES
    module = import_module(f"{types.__name__}.{name}")
    found = getattr(module, "TYPE", None)
    if not isinstance(found, AnswerType):
        raise ConfigError(
            f"{module.__file__}: defines no TYPE", "set TYPE to an AnswerType, or move the file"
        )
    return found


def require_answer(truth: str, kind: str, where: str) -> None:
    """Raise ConfigError for an unknown answer type, and a ground truth that does not fit its answer type."""
    if kind not in ANSWER_TYPES:
        raise ConfigError(
            f"{where}: no answer type is named {kind!r}", f"there are: {', '.join(ANSWER_TYPES)}"
        )
    fault = load(kind).fault(truth)
    if fault is not None:
        raise ConfigError(f"{where}: `ground_truth` {fault}", "correct that row, or leave it out")
