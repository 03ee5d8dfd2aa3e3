"""The number that a phrase states, as a person reads it: `about $1,200 per week` is 1200, `2\\sqrt{3}` none.

A number is read with its run, all that operators and brackets join to it: an expression is not the
number that it begins with. Units, currencies and percent signs do not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from distillctl.grading.expressions import Token, evaluate, tokens
from distillctl.grading.runs import Run, around, begin, counts, in_list

"""Words that may stand right before a number, as in Rs500 and US$42."""
_AND = frozenset({"and", "or", "to", "und", "oder", "y", "o", "ou", "et", "和", "或"})
_OF = frozenset({"of", "plus", "minus", "times"})
_IS = frozenset({"is", "are", "was", "were", "be", "equals", "equal", "costs", "cost", "becomes", "gives"})
_MAX_UNIT_WORDS = 3
_AFTER_NUMBER = re.compile(r"[^\d+*=()\[\]{}<>]*(?:\^[{(]?-?\d[})]?)?[^\d+*=^()\[\]{}<>]*")
_BETWEEN_DIGITS = re.compile(r"[,'\u2019\u2009]|(?<=\d) (?=\d{3}(?!\d))")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text states as its answer."""

    text: str
    """A number without separators and units, or the words or the expression as they stand."""
    value: Fraction | None
    """None when that is no single number."""


def parse_number(text: str) -> Fraction | None:
    """The exact value of a plain text that is one number or computation, currency and unit allowed."""
    found = tokens(text.strip())
    run = begin(found, prose=False)
    if run is None or not _AFTER_NUMBER.fullmatch(text.strip(), found[run.high - 1].end):
        return None
    return None if in_list(found, run) else evaluate(found[run.low : run.high])


def phrase_number(text: str) -> Reading:
    """The number that a phrase of plain text states; no value for an expression that cannot be computed, a
    list, or a hedge such as `15 or 20`.

    It is the one that the phrase begins with, else the right side of an equation, else the first number after
    the last verb, else the first of all.
    """
    found = tokens(text)
    run = begin(found, prose=False)
    if run is None or _goes_on(found, run):
        run = _right_side(found) or (None if run else _stated(found))
    if run is None:
        return Reading(text, None)
    return _reading(text, found, run, lists=True)


def last_number(text: str) -> Reading | None:
    """The last number of a plain text with its run; None without a number."""
    found = tokens(text)
    anchor = next((i for i in reversed(range(len(found))) if counts(found, i)), None)
    if anchor is None:
        return None
    return _reading(text, found, around(found, anchor, prose=True), lists=False)


def begins_with_number(text: str) -> bool:
    """Whether a phrase begins with a number or an expression, or says `x = ` or `Total: ` before one."""
    found = tokens(text)
    named = len(found) > 2 and found[0].kind in ("word", "letter") and found[1].kind in ("equals", "colon")
    return begin(found, prose=False) is not None or (named and begin(found[2:], prose=False) is not None)


def has_number(text: str) -> bool:
    """Whether a plain text has a number that is no part of a word."""
    found = tokens(text)
    return any(counts(found, i) for i in range(len(found)))


def _reading(text: str, found: Sequence[Token], run: Run, *, lists: bool) -> Reading:
    """Of one run; `lists`: numbers joined by commas are several answers."""
    value = evaluate(found[run.low : run.high])
    stretch = text[found[run.low].start : found[run.high - 1].end]
    if value is None or in_list(found, run) or _is_unfinished(found, run):
        return Reading(text.strip() if lists else stretch, None)
    other = _joined(found, run, lists=lists)
    if other is not None and other.value != value:
        if other.mixed and other.value is not None and value.denominator == 1:
            return Reading(str(value + other.value), value + other.value)
        return Reading(text.strip(), None)
    return Reading(_spelled(found[run.low : run.high], value), value)


def _is_unfinished(found: Sequence[Token], run: Run) -> bool:
    """Whether a computation stands before an equals sign that nothing follows."""
    rest = found[run.high : run.high + 2]
    computed = any(
        token.kind in ("sign", "times", "over", "power") for token in found[run.low + 1 : run.high]
    )
    return computed and bool(rest) and rest[0].kind == "equals" and (len(rest) < 2 or rest[1].kind == "line")


def _spelled(run: Sequence[Token], value: Fraction) -> str:
    """A number or a fraction as it is written, without separators; the value of a computation."""
    kept = [token for token in run if token.kind not in ("currency", "percent")]
    shape = [token.kind for token in kept if token.kind != "sign"]
    signs = sum(token.text == "-" for token in kept if token.kind == "sign")
    if shape not in (["number"], ["number", "over", "number"]) or len(kept) > len(shape) + 1:
        return str(value)
    sign = "-" if signs else ""
    return sign + "".join(_BETWEEN_DIGITS.sub("", token.text) for token in kept if token.kind != "sign")


