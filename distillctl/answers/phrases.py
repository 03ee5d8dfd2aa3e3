"""The letter that a phrase begins with: `option B`, `(B) Paris`, `not A but C`."""

from __future__ import annotations

import re

from distillctl.answers.denials import denied_after
from distillctl.answers.letters import AT_LETTER, CLOSE, LETTER, NOUN, OPEN, is_letter

AFTER_LETTER = re.compile(r"\s*(?:[.,;:)!—-]|$|because\b|since\b|选项)")
IS = (
    r"(?:(?<![A-Za-z])(?:is|are|was|be|would be|should be|must be|has to be|will be|seems to be|ist|lautet|es"
    r"|est|é(?:\s+a(?=\s+[A-Z]\b))?|è|adalah|là|jest|to|är|er|cevap)(?![A-Za-z])|应?[该該]?[是为為]|选(?![项择])|는|은|は"
    r"|[:=→—]|->|-)"
)
_FILLER = re.compile(
    r"(?:(?:the|my|our|correct|right|best|final|most|likely|either|both|between|clearly|definitely|probably"
    r"|indeed|therefore|thus|simply|only|just|none other than|und|donc|also|daher"
    r"|la|el|le|il|die|der|das|[ao](?=\s+(?:letra|op|alt))"
    rf"|{NOUN}|{IS})(?:(?<![A-Za-z])|(?![A-Za-z]))[\s,:]*|选项|[\s*_$:.#>✅✔✓☑-]+)*",
    re.IGNORECASE,
)
_NEGATED = re.compile(
    rf"(?:not|isn't|neither|all but|except|并?不[是选]?|并非)\s*(?:\b(?:the\s+)?{NOUN}\s+)?{LETTER}",
    re.IGNORECASE,
)
_INSTEAD = re.compile(
    r"(?:\bbut|\brather|\binstead|\bit'?s|\bit is|\bis|\bno,|而?是)(?:\s+(?:rather|instead|it'?s|it is))*\s*",
    re.I,
)
_AND = r"(?:[,、/&+]|and/or|and|or|to|through|und|oder|et|ou|y|o|和|或)(?:\s*(?:and|or|also))?"
_ALSO = re.compile(
    rf"(?:\s*{_AND}\s*(?:{NOUN}\s+)?|-|;\s*(?={OPEN}[A-Za-z]{CLOSE}\s*$)){LETTER}(?!\s+(?:is|was)\b)"
)
"""A second letter that follows the first: `A and B`, `A-D`."""
_GROUP = re.compile(rf"(?:\s*{_AND}\s*(?:{NOUN}\s+)?{OPEN}[A-Z](?!\w){CLOSE})+")
_PLURAL = re.compile(r"\s*(?:are|were|can|do|have|both|all|[均都错不])")


class Several(Exception):
    """A phrase names more than one letter as its answer."""


def of_phrase(phrase: str, *, cased: bool = False) -> str | None:
    """The letter that a phrase begins with, perhaps after words such as `option`. Raises Several."""
    found = find_letter(phrase, 0, cased=cased)
    return found["letter"].upper() if found else None


def find_letter(phrase: str, start: int, *, cased: bool) -> re.Match[str] | None:
    """The match of the letter that a phrase begins with from `start`; C in `not A but C`. Raises Several."""
    filler = _FILLER.match(phrase, start)
    start = filler.end() if filler else start
    negated = _NEGATED.match(phrase, start)
    match = negated or AT_LETTER.match(phrase, start)
    if match is None or not (negated or is_letter(match, phrase, cased=cased)):
        return None
    if negated or _is_denied(phrase, match.end()):
        instead = _INSTEAD.search(phrase, match.end())
        return find_letter(phrase, instead.end(), cased=cased) if instead else None
    also = _ALSO.match(phrase, match.end())
    if also and also["letter"].upper() != match["letter"].upper() and is_letter(also, phrase, cased=True):
        raise Several
    return match


def _is_denied(phrase: str, end: int) -> bool:
    """Whether the words after a letter deny it, alone or with others as in `A, B and D are wrong`."""
    group = _GROUP.match(phrase, end)
    in_group = group and _PLURAL.match(phrase, group.end()) and denied_after(phrase, group.end())
    return bool(in_group) or denied_after(phrase, end)
