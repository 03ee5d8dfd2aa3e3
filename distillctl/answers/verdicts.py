"""Verdicts on options: `B is correct`, `(D) Vitamin A is the best answer`, `A: ✗, B: ✓`, `B项正确`.

The subject of a verdict is the letter before it. If the text of an option comes between, the subject is that
option: D in `(D) Vitamin A is correct`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from distillctl.answers.denials import (
    CROSSES,
    IS_RIGHT,
    IS_WRONG,
    RIGHT_WORD,
    WRONG_WORD,
    denied_before,
    supposed_after,
    supposed_before,
)
from distillctl.answers.letters import CLOSE, LETTER, NOUN, OPEN, is_letter, is_name, joined

_MAX_VERDICTS = 60
"""Most verdicts that are read, from the last."""
_MAX_CLAUSE = 200
"""Number of characters before a verdict that are searched for its subject."""
_RIGHT_MARKS = "✓✔✅☑√"
_MARKS = _RIGHT_MARKS + CROSSES + "\u00d7"
_BARE = (
    rf"(?:[{_MARKS}]|(?<!\w)(?:{WRONG_WORD}|{RIGHT_WORD}|yes|no)(?!\w)"
    r"(?=\s*(?:[.,;:!?)\]|—-]|$|because\b|since\b)))"
)
"""A verdict without a verb."""
_VERDICT = re.compile(
    rf"(?P<wrong>{IS_WRONG})|(?P<right>{IS_RIGHT})|(?P<bare>{_BARE})", re.IGNORECASE | re.MULTILINE
)
_BARE_RIGHT = re.compile(rf"[{_RIGHT_MARKS}]|{RIGHT_WORD}|yes", re.IGNORECASE)
_WEAK = re.compile(r"true|false|yes|no", re.IGNORECASE)
"""Verdicts that may also be the texts of the options."""
_MARKED = re.compile(rf"[^\S\n]*(?:{NOUN}\s+)?{LETTER}", re.IGNORECASE)
"""The option after a mark that begins a line: `✓ B`."""
_END = re.compile(r"[.!?;]\s|\n")
_LEAD = r"(?:(?:so|thus|therefore|hence|finally|answer)[,:]?\s+|[a-z]+(?:\s[a-z]+){0,4},\s+)?"
_LABEL_END = re.compile(rf"[\s>*•#|(+-]*{_LEAD}(?:{NOUN}\s+)?{OPEN}[A-Za-z]{CLOSE}", re.IGNORECASE)
"""An option's letter at the start of a clause, up to its full stop: `Therefore, D` of `D. Vitamin A`."""
_AFTER_LABEL = re.compile(r"\s*[.):|,—-]")
_NOUN_BEFORE = re.compile(rf"\b{NOUN}s?\s+{OPEN}$", re.IGNORECASE)
_BREAK = re.compile(
    r"[,;]|\b(?:but|so|because|since|while|whereas|therefore|thus|hence|although|though|that|and|is|are|was)\b",
    re.IGNORECASE,
)
_BARE_GAP = re.compile(
    r"[\s.:)\]\[|,(>=→—-]*(?:(?:(?:this|that|it) |(?:this|that|it)(?='))?(?:is|'s)\s+)?(?:[a-z]+ly\s+)?"
)
_SEPARATOR = re.compile(r"[:|—(\[.!?,;)>=→-]\s*(?:(?:this|that|it)(?: is|'s)\s+)?$")
_MAYBE = re.compile(r"\b(?:also|would)\b", re.IGNORECASE)
_TRUE = re.compile(r"(?<!the )(?:(correct|right)|true|accurate)$", re.IGNORECASE)
_CONTRAST = re.compile(r"\b(?:but|however|so|thus|therefore|hence|only)\b[^.!?\n]*$", re.IGNORECASE)


class Statement(NamedTuple):
    """A letter that a text states as its answer; empty if it states several.

    `supposed`: the text only considers the letter. `strength`: 2 if the text chooses it, 1 if it calls it
    correct, 0 if it calls it true.
    """

    place: int
    letter: str
    supposed: bool
    strength: int = 2


def called_right(words: str) -> list[Statement]:
    """Statements for the letters that a text calls right, as in `B is correct`."""
    found: list[Statement] = []
    bare: list[tuple[re.Match[str], str, bool]] = []
    last_end = 0
    for verdict in list(_VERDICT.finditer(words))[-_MAX_VERDICTS:]:
        subject = None
        if verdict["bare"]:
            subject = _bare_subject(words, verdict, last_end)
            if subject is None:
                continue
            bare.append((subject, verdict["bare"], bool(_BARE_RIGHT.fullmatch(verdict["bare"]))))
        elif verdict["right"]:
            subject = _subject(words, last_end, verdict.start())
            if subject is not None:
                found += _statement(words, subject, verdict)
        last_end = max(verdict.end(), subject.end() if subject else 0)
    return found + _of_list(words, bare)