def _goes_on(found: Sequence[Token], run: Run) -> bool:
    """Whether a computation goes on after a run and its unit: `5 boxes * 3`, `2/3 of 30`, `6 =`."""
    i = run.high
    for _ in range(_MAX_UNIT_WORDS + 1):
        if i >= len(found):
            return False
        kind = found[i].kind
        if kind == "equals":
            return True
        if kind == "word" and found[i].text.lower() in _OF:  # 2/3 of 30, but not 42 of 50
            return found[i].text.lower() != "of" or _is_share(found[run.low : i])
        if kind in ("times", "over", "sign") or found[i].text in ("x", "X"):
            follows = found[i + 1].kind if i + 1 < len(found) else ""
            return follows in ("number", "open", "currency") and found[i].text != "-"
        if kind not in ("word", "percent", "currency"):
            return False
        i += 1
    return False


def _is_share(part: Sequence[Token]) -> bool:
    """Whether these tokens are a fraction or a percentage, which `of` makes a computation of."""
    return any(token.kind in ("over", "fraction", "percent") for token in part)


def _right_side(found: Sequence[Token]) -> Run | None:
    """The run after the last equals sign that has a number behind it on its line."""
    for i in reversed(range(len(found))):
        if found[i].kind == "equals":
            rest = found[i + 1 :]
            line = next((k for k, token in enumerate(rest) if token.kind == "line"), len(rest))
            run = begin(rest[:line], prose=False) or _first(rest[:line])
            if run is not None:
                return Run(run.low + i + 1, run.high + i + 1)
            before = next((k for k in reversed(range(i)) if counts(found, k)), None)
            if before is not None and found[before + 1 : i + 1] and before + 1 == i:
                return around(found, before, prose=False)
    return None


def _stated(found: Sequence[Token]) -> Run | None:
    """The first number after the last verb or colon that has one behind it, else the first of all."""
    marks = [i for i, token in enumerate(found) if token.kind == "colon" or token.text.lower() in _IS]
    for mark in reversed(marks):
        run = _first(found[mark + 1 :])
        if run is not None:
            return Run(run.low + mark + 1, run.high + mark + 1)
    return _first(found)


def _first(found: Sequence[Token]) -> Run | None:
    """The run of the first number that is not denied, as in `not 5 but 6`."""
    for i in range(len(found)):
        if counts(found, i):
            run = around(found, i, prose=False)
            denied = run.low > 0 and found[run.low - 1].text.lower() in ("not", "isn't", "n't", "than")
            if not denied:
                return run
    return None


@dataclass(frozen=True, slots=True)
class _Other:
    """A number joined to a run by nothing but `and`, `or`, `to` or a comma."""

    value: Fraction | None
    mixed: bool
    """Whether it makes a mixed number of the run, as in `3 and 1/2`."""


def _joined(found: Sequence[Token], run: Run, *, lists: bool) -> _Other | None:
    """The number that stands beside a run as an equal; `lists`: a list with commas counts too."""
    i = run.high
    unit = i < len(found) and found[i].kind in ("word", "currency") and found[i].text.lower() not in _AND
    i += unit
    if i < len(found) and _is_joint(found[i], lists=lists):
        commas = found[i].kind == "comma"
        while i < len(found) and _is_joint(found[i], lists=lists):
            i += 1
        other = begin(found[i:], prose=False)
        if other is not None and (not commas or _ends_list(found, i + other.high)):
            stretch = found[i : i + other.high]
            value = evaluate(stretch)
            least = evaluate(found[run.low : run.high])
            if found[i - 1].text == "to" and value is not None and least is not None and value < least:
                return None  # rounded to 3 decimals
            proper = value is not None and 0 < value < 1 and any(token.kind == "over" for token in stretch)
            return _Other(value, mixed=proper and not unit and found[i - 1].text.lower() == "and")
    return _joined_before(found, run, lists=lists)


def _joined_before(found: Sequence[Token], run: Run, *, lists: bool) -> _Other | None:
    """The number before `and` or `or` and a run, or before `or x =` and one; `lists`: it may have a unit."""
    i = run.low - 1
    named = i > 1 and found[i].kind == "equals" and found[i - 1].kind in ("word", "letter")
    i -= 2 * named
    listed = named and lists and i > 0 and found[i].kind == "comma"  # x = 3, y = 4
    if i < 1 or not (listed or found[i].text.lower() in _AND):
        return None
    i -= 1
    if i > 0 and found[i].kind in ("currency", "percent", *(["word"] if lists else [])):
        i -= 1
    if not counts(found, i):
        return None
    other = around(found, i, prose=True)
    return _Other(evaluate(found[other.low : other.high]), mixed=False)


def _is_joint(token: Token, *, lists: bool) -> bool:
    return token.text.lower() in _AND or token.text == "&" or (lists and token.text in (",", ";"))


def _ends_list(found: Sequence[Token], i: int) -> bool:
    """Whether a list ends or goes on at token `i`, perhaps after a unit."""
    if i < len(found) and found[i].kind == "word" and found[i].text.lower() not in _AND:
        i += 1
    rest = found[i : i + 1]
    return not rest or rest[0].kind in ("comma", "line") or rest[0].text in (".", ";", "and", "or")
