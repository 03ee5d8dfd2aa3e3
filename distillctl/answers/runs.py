"""Finding the run of a number: the tokens that belong to the same expression.

The run holds everything that operators and brackets join to the number. A dash may be a minus, a hyphen or a
bullet. Digits with a point or a colon between them may be something else, such as a version or a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distillctl.answers.expressions import CJK, Token, glued

_OPERANDS = frozenset({"number", "fraction", "root", "open", "letter", "command", "currency", "sign"})
_VALUES = frozenset({"number", "close", "percent", "letter", "bang", "command"})
_OPERATORS = frozenset({"times", "over", "power"})
_PROSE = frozenset({
    "\\ldots", "\\dots", "\\cdots", "\\checkmark", "\\square", "\\blacksquare", "\\Box", "\\therefore",
    "\\because", "\\newline", "\\begin", "\\end", "\\item", "\\qed", "\\hline", "\\text", "\\boxed",
})  # fmt: skip
"""Commands that do not belong to an expression."""
_CODES = frozenset(
    {"US", "USD", "EUR", "GBP", "INR", "CNY", "RMB", "JPY", "AUD", "CAD", "CHF", "Rs", "Re", "A"}
)
_CALLED = frozenset({"log", "ln", "sin", "cos", "tan"})
_MAX_LIST = 60


@dataclass(frozen=True, slots=True)
class Run:
    """The tokens from `low` to `high` (exclusive) that belong together with a number."""

    low: int
    high: int


def counts(found: Sequence[Token], i: int) -> bool:
    """Whether token `i` is a number by itself, not the end of a word (m2, x_1) or an exponent (cm^2)."""
    if found[i].kind != "number":
        return False
    before = i - 1
    while before >= 0 and found[before].kind in ("sign", "open") and found[before].text in "-({":
        before -= 1
    if before >= 0 and found[before].kind == "power":
        return before > 0 and found[before - 1].kind in ("number", "close")
    if i == 0 or not glued(found, i):
        return True
    last = found[i - 1]
    word = last.kind in ("word", "letter") and last.text[-1] < CJK and last.text not in _CODES
    return not word and last.kind != "index"


def begin(found: Sequence[Token], *, prose: bool) -> Run | None:
    """The run that a phrase begins with; None if it begins with none or the run has no number."""
    if not found or found[0].kind not in _OPERANDS | {"relation"}:
        return None
    high = 1
    while high < len(found) and _connects(found, high - 1, prose=prose):
        high += 1
    high = _balanced(found, 0, high)
    first = next((i for i in range(high) if found[i].kind == "number"), None)
    if first is None:
        return None
    return Run(0, high) if found[0].kind != "open" or high > 1 else None


def around(found: Sequence[Token], anchor: int, *, prose: bool) -> Run:
    """The run that holds token `anchor`."""
    low = anchor
    high = anchor + 1
    while low > 0 and _connects(found, low - 1, prose=prose):
        low -= 1
    while high < len(found) and _connects(found, high - 1, prose=prose):
        high += 1
    return _bracketed(found, low, anchor, high)


def _stretches(found: Sequence[Token], low: int, end: int, *, prose: bool) -> Iterator[tuple[int, int]]:
    """The longest stretches of tokens that belong together, from token `low` to `end`."""
    start = low
    for i in range(low, end):
        if i + 1 >= end or not _connects(found, i, prose=prose):
            yield start, i + 1
            start = i + 1


def number_runs(found: Sequence[Token], low: int, end: int, *, prose: bool) -> list[Run]:
    """The runs of the numbers from token `low` to `end`.

    A stretch whose brackets do not close gives the runs of its first and of its last number.
    """
    runs: list[Run] = []
    for start, stop in _stretches(found, low, end, prose=prose):
        numbers = [i for i in range(start, stop) if counts(found, i)]
        for i in (*numbers[:1], *numbers[1:][-1:]):
            if not runs or i >= runs[-1].high:
                runs.append(around(found, i, prose=prose))
    return runs


def _bracketed(found: Sequence[Token], low: int, anchor: int, high: int) -> Run:
    """The part of a run around `anchor` in which all brackets are paired."""
    depth = 0
    closed = _closed_after(found, anchor, high)
    for i in range(anchor - 1, low - 1, -1):
        depth += {"close": 1, "open": -1}.get(found[i].kind, 0)
        if depth < 0 and closed < -depth:
            low = i + 1
            break
    return Run(low, _balanced(found, low, high))


def _closed_after(found: Sequence[Token], anchor: int, high: int) -> int:
    """How many of the brackets that are open at `anchor` close before `high`."""
    depth = most = 0
    for i in range(anchor, high):
        depth += {"close": 1, "open": -1}.get(found[i].kind, 0)
        most = max(most, depth)
    return most


def _balanced(found: Sequence[Token], low: int, high: int) -> int:
    """The end of the longest part from `low` whose brackets all close."""
    depth = 0
    end = low
    for i in range(low, high):
        depth += {"open": 1, "close": -1}.get(found[i].kind, 0)
        if depth < 0:
            return i
        if depth == 0:
            end = i + 1
    while end > low + 1 and found[end - 1].kind in _OPERATORS | {"sign"}:
        end -= 1
    return max(end, low + 1)


def _connects(found: Sequence[Token], i: int, *, prose: bool) -> bool:
    """Whether token `i` and the next one belong to the same expression.

    `prose`: a dash between numbers without spaces is a hyphen, and a dash that begins a line is a bullet.
    """
    left = found[i]
    right = found[i + 1]
    after = found[i + 2].kind if i + 2 < len(found) else ""
    if left.kind == "other" or right.kind == "other":  # as in 1.2.3
        return _inside(found, i, ".")
    if left.kind == "colon" or right.kind == "colon":  # as in 3:30
        return _inside(found, i, ":")
    if any(token.text in _PROSE for token in (left, right)):
        return False
    if left.kind == "sign":
        return right.kind in _OPERANDS and _is_sign(found, i, prose=prose)
    if left.kind in _OPERATORS:
        return right.kind in _OPERANDS and i > 0 and found[i - 1].kind in _VALUES
    if right.kind == "sign":
        joins = after in _OPERANDS and not (prose and right.text == "-" and _glued_dash(found, i + 1))
        return (left.kind in _VALUES and joins) or left.kind in ("open", "currency", "relation")
    if right.kind in _OPERATORS:
        return left.kind in _VALUES and after in _OPERANDS
    return _adjoins(found, i, prose=prose)


def _adjoins(found: Sequence[Token], i: int, *, prose: bool) -> bool:
    """`_connects` for two tokens that are not operators."""
    left = found[i].kind
    right = found[i + 1].kind
    touching = glued(found, i + 1)
    if left in ("number", "close", "letter") and right == "currency":
        return i + 2 < len(found) and found[i + 2].kind in _OPERATORS | {"sign"}
    if "relation" in (left, right):
        starts_line = i == 0 or found[i - 1].kind == "line"
        return not (prose and found[i].text == ">" and starts_line) and not {left, right} & {"word", "line"}
    if "index" in (left, right):
        return touching
    if left == "number" and right == "number":
        if i > 0 and found[i - 1].kind == "index":  # the base of a logarithm
            return True
        return "".join(token.kind[0] for token in found[i + 1 : i + 4]) == "non" and found[i].text.isdigit()
    if right == "open":
        return left in ("open", "root", "fraction", "currency", "close") or (
            left in ("number", "letter", "command") and touching
        )
    if right in ("percent", "bang"):
        return left in ("number", "close") and (right == "percent" or _is_factorial(found, i + 1))
    if left == "close" and right == "number":
        return False
    if left == "letter" and right == "number":
        is_called = found[i].text in _CALLED or (
            found[i].text == "choose" and i > 0 and _chooses(found[i - 1])
        )
        return touching or is_called
    if right == "letter" and found[i + 1].text == "choose":
        return _chooses(found[i])
    kinds = ("number", "open", "close", "letter", "command", "root", "fraction", "currency")
    return left in kinds and right in kinds and not (left == "currency" and right == "close")


def _chooses(before: Token) -> bool:
    """Whether `choose` after this token is a binomial coefficient, as in `n choose 2`."""
    return before.kind in ("number", "close", "letter") or (len(before.text) == 1 and before.text.islower())


def _is_factorial(found: Sequence[Token], i: int) -> bool:
    """Whether the exclamation mark at token `i` is a factorial and does not end a sentence."""
    return i + 1 < len(found) and found[i + 1].kind in _OPERATORS | {"sign", "close", "equals"}


def _is_sign(found: Sequence[Token], i: int, *, prose: bool) -> bool:
    """Whether the sign at token `i` belongs to what follows: it is neither a hyphen nor a bullet."""
    before = found[i - 1].kind if i else "line"
    touches_next = glued(found, i + 1)
    if before in ("word", *_VALUES):
        if before == "word":
            return not glued(found, i) and touches_next
        return not (prose and found[i].text == "-" and _glued_dash(found, i))
    return touches_next or not prose or before != "line"


def _glued_dash(found: Sequence[Token], i: int) -> bool:
    return glued(found, i) and (i + 1 >= len(found) or glued(found, i + 1))


def _inside(found: Sequence[Token], i: int, mark: str) -> bool:
    """Whether `mark`, at token `i` or the next, is between two numbers without spaces."""
    k = i if found[i].text == mark else i + 1
    if found[k].text != mark or k == 0 or k + 1 >= len(found):
        return False
    return found[k - 1].kind == found[k + 1].kind == "number" and _glued_dash(found, k)


def in_list(found: Sequence[Token], run: Run) -> bool:
    """Whether a run is one of several in brackets: a pair, an interval, a set."""
    commas = 0
    for i in range(run.low - 1, max(-1, run.low - _MAX_LIST), -1):
        commas += found[i].kind == "comma"
        if found[i].kind == "open":
            break
        if found[i].kind in ("word", "line", "other", "close"):
            return False
    else:
        return False
    for i in range(run.high, min(len(found), run.high + _MAX_LIST)):
        commas += found[i].kind == "comma"
        if found[i].kind == "close":
            return commas > 0
        if found[i].kind in ("word", "line", "other", "open"):
            return False
    return False
