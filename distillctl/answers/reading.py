"""The number that a phrase states, as a person reads it: `about $1,200 per week` is 1200, `2\\sqrt{3}` none.

A number is read together with its run, which is everything that operators and brackets join to it. So an
expression never counts as the number that it begins with. Units, currencies and percent signs are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from distillctl.answers.clauses import reason, without_brackets
from distillctl.answers.computing_words import tokens
from distillctl.answers.expressions import Token, digits, evaluate
from distillctl.answers.figures import is_figure
from distillctl.answers.runs import Run, around, begin, counts, in_list
from distillctl.answers.sentence import concludes, last_run, phrase_run
from distillctl.answers.standing import is_denied

MAX_STATED = 2000
"""Most characters of a phrase that states a number; longer phrases have no value."""
_AND = frozenset({"and", "or", "to", "und", "oder", "y", "o", "ou", "et", "和", "或"})
_AFTER_NUMBER = re.compile(r"[^\d+*=()\[\]{}<>]*(?:\^[{(]?-?\d[})]?)?[^\d+*=^()\[\]{}<>]*")
_BOUNDS = frozenset({
    ("at", "least"), ("at", "most"), ("more", "than"), ("less", "than"), ("fewer", "than"), ("much", "as"),
    ("many", "as"), ("greater", "than"), ("larger", "than"), ("higher", "than"), ("smaller", "than"),
    ("lower", "than"),
})  # fmt: skip
_STATES = frozenset({"is", "are", "was", "be", "answer", "has", "have", "of"})
"""Words after which `up to` means a bound; in `adds up to` it does not."""
_LESS_OR_MORE = frozenset(
    {"more", "less", "fewer", "greater", "higher", "lower", "above", "below", "over", "under"}
)


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer that a text states."""

    text: str
    """A number without separators and units, or the words or the expression as written."""
    value: Fraction | None
    """The exact value; None if the answer is not a single number."""
    is_figure: bool = False
    """Whether the answer is a figure (`figures.is_figure`); a ground truth that is one has no value."""


def parse_number(text: str) -> Fraction | None:
    """The exact value of a plain text that is one number or computation, perhaps with currency or unit."""
    if len(text) > MAX_STATED:
        return None
    found = tokens(text.strip())
    run = begin(found, prose=False)
    if run is None or not _AFTER_NUMBER.fullmatch(text.strip(), found[run.high - 1].end):
        return None
    return None if in_list(found, run) or _is_bound(found, run) else evaluate(found[run.low : run.high])


def phrase_number(text: str) -> Reading:
    """The number that a phrase of plain text states.

    It is the number that the phrase begins with, else the number that its sentence states (`sentence`). An
    expression that cannot be computed, a list, or a hedge such as `15 or 20` has no value.
    """
    if len(text) > MAX_STATED:
        return Reading(text, None)
    found = without_brackets(tokens(text))
    found = found[: reason(found)]
    run = phrase_run(found)
    if run is None:
        return Reading(text, None)
    return _reading(text, found, run, lists=True)


def last_number(text: str) -> Reading | None:
    """The number that the last sentence with a number states; None if the text has no number."""
    found = without_brackets(tokens(text))
    run = last_run(found)
    return None if run is None else _reading(text, found, run, lists=False)


def concluded_number(text: str) -> Reading | None:
    """`last_number` if its sentence draws a conclusion with it, as in `so 42`, `= 42` or `42 in total`."""
    found = without_brackets(tokens(text))
    run = last_run(found)
    return None if run is None or not concludes(found, run) else _reading(text, found, run, lists=False)


def only_number(text: str) -> Reading | None:
    """`last_number` if the text has no other number."""
    found = without_brackets(tokens(text))
    run = last_run(found)
    if run is None or any(counts(found, i) and not run.low <= i < run.high for i in range(len(found))):
        return None
    return _reading(text, found, run, lists=False)


def begins_with_number(text: str) -> bool:
    """Whether a phrase begins with a number or an expression, perhaps after `x = ` or `Total: `."""
    found = tokens(text)
    named = len(found) > 2 and found[0].kind in ("word", "letter") and found[1].kind in ("equals", "colon")
    return begin(found, prose=False) is not None or (named and begin(found[2:], prose=False) is not None)


def has_number(text: str) -> bool:
    """Whether a plain text has a number that is not part of a word and not denied."""
    found = tokens(text)
    return any(counts(found, i) and not is_denied(found, Run(i, i + 1)) for i in range(len(found)))


def _reading(text: str, found: Sequence[Token], run: Run, *, lists: bool) -> Reading:
    """The reading of one run. `lists`: numbers joined by commas count as several answers."""
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
    """Whether a run is a computation before an equals sign that nothing follows."""
    rest = found[run.high : run.high + 2]
    computed = any(
        token.kind in ("sign", "times", "over", "power") for token in found[run.low + 1 : run.high]
    )
    return computed and bool(rest) and rest[0].kind == "equals" and (len(rest) < 2 or rest[1].kind == "line")


