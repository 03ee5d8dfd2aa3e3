"""Equations, and computations that continue after a number's unit: `5 boxes * 3`, `2 h 5 min = 125 min`."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.answers.clauses import SO, ends_sentence, is_verb, word
from distillctl.answers.expressions import Token, glued
from distillctl.answers.runs import Run, around, begin, counts, number_runs
from distillctl.answers.standing import ARTICLES, MAX_WORDS, is_denied

_OF = frozenset({"of", "plus", "minus", "times"})
_MAX_UNIT_WORDS = 3


def right_side(found: Sequence[Token]) -> Run | None:
    """The run after the last equals sign that a number follows on its line.

    For `75 min = 1 h 15 min` it is the run of the side that is a single number.
    """
    end = len(found)  # the end of the right side of the equals sign at i
    for i in reversed(range(len(found))):
        if found[i].kind == "line":
            end = i
        elif found[i].kind == "equals":
            rest = found[i + 1 : end]
            run = begin(rest, prose=False) or _first(rest)
            if run is not None:
                left = begin(found[:i], prose=False)
                if (
                    left
                    and _is_compound(rest, run)
                    and not _is_compound(found[:i], left)
                    and _ends(found, left, i)
                ):
                    return left
                return Run(run.low + i + 1, run.high + i + 1)
            if i and counts(found, i - 1):
                return around(found, i - 1, prose=False)
            end = i + 1
    return None


def _first(found: Sequence[Token]) -> Run | None:
    """The run of the first number that is not denied: 6 in `not 5 but 6`."""
    runs = number_runs(found, 0, len(found), prose=False)
    return next((run for run in runs if not is_denied(found, run)), None)


def _ends(found: Sequence[Token], run: Run, end: int) -> bool:
    """Whether at most a unit comes between a run and `end`."""
    return end - run.high <= 1 and all(token.kind == "word" for token in found[run.high : end])


def _is_compound(found: Sequence[Token], run: Run) -> bool:
    """Whether another number and unit follow a run and its unit, as in `1 hour 15 minutes`."""
    i = run.high
    if i < len(found) and found[i].kind in ("word", "letter"):
        i += 1
        i += i < len(found) and (word(found[i]) == "and" or found[i].kind == "comma")
        return i < len(found) and counts(found, i) and i > run.high
    return False


def goes_on(found: Sequence[Token], run: Run) -> bool:
    """Whether a computation continues after a run's unit: `5 boxes * 3`, `2/3 of 30`, `2 h 5 min = `."""
    i = run.high
    if _is_compound(found, run) and any(is_verb(token) for token in found[i : i + 2 * MAX_WORDS]):
        return True  # as in 3 m 20 cm is 320 cm
    for _ in range(_MAX_UNIT_WORDS + 1):
        if i >= len(found):
            return False
        kind = found[i].kind
        if kind == "word" and word(found[i]) in _OF:
            if _computes(found, run, i):
                return True
            break
        if kind in ("times", "over", "sign") or found[i].text in ("x", "X"):
            follows = found[i + 1].kind if i + 1 < len(found) else ""
            joins = follows in ("number", "open", "currency") and found[i].text != "-"
            return joins or (kind == "over" and _has_equation(found, i))
        if kind not in ("word", "percent", "currency"):
            break
        i += 1
    return _has_equation(found, run.high)


def _has_equation(found: Sequence[Token], i: int) -> bool:
    """Whether an equals sign follows token `i` in the same clause or in a clause that begins with `so`."""
    while i < len(found):
        token = found[i]
        if token.kind == "equals":
            return True
        if (
            token.kind in ("line", "open", "colon")
            or word(token) in ("because", "since")
            or ends_sentence(found, i)
        ):
            return False
        follows = found[i + 1] if i + 1 < len(found) else token
        if token.kind == "comma" and word(follows) not in SO | {"which", "and", "for"}:
            return False
        if token.text == "-" and not glued(found, i) and follows.kind not in ("number", "currency", "open"):
            return False
        i += 1
    return False


def _computes(found: Sequence[Token], run: Run, i: int) -> bool:
    """Whether the word of `_OF` at `i` computes with a run: `2/3 of 30`, not `42 of 50` or `3/4 of it`."""
    if word(found[i]) == "of":
        if not _is_share(found[run.low : i]):
            return False
        if any(token.kind == "equals" for token in found[i:]):
            return True
    at = i + 1 + (i + 1 < len(found) and word(found[i + 1]) in ARTICLES)
    return at < len(found) and found[at].kind in ("number", "open", "currency", "root", "fraction")


def _is_share(part: Sequence[Token]) -> bool:
    """Whether these tokens are a fraction or a percentage, so that `of` after them means a product."""
    return any(token.kind in ("over", "fraction", "percent") or token.text == "percent" for token in part)