def _statement(words: str, subject: re.Match[str], verdict: re.Match[str]) -> Iterator[Statement]:
    letter = subject["letter"].upper()
    start, letters = joined(words, subject.start())
    if denied_before(words, start) or denied_before(words, subject.start("letter")):
        return
    if letters and letter not in letters:
        letter = ""
    supposed = supposed_before(words, subject.start()) or supposed_after(words, verdict.end())
    supposed |= bool(_MAYBE.search(verdict[0]))
    told = _TRUE.search(verdict[0])
    strength = 2
    if told and not _CONTRAST.search(words[max(0, start - 30) : start]):
        strength = 1 if told[1] else 0
    yield Statement(subject.start("letter"), letter, supposed, strength)


def _of_list(words: str, bare: list[tuple[re.Match[str], str, bool]]) -> list[Statement]:
    """The letter that is called right in a list of options that each have a verdict."""
    letters = {subject["letter"].upper() for subject, _, _ in bare}
    is_weak = all(_WEAK.fullmatch(verdict) for _, verdict, _ in bare)
    rights = [subject for subject, _, is_right in bare if is_right]
    is_marked = any(verdict in _RIGHT_MARKS for _, verdict, _ in bare)
    if len(letters) < (3 if is_weak else 1 if is_marked else 2):
        return []
    called = {subject["letter"].upper() for subject in rights}
    letter = called.pop() if len(called) == 1 else ""
    return [Statement(rights[-1].start("letter"), letter, False)] if rights else []


def _subject(words: str, start: int, end: int) -> re.Match[str] | None:
    """The letter that a verdict at `end` is about, in the words from `start`."""
    start = _clause(words, max(start, end - _MAX_CLAUSE), end)
    letters = list(_letters(words, start, end))
    direct = letters[-1] if letters and not words[letters[-1].end() : end].strip(" \t\n,.:") else None
    labels = [match for match in letters if _is_label(match, words, start)]
    if direct is not None and (direct in labels or not labels):
        return None if is_name(words, direct.start()) and direct not in labels else direct
    if not labels:
        return None
    if direct is None or is_name(words, direct.start()):
        return labels[-1]
    start, beside = joined(words, direct.start())
    between = words[labels[-1].end() : start]
    is_text = (
        start >= labels[-1].end()
        and bool(beside or between.strip(" .:,"))
        and not _BREAK.search(between.lstrip(' ,"'))
    )
    return labels[-1] if is_text else direct


def _bare_subject(words: str, verdict: re.Match[str], last_end: int) -> re.Match[str] | None:
    """The letter that a verdict without a verb is about: the letter beside it, or the first on its line."""
    end = verdict.start()
    line = max(words.rfind("\n", last_end, end) + 1, last_end, end - _MAX_CLAUSE)
    letters = list(_letters(words, line, end))
    if not letters:
        return _MARKED.match(words, verdict.end()) if verdict["bare"] in _MARKS else None
    if _BARE_GAP.fullmatch(words, letters[-1].end(), end):
        return letters[-1]
    is_apart = verdict["bare"] in _MARKS or _SEPARATOR.search(words[line:end])
    return letters[0] if is_apart and _is_label(letters[0], words, line) else None


def _letters(words: str, start: int, end: int) -> Iterator[re.Match[str]]:
    for match in re.compile(LETTER).finditer(words, start, end):
        is_numeral = match["letter"] in "iI" and not match["open"]
        if not is_numeral and is_letter(match, words, cased=False):
            yield match


def _clause(words: str, start: int, end: int) -> int:
    """Where the clause that ends at `end` begins; the full stop of `D. Vitamin A` ends no clause."""
    for stop in _END.finditer(words, start, end):
        if not _LABEL_END.fullmatch(words, start, stop.start()):
            start = stop.end()
    return start


def _is_label(match: re.Match[str], words: str, start: int) -> bool:
    """Whether a letter is written as an option: `(D)`, `option D`, or `D.` at `start`."""
    if match["open"][-1:] in ("(", "[") and match["close"][:1] in (")", "]"):
        return True
    if _NOUN_BEFORE.search(words[max(0, match.start("letter") - 30) : match.start("letter")]):
        return True
    begins = _LABEL_END.fullmatch(words, start, match.end())
    return bool(begins and (match["close"][:1] == ")" or _AFTER_LABEL.match(words, match.end())))
