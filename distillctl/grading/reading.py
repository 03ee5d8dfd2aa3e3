"""The number that a phrase states, as a person reads it: `about $1,200 per week` is 1200, `2\\sqrt{3}` none.

A number is read with its run, all that operators and brackets join to it: an expression is not the
number that it begins with. Units, currencies and percent signs do not count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from distillctl.grading.computing_words import tokens
from distillctl.grading.expressions import Token, digits, evaluate
from distillctl.grading.figures import is_figure
from distillctl.grading.runs import Run, around, begin, counts, in_list

MAX_STATED = 2000
"""Characters of a phrase that states a number; a longer one has no value."""
_AND = frozenset({"and", "or", "to", "und", "oder", "y", "o", "ou", "et", "和", "或"})
_OF = frozenset({"of", "plus", "minus", "times"})
_ARTICLES = frozenset({"the", "all", "these", "those", "his", "her", "their", "its"})
_IS = frozenset({"is", "are", "was", "were", "be", "equals", "equal", "costs", "cost", "becomes", "gives"})
_MAX_UNIT_WORDS = 3
_AFTER_NUMBER = re.compile(r"[^\d+*=()\[\]{}<>]*(?:\^[{(]?-?\d[})]?)?[^\d+*=^()\[\]{}<>]*")
_REASON = frozenset({"since", "because", "as", "where"})
_BOUNDS = frozenset({
    ("at", "least"), ("at", "most"), ("more", "than"), ("less", "than"), ("fewer", "than"),
})  # fmt: skip
_LESS_OR_MORE = frozenset(
    {"more", "less", "fewer", "greater", "higher", "lower", "above", "below", "over", "under"}
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text states as its answer."""

    text: str
    """A number without separators and units, or the words or the expression as they stand."""
    value: Fraction | None
    """None when that is no single number."""
    is_figure: bool = False
    """Whether the value is that of `figures.is_figure`, which a ground truth is not."""


def parse_number(text: str) -> Fraction | None:
    """The exact value of a plain text that is one number or computation, currency and unit allowed."""
    if len(text) > MAX_STATED:
        return None
    found = tokens(text.strip())
    run = begin(found, prose=False)
    if run is None or not _AFTER_NUMBER.fullmatch(text.strip(), found[run.high - 1].end):
        return None
    return None if in_list(found, run) or _is_bound(found, run) else evaluate(found[run.low : run.high])


def phrase_number(text: str) -> Reading:
    """The number that a phrase of plain text states; no value for an expression that cannot be computed, a
    list, or a hedge such as `15 or 20`.

    It is the one that the phrase begins with, else the right side of an equation, else the first number after
    the last verb, else the first of all.
    """
    if len(text) > MAX_STATED:
        return Reading(text, None)
    found = tokens(text)
    found = found[: _reason(found)]
    run = begin(found, prose=False)
    if run is None or _goes_on(found, run):
        run = _right_side(found) or _stated(found, computed=run is not None)
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
    if value is None or in_list(found, run) or _is_unfinished(found, run) or _is_bound(found, run):
        return Reading(text.strip() if lists else stretch, None)
    other = _joined(found, run, lists=lists)
    if other is not None and other.value != value:
        if other.mixed and other.value is not None and value.denominator == 1:
            return Reading(str(value + other.value), value + other.value)
        return Reading(text.strip(), None)
    return Reading(_spelled(found[run.low : run.high], value), value, is_figure(found, run))


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
    written = sign + "".join(digits(token.text) for token in kept if token.kind != "sign")
    return written if re.fullmatch(r"[-\d./]+(?:[eE][-+]?\d+)?", written) else str(value)


def _goes_on(found: Sequence[Token], run: Run) -> bool:
    """Whether a computation goes on after a run and its unit: `5 boxes * 3`, `2/3 of 30`, `6 =`."""
    i = run.high
    for _ in range(_MAX_UNIT_WORDS + 1):
        if i >= len(found):
            return False
        kind = found[i].kind
        if kind == "equals":
            return True
        if kind == "word" and found[i].text.lower() in _OF:
            return _computes(found, run, i)
        if kind in ("times", "over", "sign") or found[i].text in ("x", "X"):
            follows = found[i + 1].kind if i + 1 < len(found) else ""
            return follows in ("number", "open", "currency") and found[i].text != "-"
        if kind not in ("word", "percent", "currency"):
            return False
        i += 1
    return False


