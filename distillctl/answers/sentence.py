"""Finding the number that a sentence states.

An equation states its right side. In other sentences, numbers that only say when, where or of what (`in 2
days`, `the 3 friends`, `step 3`, `5 more than`) rank below the others. Denied numbers do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from distillctl.answers.clauses import SO, TOTAL, ends_sentence, is_verb, main_clause, reason, word
from distillctl.answers.equations import goes_on, right_side
from distillctl.answers.expressions import Token, evaluate
from distillctl.answers.runs import Run, begin, number_runs
from distillctl.answers.standing import MAX_WORDS, is_denied, rank

_GIVES = frozenset({"gives", "leaves", "makes"})
_COMPUTES = frozenset({"plus", "minus", "times"})


def phrase_run(found: Sequence[Token]) -> Run | None:
    """The run of the number that a marked phrase states: the run that the phrase begins with, or else the run
    that its sentence states."""
    run = begin(found, prose=False)
    if run is not None and not goes_on(found, run):
        return run
    right = right_side(found)
    if right is not None and not is_denied(found, right):
        return right
    low = main_clause(found)
    runs = _stated(found, low) or _stated(found, 0)
    if run is not None:  # a computation came first, so only its result counts
        runs = [other for other in runs if any(is_verb(found[i]) for i in range(run.high, other.low))]
    return _best(found, runs, last=False)


def _stated(found: Sequence[Token], low: int) -> list[Run]:
    """The runs from token `low` that are not denied."""
    runs = number_runs(found, low, len(found), prose=False)
    return [run for run in runs if not is_denied(found, run)]


def last_run(found: Sequence[Token]) -> Run | None:
    """The run of the number that the last sentence with a number states; questions do not count."""
    end = len(found)
    denied: set[Fraction | None] = set()
    while end > 0:
        low = end - 1
        while low > 0 and not ends_sentence(found, low - 1):
            low -= 1
        runs = []
        for run in number_runs(found, low, end, prose=True):
            if is_denied(found, run):
                denied.add(evaluate(found[run.low : run.high]))
            elif not denied or evaluate(found[run.low : run.high]) not in denied:
                runs.append(run)
        asks = found[end - 1].text == "?" and all(token.kind != "equals" for token in found[low:end])
        if runs and not asks:
            return _of_sentence(found, runs, low, end)
        end = low
    return None


def _of_sentence(found: Sequence[Token], runs: list[Run], low: int, end: int) -> Run | None:
    """The last number of a sentence, or the right side of the last equation before it."""
    end = low + reason(found[low:end])
    start = low + main_clause(found[low:end])
    runs = [run for run in runs if run.low >= start] or runs
    named = [run for run in runs if _is_called_answer(found, run)]
    if named:
        return named[-1]
    equals = next((i for i in reversed(range(start, end)) if found[i].kind == "equals"), None)
    if equals is not None:
        behind = [run for run in runs if run.low > equals]
        if behind and not _concludes(found, behind) and rank(found, behind[0]) < 2:
            return behind[0]
    return _best(found, runs, last=True)


def _is_called_answer(found: Sequence[Token], run: Run) -> bool:
    """Whether the words after a run call it the answer: `80 is the answer`."""
    after = [word(token) for token in found[run.high : run.high + MAX_WORDS + 1]]
    at = next((k for k, text in enumerate(after[:2]) if text == "is"), None)
    return at is not None and after[at + 1 : at + 2] == ["the"] and "answer" in after[at + 2 :][:2]


def concludes(found: Sequence[Token], run: Run) -> bool:
    """Whether the sentence of a run draws a conclusion with it: `so 42`, `= 42`, `42 in total`."""
    low = run.low
    while low > 0 and not ends_sentence(found, low - 1):
        low -= 1
        if found[low].kind == "equals" or word(found[low]) in TOTAL | SO:
            return rank(found, run) <= 0
    return rank(found, run) < 0


def _concludes(found: Sequence[Token], behind: Sequence[Run]) -> bool:
    """Whether a sentence draws a conclusion after the first of these runs, and a later run states it."""
    if len(behind) < 2:
        return False
    between = found[behind[0].high : behind[-1].low]
    after = found[behind[-1].high : behind[-1].high + MAX_WORDS]
    words = {word(token) for token in between}
    is_total = any(word(token) in TOTAL for token in (*between, *after))
    verb = word(between[-1]) if between else ""
    computes = any(token.kind == "sign" for token in between) or bool(words & _COMPUTES)
    if verb in _GIVES or (verb in ("is", "equals") and computes):
        return True  # as in 5*4 = 20, plus 2 is 22
    return is_total or bool(words & SO) or "which" in words or between[:1] == [] or between[0].text == "-"


def _best(found: Sequence[Token], runs: list[Run], *, last: bool) -> Run | None:
    """The best of the runs with the lowest rank.

    With `last` it is the last of them, otherwise the first one after the last verb or colon, or the first.
    """
    if not runs:
        return None
    ranks = [rank(found, run) for run in runs]
    least = min(ranks)
    runs = [run for run, rank in zip(runs, ranks, strict=True) if rank == least]
    if last:
        return runs[-1]
    first = runs[0]
    low = 0
    for run in runs:
        if any(is_verb(token) or token.kind == "colon" for token in found[low : run.low]):
            first = run
        low = run.high
    return first
