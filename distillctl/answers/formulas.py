r"""Finding the formula that a phrase states as its answer: `4` in `the answer is $4$ for $x = 3$`.

We replace each formula by a number and read the phrase as a number. The words around a formula then count as
they do around a number.
"""

from __future__ import annotations

import re

from distillctl.answers.plain import plain
from distillctl.answers.reading import has_number, phrase_number

_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|(?<!\\)\$((?:[^$\\]|\\.)+)\$|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]",
    re.DOTALL,
)
_FIRST = 7_000_001
"""The number that replaces the first formula; no answer in words has it."""
_NAMED = re.compile(r"\s*\d+\s+(?:is|are|equals)\s")
"""A formula that names the unknown whose value follows."""

_REASON = re.compile(r"(?:[,;]\s+(?:since|because|where|as|when|if|for)|\s(?:since|because))\s.*", re.DOTALL)


def stated_formula(phrase: str) -> str | None:
    """The formula that a phrase states; the phrase itself if it has no formulas.

    If it states several as equals, they are joined by commas. None if it denies its only formula.
    """
    formulas: list[str] = []

    def stand_in(match: re.Match[str]) -> str:
        formula = str(next(filter(None, match.groups()))).strip()
        if re.fullmatch(r"[A-Za-z]", formula):
            return formula
        formulas.append(formula)
        return f" {_FIRST + len(formulas) - 1} "

    words = plain(_FORMULA.sub(stand_in, phrase))
    if not formulas:
        return _REASON.sub("", phrase)
    named = _NAMED.match(words)
    words = words[named.end() :] if named and len(formulas) > 1 else words
    if not has_number(words):
        return None
    read = phrase_number(words)
    if read.value is None:
        return ", ".join(formulas)
    at = read.value - _FIRST
    if 0 <= at < len(formulas):
        return formulas[int(at)]
    return read.text if at < 0 else phrase  # a number among the words, or a computation with formulas