def _spelled(run: Sequence[Token], value: Fraction) -> str:
    """A number or fraction as written, but without separators; for a computation, its value."""
    kept = [token for token in run if token.kind not in ("currency", "percent")]
    shape = [token.kind for token in kept if token.kind != "sign"]
    signs = sum(token.text == "-" for token in kept if token.kind == "sign")
    if shape not in (["number"], ["number", "over", "number"]) or len(kept) > len(shape) + 1:
        return str(value)
    sign = "-" if signs else ""
    written = sign + "".join(digits(token.text) for token in kept if token.kind != "sign")
    return written if re.fullmatch(r"[-\d./]+(?:[eE][-+]?\d+)?", written) else str(value)


def _is_bound(found: Sequence[Token], run: Run) -> bool:
    """Whether a run is a bound instead of a value: `at least 42`, `42 or more`, `42+`."""
    before = [token.text.lower() for token in found[max(0, run.low - 2) : run.low]]
    if tuple(before) in _BOUNDS:
        return not (before[1] == "than" and run.low > 2 and found[run.low - 3].kind == "number")
    if tuple(before) == ("up", "to"):
        return run.low == 2 or found[run.low - 3].text.lower() in _STATES
    rest = found[run.high : run.high + 5]
    is_result = run.low > 0 and found[run.low - 1].kind == "equals"
    for k, token in enumerate([] if is_result else rest[1:], 1):
        if token.text.lower() == "than" and rest[k - 1].text.lower() in _LESS_OR_MORE:
            return k + 1 < len(rest) and rest[k + 1].kind in ("number", "currency")
    rest = rest[:3]
    if rest and rest[0].text == "+":
        return rest[0].start == found[run.high - 1].end
    words = [token.text.lower() for token in rest]
    after = words[1:] if rest and rest[0].kind == "word" and words[0] not in _AND else words[:2]
    is_open = len(after) == 2 and after[0] in ("or", "and") and after[1] in _LESS_OR_MORE
    return is_open or words[:2] in (["at", "least"], ["at", "most"])


@dataclass(frozen=True, slots=True)
class _Other:
    """A number that only `and`, `or`, `to` or a comma separates from a run."""

    value: Fraction | None
    mixed: bool
    """Whether the two form a mixed number, as in `3 and 1/2`."""


def _joined(found: Sequence[Token], run: Run, *, lists: bool) -> _Other | None:
    """The number that a phrase states beside a run as its equal. `lists`: lists with commas count too."""
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
                return None  # as in `rounded to 3 decimals`
            proper = value is not None and 0 < value < 1 and any(token.kind == "over" for token in stretch)
            return _Other(value, mixed=proper and not unit and found[i - 1].text.lower() == "and")
    return _joined_before(found, run, lists=lists)


def _joined_before(found: Sequence[Token], run: Run, *, lists: bool) -> _Other | None:
    """The number before a run and `and`, `or` or `or x =`. `lists`: that number may have a unit."""
    i = run.low - 1
    named = i > 1 and found[i].kind == "equals" and found[i - 1].kind in ("word", "letter")
    named = named and found[i - 1].text != "which"
    name = found[i - 1].text if named else ""
    i -= 2 * named
    listed = named and i > 1 and found[i].kind == "comma" and _is_named(found, i - 1)
    listed = listed and (lists or (len(name) == 1 and _begins(found, i - 3, name)))
    if i < 1 or not (listed or found[i].text.lower() in _AND):
        return None
    i -= 1
    if i > 0 and found[i].kind in ("currency", "percent", *(["word"] if lists else [])):
        i -= 1
    if not counts(found, i):
        return None
    other = around(found, i, prose=True)
    return _Other(evaluate(found[other.low : other.high]), mixed=False)


def _is_named(found: Sequence[Token], i: int) -> bool:
    """Whether token `i` ends an assignment such as `x = 3`, which `y = 4` may follow."""
    return i > 1 and found[i - 1].kind == "equals" and found[i - 2].kind in ("word", "letter")


def _begins(found: Sequence[Token], i: int, name: str) -> bool:
    """Whether a clause begins with the unknown `name` at token `i`, unlike in `2x = 10`."""
    starts = i == 0 or found[i - 1].kind in ("word", "line", "comma", "colon")
    return found[i].text == name and starts


def _is_joint(token: Token, *, lists: bool) -> bool:
    return token.text.lower() in _AND or token.text == "&" or (lists and token.text in (",", ";"))


def _ends_list(found: Sequence[Token], i: int, *, semicolon: bool) -> bool:
    """Whether a list ends or continues at token `i`, perhaps after a unit.

    `semicolon`: whether semicolons separate its items.
    """
    if i < len(found) and found[i].kind == "word" and found[i].text.lower() not in _AND:
        i += 1
    rest = found[i : i + 1]
    if rest and rest[0].kind == "comma":
        return not semicolon
    return not rest or rest[0].kind == "line" or rest[0].text in (".", ";", "and", "or")
