r"""Which formula of a phrase is its answer: that of `the answer is $4$ for $x = 3$` is `4`.

Formulas are read as numbers are: each stands for one, so that the words around it say the same of it.
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
"""What the first formula stands as; a number that no answer of words has."""
_NAMED = re.compile(r"\s*\d+\s+(?:is|are|equals)\s")
"""A formula that is not the answer but what the answer is the value of."""

_REASON = re.compile(r"(?:[,;]\s+(?:since|because|where|as|when|if|for)|\s(?:since|because))\s.*", re.DOTALL)


def stated_formula(phrase: str) -> str | None:
    """The formula that a phrase states; several with commas between them where it names them as equals; the
    phrase itself where it has no formulas; None where it denies the only one."""
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
    return read.text if at < 0 else phrase  # a number of the words, or a computation with formulas
