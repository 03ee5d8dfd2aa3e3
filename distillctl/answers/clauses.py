"""The beginnings and ends of sentences and clauses in a plain text, and remarks in brackets beside them."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.answers.expressions import Token, glued
from distillctl.answers.runs import counts

VERBS = frozenset({
    "is", "are", "was", "were", "be", "equals", "equal", "costs", "cost", "becomes", "gives", "giving",
    "leaves", "leaving", "totals", "remain", "remains",
})  # fmt: skip
CIRCUMSTANCE = frozenset({
    "in", "after", "for", "within", "during", "over", "per", "every", "from", "on", "at", "with",
    "between", "until", "before", "since", "among", "amongst", "across", "through", "past", "into",
    "under", "en", "nach", "während", "dans", "pendant", "après", "depuis", "tras", "durante", "por",
    "após", "dopo", "за", "через", "после", "na", "dalam", "sau",
})  # fmt: skip
_CONDITIONS = frozenset({
    "if", "when", "because", "as", "given", "while", "once", "by", "to", "of", "having", "including",
    "though", "although", "starting", "out", "assuming", "considering",
})  # fmt: skip
"""Together with `CIRCUMSTANCE`, words that begin a clause before the main clause."""
SO = frozenset({"so", "therefore", "thus", "hence", "meaning", "making", "giving", "leaving", "bringing"})
TOTAL = frozenset({"total", "altogether", "all", "sum", "overall", "together"})
_MAKING = frozenset({"meaning", "making", "giving", "leaving", "bringing"})
_JOINS = frozenset({"and", "or", "which", "who", "where", "whose", "leaving", "giving", "making"})
_REASON = frozenset({"since", "because", "as", "where"})
_END = frozenset({".", "?", ";"})


def word(token: Token) -> str:
    """The text of a token in lower case."""
    return token.text.lower()


def is_verb(token: Token) -> bool:
    return word(token) in VERBS


def ends_sentence(found: Sequence[Token], i: int) -> bool:
    """Whether a sentence or a line ends with token `i`."""
    if found[i].kind in ("line", "bang"):
        return found[i].kind == "line" or not glued(found, i + 1) if i + 1 < len(found) else True
    return found[i].text in _END and (i + 1 >= len(found) or not glued(found, i + 1))


def main_clause(found: Sequence[Token]) -> int:
    """Where the clause with the result begins: after `so`, after `In 2 days,` or after `If he pays 3,`."""
    num_after = 0  # numbers from token i on
    low = len(found)
    for i in reversed(range(len(found))):
        num_after += counts(found, i)
        if num_after and _draws_conclusion(found, i):
            low = i + 1
            break
    else:
        low = 0
    if low < len(found) and found[low].kind == "comma":
        low += 1
    if low < len(found) and word(found[low]) in _CONDITIONS | CIRCUMSTANCE:
        return _after_comma(found, low)
    return low


def _draws_conclusion(found: Sequence[Token], i: int) -> bool:
    """Whether token `i` is a word of `SO` that begins a clause, unlike in `so many` and `giving away`."""
    text = word(found[i])
    if text in _MAKING:
        return i > 0 and found[i - 1].kind == "comma"
    return text in SO and (text != "so" or i == 0 or found[i - 1].kind != "word")


def _after_comma(found: Sequence[Token], low: int) -> int:
    numbers = [i for i in range(low, len(found)) if counts(found, i)]
    for i in range(low, len(found) - 1):
        if found[i].kind == "comma" and not glued(found, i + 1):
            follows = found[i + 1]
            if (
                numbers
                and numbers[-1] > i
                and follows.kind in ("word", "letter")
                and word(follows) not in _JOINS
            ):
                return i + 1
    return low


def reason(found: Sequence[Token]) -> int:
    """Where a reason after a number begins, as in `3, since 12-9=3` or `3 because 3 > 2`; else the end.

    A reason without a comma counts as part of the statement if it computes something.
    """
    last_equals = max((i for i, token in enumerate(found) if token.kind == "equals"), default=-1)
    num_before = 0
    equation = False
    for i, token in enumerate(found):
        text = word(token)
        if num_before and text in _REASON:
            if found[i - 1].text in (",", ";") and (equation or text in ("since", "because")):
                return i - 1
            if text == "because" and last_equals < i:
                return i
        num_before += counts(found, i)
        equation = equation or token.kind == "equals"
    return len(found)


def without_brackets(found: list[Token]) -> list[Token]:
    """Tokens without remarks in round brackets, as in `12 (7 + 5)`; all tokens if no number is outside."""
    kept: list[Token] = []
    i = 0
    closes = _closings(found)
    while i < len(found):
        close = closes.get(i)
        if close is not None and _is_beside(found, i, close):
            i = close + 1
        else:
            kept.append(found[i])
            i += 1
    return kept if len(kept) < len(found) and any(counts(kept, i) for i in range(len(kept))) else found


def _closings(found: Sequence[Token]) -> dict[int, int]:
    """The closing bracket of each outermost opening round bracket, by token index."""
    closes: dict[int, int] = {}
    opened: list[int] = []
    for i, token in enumerate(found):
        if token.text == "(":
            opened.append(i)
        elif token.text == ")" and opened:
            start = opened.pop()
            if not opened:
                closes[start] = i
    return closes


def _is_beside(found: Sequence[Token], start: int, close: int) -> bool:
    before = found[start - 1] if start else None
    if (
        before is None
        or (before.kind != "line" and glued(found, start))
        or word(before) in VERBS | CIRCUMSTANCE | {"of"}
    ):
        return False
    after = found[close + 1].kind if close + 1 < len(found) else ""
    if after in ("times", "over", "power", "sign", "open", "equals", "number"):
        return False
    if before.kind in ("line", "bang", "other"):
        return any(token.kind == "word" for token in found[start:close]) and before.text != "|"
    return before.kind in ("word", "number", "percent", "currency", "close")