def _computes(found: Sequence[Token], run: Run, i: int) -> bool:
    """Whether word `i` of `_OF` computes with a run: `2/3 of 30`, but neither `42 of 50` nor `3/4 of it`."""
    if found[i].text.lower() == "of":
        if not _is_share(found[run.low : i]):
            return False
        if any(token.kind == "equals" for token in found[i:]):
            return True
    at = i + 1 + (i + 1 < len(found) and found[i + 1].text.lower() in _ARTICLES)
    return at < len(found) and found[at].kind in ("number", "open", "currency", "root", "fraction")


def _is_share(part: Sequence[Token]) -> bool:
    """Whether these tokens are a fraction or a percentage, which `of` makes a computation of."""
    return any(token.kind in ("over", "fraction", "percent") or token.text == "percent" for token in part)


def _is_bound(found: Sequence[Token], run: Run) -> bool:
    """Whether a run is a bound and no value: `at least 42`, `42 or more`, `42+`."""
    before = [token.text.lower() for token in found[max(0, run.low - 2) : run.low]]
    if tuple(before) in _BOUNDS:
        return not (before[1] == "than" and run.low > 2 and found[run.low - 3].kind == "number")
    rest = found[run.high : run.high + 3]
    if rest and rest[0].text == "+":
        return rest[0].start == found[run.high - 1].end
    words = [token.text.lower() for token in rest]
    after = words[1:] if rest and rest[0].kind == "word" and words[0] not in _AND else words[:2]
    is_open = len(after) == 2 and after[0] in ("or", "and") and after[1] in _LESS_OR_MORE
    return is_open or words[:2] in (["at", "least"], ["at", "most"])


def _reason(found: Sequence[Token]) -> int:
    """Where a reason begins that follows an equation and a comma: `x=12, since 12-3=9`; else the end."""
    for i in range(1, len(found) - 1):
        if found[i].text in (",", ";") and found[i + 1].text.lower() in _REASON:
            return i if any(token.kind == "equals" for token in found[:i]) else len(found)
    return len(found)


def _right_side(found: Sequence[Token]) -> Run | None:
    """The run after the last equals sign that has a number behind it on its line."""
    end = len(found)  # of what no later equals sign has behind it
    for i in reversed(range(len(found))):
        if found[i].kind == "line":
            end = i
        elif found[i].kind == "equals":
            rest = found[i + 1 : end]
            run = begin(rest, prose=False) or _first(rest)
            if run is not None:
                return Run(run.low + i + 1, run.high + i + 1)
            if i and counts(found, i - 1):
                return around(found, i - 1, prose=False)
            end = i + 1
    return None


def _stated(found: Sequence[Token], *, computed: bool) -> Run | None:
    """The first number after the last verb or colon that has one behind it, else the first of all; after a
    verb only where a computation is `computed` before it."""
    end = len(found)
    for i in reversed(range(len(found))):
        is_verb = found[i].text.lower() in _IS
        if is_verb or (found[i].kind == "colon" and not computed):
            run = _first(found[i + 1 : end])
            if run is not None:
                return Run(run.low + i + 1, run.high + i + 1)
            end = i + 1
    return None if computed else _first(found)


def _first(found: Sequence[Token]) -> Run | None:
    """The run of the first number that is not denied, as in `not 5 but 6`."""
    i = 0
    while i < len(found):
        if counts(found, i):
            run = around(found, i, prose=False)
            before = found[run.low - 1].text.lower() if run.low else ""
            if before not in ("not", "isn't", "n't", "than", "least", "most"):
                return run
            i = run.high
        i += 1
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
        commas = found[i].text in (",", ";")
        semicolon = found[i].text == ";"
        while i < len(found) and _is_joint(found[i], lists=lists):
            i += 1
        other = begin(found[i:], prose=False)
        if other is not None and (not commas or _ends_list(found, i + other.high, semicolon=semicolon)):
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


def _ends_list(found: Sequence[Token], i: int, *, semicolon: bool) -> bool:
    """Whether a list ends or goes on at token `i`, perhaps after a unit; `semicolon`: between its items."""
    if i < len(found) and found[i].kind == "word" and found[i].text.lower() not in _AND:
        i += 1
    rest = found[i : i + 1]
    if rest and rest[0].kind == "comma":
        return not semicolon
    return not rest or rest[0].kind == "line" or rest[0].text in (".", ";", "and", "or")
