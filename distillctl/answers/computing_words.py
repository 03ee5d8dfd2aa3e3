"""Replacing words that compute by operators, as in `3 times 4`, `half of 42`, `minus 5` and `7 squared`.

Such words count only next to a number: `3 times a week` and `5 plus tip` state 3 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.answers import expressions
from distillctl.answers.expressions import Token

_VALUES = ("number", "close", "percent")
_OPERANDS = ("number", "open", "currency", "root", "fraction")
_BETWEEN: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {
    ("times",): (("times", "*"),),
    ("multiplied", "by"): (("times", "*"),),
    ("divided", "by"): (("over", "/"),),
    ("plus",): (("sign", "+"),),
    ("minus",): (("sign", "-"),),
    ("to", "the", "power", "of"): (("power", "^"),),
    ("over",): (("over", "/"),),
}
"""Words between two values, and the kinds and texts of the tokens that replace them."""
_BEFORE: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {
    ("square", "root", "of"): (("root", "√"),),
    ("cube", "root", "of"): (("command", "\\cbrt"),),
    ("half", "of"): (("number", "1"), ("over", "/"), ("number", "2"), ("times", "*")),
    ("third", "of"): (("number", "1"), ("over", "/"), ("number", "3"), ("times", "*")),
    ("quarter", "of"): (("number", "1"), ("over", "/"), ("number", "4"), ("times", "*")),
    ("twice",): (("number", "2"), ("times", "*")),
    ("thrice",): (("number", "3"), ("times", "*")),
    ("double",): (("number", "2"), ("times", "*")),
    ("triple",): (("number", "3"), ("times", "*")),
    **{
        (part, "of"): (("command", "\\part"),)
        for part in ("thirds", "quarters", "fourths", "fifths", "tenths")
    },
    ("minus",): (("sign", "-"),),
    ("negative",): (("sign", "-"),),
}
"""Words before one value. A command turns it into an expression that has no value."""
_ROUNDS = frozenset({"round", "rounds", "rounded", "rounding"})
"""Words that mean an equals sign if `to` and a value follow: `71.6, which rounds up to 72`."""
_DIGITS = frozenset({"decimal", "decimals", "significant", "places", "digits", "d"})
_POWERS = {"squared": "2", "cubed": "3"}
_FOLLOW = frozenset({"is", "equals", "and", "or", "plus", "minus", "times", "which", "because", "since"})
"""Words after `squared` that are not units; `feet` in `42 squared feet` is one."""
_STATES = frozenset(
    {"is", "are", "was", "be", "equals", "equal", "to", "of", "at", "answer", "get", "gives", "about"}
)
"""Words after which `minus` is a sign."""
_FIRST = frozenset(words[0] for words in (*_BETWEEN, *_BEFORE)) | _ROUNDS | {*_POWERS, "of"}


def tokens(text: str) -> list[Token]:
    """All tokens of a plain text, with operators in place of words that compute."""
    found = expressions.tokens(text)
    kept: list[Token] = []
    i = 0
    while i < len(found):
        made, used = _operators(found, i, kept) if found[i].text.lower() in _FIRST else ([], 1)
        kept += made or found[i : i + 1]
        i += used
    return kept


def _operators(found: Sequence[Token], i: int, before: Sequence[Token]) -> tuple[list[Token], int]:
    """The operators that replace the words from token `i`, and the number of these words."""
    word = found[i].text.lower()
    if word in _POWERS:
        return _power(found, i, before), 1
    if word == "of":
        shape = [token.kind for token in before[-3:]]
        is_share = shape == ["number", "over", "number"] or shape[-1:] == ["percent"]
        return (_made(found, i, 1, (("times", "*"),)) if is_share else []), 1
    if word in _ROUNDS:
        return _rounds(found, i)
    after_value = bool(before) and before[-1].kind in _VALUES
    if after_value:
        choices = _BETWEEN
    elif word == "minus" and before and before[-1].kind == "word" and before[-1].text.lower() not in _STATES:
        return [], 1  # 5 apples minus 3
    else:
        choices = _BEFORE
    for words, operators in choices.items():
        if tuple(token.text.lower() for token in found[i : i + len(words)]) == words:
            made = _made(found, i, len(words), operators)
            return made, len(words) if made else 1
    return [], 1


def _rounds(found: Sequence[Token], i: int) -> tuple[list[Token], int]:
    """An equals sign for `rounds to`; none for `rounded to 2 decimals`."""
    to = i + 1 + (i + 1 < len(found) and found[i + 1].text.lower() in ("up", "down", "off"))
    if to + 1 >= len(found) or found[to].text.lower() != "to":
        return [], 1
    if to + 2 < len(found) and found[to + 2].text.lower() in _DIGITS:
        return [], 1
    return _made(found, i, to + 1 - i, (("equals", "\u2192"),)), to + 1 - i


def _power(found: Sequence[Token], i: int, before: Sequence[Token]) -> list[Token]:
    """`squared` after a value as a power."""
    follows = found[i + 1] if i + 1 < len(found) else None
    is_unit = follows is not None and follows.kind == "word" and follows.text.lower() not in _FOLLOW
    if not before or before[-1].kind not in _VALUES or is_unit:
        return []
    start = found[i].start
    end = found[i].end
    return [Token("power", "^", start, start), Token("number", _POWERS[found[i].text.lower()], start, end)]


def _made(
    found: Sequence[Token], i: int, num_words: int, operators: Sequence[tuple[str, str]]
) -> list[Token]:
    """Operators in place of `num_words` words from token `i`; none if no value follows."""
    at = i + num_words
    if found[i].text.lower() == "over" and at + 1 < len(found) and found[at + 1].kind == "word":
        return []  # 42 over 7 days
    if at >= len(found) or found[at].kind not in _OPERANDS:
        return []
    return [Token(kind, text, found[i].start, found[at].start) for kind, text in operators]
