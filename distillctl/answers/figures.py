"""Figures that are a computation in a response, but not a single number in a ground truth.

Examples: `6-7` days, the telephone number `555-1234`, the dates `2024-01-05`, `1/2/2024` and `5 January`, and
`1 million`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from distillctl.answers.expressions import Token, glued
from distillctl.answers.runs import Run

_SCALE = re.compile(r"(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?", re.IGNORECASE)
_MONTH = re.compile(
    r"Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?"
)
_ORDINAL = re.compile(r"st|nd|rd|th")


def is_figure(found: Sequence[Token], run: Run) -> bool:
    """Whether a run is one of several numbers, part of a date or code, or counts thousands or dozens."""
    return _is_joined(found, run) or _goes_on(found, run)


def _is_joined(found: Sequence[Token], run: Run) -> bool:
    """Whether dashes or two slashes join numbers without spaces: `6-7` is a range, `6 - 7` a computation."""
    low = run.low
    while low > 0 and found[low - 1].kind in ("number", "sign") and glued(found, low):
        low -= 1  # because in prose a run ends at such a dash
    part = [token for token in found[low : run.high] if token.kind not in ("currency", "percent")]
    part = part[part[0].kind == "sign" :]
    marks = [token.text for token in part[1::2]]
    numbers = {token.kind for token in part[::2]} == {"number"} and len(part) % 2 == 1
    whole = all(glued(found, i) for i in range(low + (found[low].kind == "sign") + 1, run.high))
    return numbers and whole and set(marks) <= {"-", "/"} and ("-" in marks or marks.count("/") > 1)


def _goes_on(found: Sequence[Token], run: Run) -> bool:
    """Whether another number, a month or a word such as `million` follows the run, or a month precedes it."""
    after = found[run.high : run.high + 2]
    if after and _ORDINAL.fullmatch(after[0].text):
        after = after[1:]
    before = found[run.low - 1] if run.low else None
    if before is not None and _MONTH.fullmatch(before.text):
        return True
    if not after:
        return False
    return after[0].kind == "number" or bool(
        _SCALE.fullmatch(after[0].text) or _MONTH.fullmatch(after[0].text)
    )
