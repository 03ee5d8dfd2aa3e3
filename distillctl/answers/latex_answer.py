r"""Finding the final answer of a text in LaTeX: `$\boxed{\frac{1}{2}}$`."""

from __future__ import annotations

import re

from distillctl.answers.final_answer import after_thinking, raw_phrase
from distillctl.answers.formulas import stated_formula
from distillctl.answers.markdown import undressed
from distillctl.answers.plain import STYLE

_DELIMITED = re.compile(r"(?<!\\)\$|\\[(\[]")
_NUMBER = re.compile(r"-?\d[\d.,]*")
_STOP = re.compile(r"(?<!\\)(?<!\\right)[.,;\u3002][\s\u3002]*$")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def is_delimited(text: str) -> bool:
    r"""Whether a text marks its formulas, as in `so $x^2$` and `\(x^2\)`."""
    return bool(_DELIMITED.search(text))


def final_expression(text: str) -> str | None:
    """The part of a response or ground truth that math-verify should read.

    If a marked answer states a formula, or the text is a single line of formula, it is that formula in a box;
    otherwise it is the whole text after the think block. None if a think block is unfinished or the words
    deny the answer.
    """
    thought = after_thinking(text)
    if thought is None:
        return None
    rest = undressed(thought).strip()
    phrase = raw_phrase(rest)
    if phrase is None:
        phrase = rest if _is_expression(rest) else None
        if phrase is None:
            return rest if stated_formula(rest.rpartition("\n")[2]) is not None else None
    formula = stated_formula(STYLE.sub(" ", phrase))
    return None if formula is None else f"$\\boxed{{{_STOP.sub('', formula)}}}$"


def expression_in_turn(text: str) -> str | None:
    """The expression that a response states; None for prose without formulas.

    `final_expression` gives the same result for the expression as for the response.
    """
    rest = undressed(after_thinking(text) or "").strip()
    found = final_expression(text)
    phrase = raw_phrase(rest)
    if found is None or not (phrase or is_delimited(found) or _NUMBER.fullmatch(found)):
        return None
    return phrase if phrase and final_expression(phrase) == found else rest


def _is_expression(line: str) -> bool:
    """Whether a text is one line of formula that needs a box; math-verify finds a number without one."""
    is_number = not line or _NUMBER.fullmatch(line)
    return not (is_number or "\n" in line or is_delimited(line) or _WORD.search(line))
