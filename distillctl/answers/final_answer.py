r"""Where a text states its final answer.

Only what follows the last closed think block counts; in an unfinished one nothing does. There what a
correction states comes first; then the last `\boxed{}`, else what follows the last `####` that is no heading,
else the last `answer is` or `answer:`, else the last bold number that no conclusion follows, else the number
of the last sentence with one that neither checks nor explains.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from distillctl.answers.denials import denied_before
from distillctl.answers.discourse import (
    IS,
    NAMES,
    before_explanation,
    gives_up,
    parts,
    restatements,
    without_asides,
)
from distillctl.answers.number_words import in_digits
from distillctl.answers.plain import plain
from distillctl.answers.reading import (
    Reading,
    begins_with_number,
    concluded_number,
    has_number,
    last_number,
    only_number,
    parse_number,
    phrase_number,
)
from distillctl.answers.unknowns import gives_several

MAX_PHRASE = 500
"""Characters of a statement that are read: untrained students repeat themselves for thousands of tokens."""
MAX_STATEMENTS = 20
"""Statements that are tried, from the last."""
_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_HASHES = re.compile(r"####+(.*)")
_ENUMERATION = re.compile(r"\d[.):]\s+[^\W\d]")  # `#### 1. Add the costs` is a heading
_LEAD_IN = re.compile(rf"(?:the\s+)?(?:final\s+)?(?:{NAMES})(?:{IS})?\s*(?=\S)", re.IGNORECASE)
_PART_OF_IT = r"(?!(?:the )?(?:first|second|third|next|part|step)\b)"  # `the answer to the first part is 3`
_ANSWER = re.compile(
    rf"(?<!first )(?<!second )(?<!third )(?<!next )(?<!s/)"
    rf"(?:{NAMES})(?:\s+to\s{_PART_OF_IT}[^.:\n]{{1,80}}?)?(?:\s\([^()\n]{{1,20}}\))?{IS}[ \t]*"
    r"|\bfinal answer[ \t]*(?=\n)",
    re.IGNORECASE,
)
WORD = re.compile(r"[^\W\d_]{2,}")
MAX_UNIT_WORDS = 3
"""Words behind a number that may be its unit: `42 red apples`."""
_ITEM_MARK = re.compile(r"\(?\d[.):]")  # `1. Reasoning: ` is an item of a list
_HEADING = re.compile(
    r"(?:note|check|step|explanation|verification|remark|reason(?:ing)?|hint|example|proof)s?\b"
    r"|(?!.*(?:\bno|\bnot|n't)\b)[^\W\d_]+(?:[ \t]+[^\W\d_]+){0,2}:?$",
    re.IGNORECASE,
)
"""What follows an answer's `####` line in one of its own: `#### Check`, `#### Note: 3 left`."""
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*|<(?:b|strong)>([^<>\n]+)</(?:b|strong)>")
_FIELD = re.compile(
    r"<answer>([^<>{}]{1,500})</answer>"
    r"|[\"'](?:final_?|correct_?)?(?:answer|choice|option)(?:_?letter)?[\"']\s*:"
    r"\s*(?:\"([^\"{}\n]{1,500})\"|'([^'{}\n]{1,500})')",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(r"\b(?:so|total|therefore|thus|hence|altogether|overall|in all)\b", re.IGNORECASE)
_ITEM = re.compile(r"(?:[-*+•\u2013]|\d{1,2}[.)])[ \t]+(?=\S)|>[ \t]*")
"""What a list's item or a quotation begins with."""
_BRACE = re.compile(r"(\\(?:f?boxed|fbox)\s*)?\{|\}")


def after_thinking(text: str) -> str | None:
    """What follows the last closed think block, all of a text without one; None where one is unfinished."""
    tags = list(_THINK.finditer(text))
    if not tags:
        return text
    return text[tags[-1].end() :] if tags[-1][1] else None


def read_answer(text: str) -> Reading | None:
    """The final answer of a response, read as a number; None when it states none."""
    rest = after_thinking(text)
    if rest is None:
        return None
    words = plain(rest)
    if gives_several(words):
        return Reading(rest.strip(), None)
    marked = marked_number(words)
    for part in parts(rest):  # the last is all of it
        phrase = marked if marked is None or part.text == rest else marked_number(plain(part.text))
        if phrase is not None:
            return phrase_number(phrase)
        if not (part.whole or part.restates):
            continue
        main = without_asides(part.text)
        stated = _restated(main, retracts=part.whole) if part.restates else None
        if stated is None and part.whole:
            stated = _clear(main, alone=marked is None)
        if stated is not None:
            return stated
    if gives_up(main):
        return None
    shown = last_number(in_digits(plain(main))) or (last_number(words) if main != rest else None)
    return shown or next((Reading(phrase, None) for phrase in _hashes(words, numeric=False)), None)


def _restated(text: str, *, retracts: bool) -> Reading | None:
    """The number that a text after a correction states in place of another, and does not compute with."""
    for statement, after in restatements(plain(text), retracts=retracts):
        number = _bare_number(statement)
        later = None if number is None else last_number(after)
        if number is not None and (later is None or later.value == number.value):
            return number
    return None


def _bare_number(phrase: str) -> Reading | None:
    """The number of a phrase that has nothing else but a unit: `42`, `$42`, `42 red apples`."""
    phrase = strip(phrase)
    if parse_number(phrase) is None or len(WORD.findall(phrase)) > MAX_UNIT_WORDS:
        return None
    return phrase_number(phrase)


def _explained(before: str) -> Reading | None:
    """The number that all of the text before an explanation is, or its only one where that is bold."""
    bare = before.strip().rstrip(" (-").strip(" *_#\n")
    if _ITEM_MARK.fullmatch(bare):
        return None
    bold = any(_bare_number(plain(match[1] or match[2])) for match in _BOLD.finditer(before))
    return _bare_number(plain(bare)) or (only_number(plain(before)) if bold else None)


def _clear(text: str, *, alone: bool) -> Reading | None:
    """The number of a text that shows it as its answer: all that it says before it explains, the last bold
    one, one that it concludes with, or (`alone`) the only one. A bold one after which a conclusion comes was
    given."""
    number = _explained(before_explanation(text))
    if number is not None:
        return number
    for match in reversed(list(_BOLD.finditer(text))):
        phrase = plain(match[1] or match[2])
        if _is_bold_answer(phrase):
            return concluded_number(plain(text[match.end() :])) or phrase_number(phrase)
    if gives_up(text):
        return None
    words = plain(text)
    return concluded_number(words) or (only_number(words) if alone else None)


def marked_number(words: str) -> str | None:
    """The phrase of a plain text that is marked as its answer and has a number; None without one."""
    return next(_marked(words, numeric=True), None)


def marked_phrase(text: str, *, answer_is: bool = True) -> str | None:
    r"""What a response states in its last `\boxed{}`, else after its last `####`, else (`answer_is`) after
    its last `answer is`; None without any."""
    for part in parts(after_thinking(text) or ""):
        phrase = next(_marked(plain(part.text), numeric=False, answer_is=answer_is), None)
        if phrase is not None:
            return phrase
    return None


def raw_phrase(text: str) -> str | None:
    """`marked_phrase` as it stands, with its LaTeX."""
    for part in parts(after_thinking(text) or ""):
        phrase = next(_marked(part.text, numeric=False), None)
        if phrase is not None:
            return phrase
    return None


def boxed_fields(text: str) -> str:
    r"""`text` with its answer fields, `<answer>C</answer>` and JSON's `"answer": "C"`, as `\boxed{C}`."""
    return _FIELD.sub(_boxed, text)


def _boxed(field: re.Match[str]) -> str:
    content = next(filter(None, field.groups())).strip()
    return rf"\boxed{{{content}}}" if content else ""


def bold_phrases(text: str) -> Iterator[str]:
    """The bold words of a text, plain, the last first."""
    for match in reversed(list(_BOLD.finditer(text))):
        yield plain(match[1] or match[2])


def fold(phrase: str) -> str:
    """A text answer for comparison: case, spacing, punctuation around it and how Unicode composes its letters
    do not matter."""
    phrase = unicodedata.normalize("NFC", strip(phrase).casefold())
    return " ".join(phrase.split()).replace(", ", ",").strip(" ()")


def strip(phrase: str) -> str:
    r"""An answer phrase without the punctuation and markup around it, and out of its `\boxed{}`."""
    phrase = phrase.strip(" \t\r\n*_:\"'")
    boxed = last_boxed(phrase)
    if boxed:
        return boxed
    phrase = phrase.rstrip(".,;!").strip()
    if re.fullmatch(r"\$+[^$]*\$+", phrase):  # $42$ is LaTeX
        phrase = phrase.strip("$")
    return phrase.strip()


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{}` whose braces close and that is not blank."""
    opened: list[re.Match[str]] = []
    start, phrase = -1, None
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened:
            opening = opened.pop()
            content = text[opening.end() : brace.start()]
            if opening[1] and opening.start() > start and content.strip():
                start, phrase = opening.start(), strip(content)
    return phrase


def _marked(words: str, *, numeric: bool, answer_is: bool = True) -> Iterator[str]:
    """Phrases of a plain text that are marked as the answer, best first; `numeric`: it is a number."""
    boxed = last_boxed(words)
    if boxed:
        yield in_digits(boxed) if numeric else boxed
    for phrase in _hashes(words, numeric=numeric):
        yield in_digits(phrase) if numeric else phrase
    said = list(_ANSWER.finditer(words)) if answer_is else []
    for match in reversed(said[-MAX_STATEMENTS:]):
        phrase = strip(_line(words[match.end() : match.end() + MAX_PHRASE]))
        phrase = in_digits(phrase) if numeric else phrase
        if not phrase or denied_before(words, match.start()):
            continue
        if not numeric or (has_number(phrase) and not gives_up(match[0] + phrase)):
            yield phrase


def _hashes(words: str, *, numeric: bool) -> Iterator[str]:
    found = [(strip(match[1]), match.end()) for match in _HASHES.finditer(words)]
    found = [(phrase, end) for phrase, end in found if phrase]
    last = len(words.rstrip())
    stated = numeric and any(
        begins_with_number(phrase) and not _ENUMERATION.match(phrase) and not _HEADING.match(phrase)
        for phrase, _ in found
    )
    for phrase, end in reversed(found):
        if stated and (_HEADING.match(phrase) or _ENUMERATION.match(phrase)):
            continue
        if not numeric or _is_answer(phrase, is_last=end >= last):
            yield _LEAD_IN.sub("", phrase, count=1)


def _is_answer(phrase: str, is_last: bool) -> bool:
    """Whether the rest of a `####` line is an answer; a markdown heading looks the same."""
    lead = _LEAD_IN.match(phrase)
    if lead and has_number(phrase[lead.end() :]):
        return True
    return is_last or (begins_with_number(phrase) and not _ENUMERATION.match(phrase))


def _is_bold_answer(phrase: str) -> bool:
    """Whether bold words are a number, or `x = ` or `Total: ` and a number."""
    if phrase.rstrip().endswith((".", "!")) and _CONCLUDES.search(phrase):
        return has_number(phrase) and not _ENUMERATION.match(phrase) and not _HEADING.match(phrase)
    _, mark, right = phrase.rpartition("=")
    label, colon, rest = phrase.partition(":")
    if mark and (begins_with_number(phrase) or not has_number(phrase.partition("=")[0])):
        return parse_number(right) is not None
    if colon and rest.strip() and not has_number(label):
        return parse_number(rest) is not None
    return parse_number(phrase) is not None and not _ENUMERATION.match(phrase)


def _line(text: str) -> str:
    """The first line that is not blank; empty where that is the first of several in a list."""
    lines = text.split("\n", 4)[:5]
    at = next((i for i, line in enumerate(lines[:4]) if strip(line)), None)
    if at is None:
        return ""
    item = _ITEM.match(lines[at].lstrip()) if at > 0 else None
    if item is None:
        return lines[at]
    if item[0][0] != ">" and at + 1 < len(lines) and _ITEM.match(lines[at + 1].lstrip()):
        return ""
    return lines[at].lstrip()[item.end() :]
