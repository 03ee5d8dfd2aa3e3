"""The rank of a number among the numbers of its sentence, and whether the words around it deny it."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.answers.clauses import CIRCUMSTANCE, TOTAL, is_verb, word
from distillctl.answers.expressions import Token, glued
from distillctl.answers.runs import Run

ARTICLES = frozenset({"the", "all", "these", "those", "his", "her", "their", "its"})
_DEFINITE = ARTICLES | {"my", "our", "your", "both", "first", "last", "next", "other"}
_ONE_OF_SEVERAL = frozenset({
    "step", "part", "question", "problem", "day", "week", "year", "page", "chapter", "section", "level",
    "case", "option", "line", "figure", "table", "room", "example", "exercise", "box", "bag", "group",
    "team", "number", "no", "equation", "method", "round", "stage", "phase",
})  # fmt: skip
"""Nouns after which a number is a name: `step 3`."""
_ADVERBS = frozenset({
    "about", "around", "approximately", "roughly", "exactly", "only", "just", "nearly", "almost",
    "another", "remaining", "additional", "extra", "full", "whole",
})  # fmt: skip
"""Words that may come between a number and the word that says what the number is for."""
_GIVES = frozenset({"take", "takes", "took", "cost", "costs", "give", "gives", "gave", "leave", "leaves"})
"""Verbs after which `her` is a person: `it takes her 3 days`."""
_LASTS = frozenset({
    "will", "would", "can", "could", "should", "might", "may", "must", "to", "it", "they", "which",
})  # fmt: skip
"""Words after which `last` is a verb."""
_BOUNDING = frozenset({"than", "least", "most"})
_COMPARED = frozenset({
    "more", "less", "fewer", "greater", "larger", "smaller", "higher", "lower", "times", "older",
    "younger",
})  # fmt: skip
_THAN = frozenset({"than", "as", "the"})
_AWAY = frozenset({
    "ago", "later", "earlier", "older", "younger", "taller", "shorter", "longer", "faster", "slower",
    "heavier", "lighter", "cheaper",
})  # fmt: skip
_AWAY_CJK = ("天后", "天後", "天内", "周后", "年后", "年後", "日後", "日間", "小时后", "時間後", "일 후")
_PARTS = frozenset({"course", "period", "each", "out", "half", "some", "most", "rest", "remainder"})
"""Words after which `of` introduces a given number: `each of 3`."""
_HAS = frozenset({
    "has", "have", "had", "needs", "need", "needed", "going", "able", "wants", "want", "must", "ought",
    "left", "having",
})  # fmt: skip
"""Words after which `to` states what follows: `has to pay 3`, but not `works to save 3`."""
_CAN = frozenset({"can", "could", "able", "afford"})
_NOT = frozenset({
    "not", "never", "neither", "nor", "cannot", "hardly", "instead", "doubt", "nicht", "kein", "keine",
    "não", "non", "pas", "не", "niet", "nie", "inte", "ikke", "bukan", "không", "n'est", "isnt",
})  # fmt: skip
_NOT_ENDS = ("n't", "不是", "不为", "并非")
_NOT_PAIRS = frozenset(
    {("no", "longer"), ("no", "es"), ("no", "son"), ("anything", "but"), ("everything", "but")}
)
_NOT_PARTS = ("아닙", "아니", "ではあり", "ではな", "じゃな")
"""Parts of words that deny the number before them."""
_DENIED = frozenset({
    "be", "been", "the", "a", "equal", "equals", "to", "exactly", "is", "get", "got", "say", "answer",
    "correct", "right", "final", "of", "actually", "simply", "longer", "think", "believe", "that",
    "have", "need", "cost", "make", "es", "é", "è", "est", "ist", "phải", "là",
})  # fmt: skip
"""Words that may come between `not` and the number that it denies."""
_WRONG = frozenset({"wrong", "incorrect", "false", "impossible"})
_RIGHT = frozenset({"right", "correct", "possible", "answer", "solution", "result", "true"})
MAX_WORDS = 4
"""Number of words around a number in which a word may say what the number is for."""


def rank(found: Sequence[Token], run: Run) -> int:
    """The rank of a number: -1 for a total, 0 plain, 1 for a circumstance or difference, 2 if given."""
    after = _rank_after(found, run.high)
    return after if after else _rank_before(found, run)


def _rank_before(found: Sequence[Token], run: Run) -> int:
    """`rank` by the words before a number: `the 3`, `step 3`, `in 3`, `to save 3`, `a total of 3`."""
    i = run.low - 1
    while i >= 0 and run.low - i <= MAX_WORDS and word(found[i]) in _ADVERBS:
        i -= 1
    last, before = (word(found[k]) if k >= 0 else "" for k in (i, i - 1))
    if last == "of":
        return -1 if before in ("total", "sum") else 2 if before in _PARTS else 1 if before == "end" else 0
    if last in TOTAL - ARTICLES:
        return -1
    if last in ("his", "her") and before in _GIVES:
        return 0
    if last == "last" and before in _LASTS:
        return 0
    if last in _DEFINITE | _BOUNDING or (last in _ONE_OF_SEVERAL and not glued(found, run.low)):
        return 2
    if last in CIRCUMSTANCE:
        return -1 if _is_price(found, run, i) else 1
    is_purpose = before == "to" and i > 1 and found[i].kind == "word" and word(found[i - 2]) not in _HAS
    return 1 if last == "as" or is_purpose else 0


def _rank_after(found: Sequence[Token], high: int) -> int:
    """`rank` by the words after a number: `3 years ago`, `3 more than`, `3 in total`."""
    after = [word(token) for token in found[high : high + MAX_WORDS + 1]]
    for k, text in enumerate(after):
        follows = after[k + 1] if k + 1 < len(after) else ""
        if text in _AWAY or text.startswith(_AWAY_CJK) or (text == "from" and follows == "now"):
            return 1
        if text in _COMPARED and follows in _THAN | _COMPARED:
            return 1
        if text in ("altogether", "overall") or (text in TOTAL and after[k - 1 : k] == ["in"]):
            return -1
        is_unit = found[high + k].kind in ("word", "letter", "over", "currency", "percent")
        if not is_unit or text in CIRCUMSTANCE - {"in"} or is_verb(found[high + k]):
            break
    return 0


def _is_price(found: Sequence[Token], run: Run, i: int) -> bool:
    """Whether the number after `for` at token `i` is a total price: `he sells 3 for $42`, not `$2 each`."""
    if word(found[i]) != "for" or found[run.low].kind != "currency":
        return False
    after = found[run.high : run.high + 1]
    each = bool(after) and word(after[0]) in ("each", "per", "a", "an", "apiece", "/")
    return not each and not any(word(token) in _CAN for token in found[max(0, i - 2 * MAX_WORDS) : i])


def is_denied(found: Sequence[Token], run: Run) -> bool:
    """Whether the words around a number deny it: `not 42`, `can't be 42`, `42 is not the answer`."""
    return _is_denied_before(found, run.low) or _is_denied_after(found, run.high)


def _is_denied_before(found: Sequence[Token], low: int) -> bool:
    follows = ""
    for i in reversed(range(max(0, low - 2 * MAX_WORDS), low)):
        text = word(found[i])
        if (text, follows) == ("no", "longer") and any(word(token) in _HAS for token in found[i:low]):
            return False  # `he no longer needs 3` states 3
        if text in _NOT or text.endswith(_NOT_ENDS) or (text, follows) in _NOT_PAIRS:
            return True
        if text not in _DENIED and (text, follows) != ("but", ""):
            return False
        follows = text
    return False


def _is_denied_after(found: Sequence[Token], high: int) -> bool:
    after = [word(token) for token in found[high : high + 2 * MAX_WORDS]]
    for k, text in enumerate(after[:MAX_WORDS]):
        rest = after[k + 1 :]
        if any(part in text for part in _NOT_PARTS):
            return True
        if text in ("is", "are", "was", "can", "cannot", "could") or text.endswith("n't"):
            negated = text == "cannot" or text.endswith("n't") or rest[:1] in (["not"], ["never"])
            ends = [other for other in rest[:5] if other in _RIGHT | _WRONG]
            return bool(ends) and (negated if ends[0] in _RIGHT else not negated)
        if found[high + k].kind != "word":
            break
    return False
