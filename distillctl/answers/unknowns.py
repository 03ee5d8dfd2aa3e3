"""Texts that give several unknowns a value, or one unknown several: `x = 5, y = 6`, `x = 1, x = 2`."""

from __future__ import annotations

import re

from distillctl.answers.reading import parse_number

_EQUATION = r"([A-Za-z](?:_?\{?\d{1,2}\}?)?)[ \t]{0,4}=[ \t]{0,4}(-?\d{1,20}(?:[.,/]\d{1,20})?)"
_SEVERAL = re.compile(
    rf"[\s$]{{0,8}}{_EQUATION}(?:[ \t$,;&]{{1,8}}(?:(?:and|or)[ \t$]{{1,8}})?{_EQUATION}){{1,20}}"
    r"[\s$.]{0,8}"
)


def gives_several(text: str) -> bool:
    """Whether a plain text consists only of such equations, with different unknowns or values."""
    if not _SEVERAL.fullmatch(text):
        return False
    return len({(name, parse_number(value)) for name, value in re.findall(_EQUATION, text)}) > 1
