r"""Finding the place where a text states its final answer.

Only the text after the last closed think block counts; if a think block is unfinished, nothing does. These
places are tried in order:
1. what a correction states;
2. the last `\boxed{}`;
3. the text after the last `####` that is not a heading;
4. the text after the last `answer is` or `answer:`;
5. the last bold number, unless a conclusion follows it;
6. the number of the last sentence that has one and neither checks nor explains.
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
"""Most characters of a statement that are read: untrained students may repeat it for thousands of tokens."""
MAX_STATEMENTS = 20
"""Most statements that are tried, from the last."""
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
"""Most words after a number that may be its unit: `42 red apples`."""
_ITEM_MARK = re.compile(r"\(?\d[.):]")  # `1. Reasoning: ` is an item of a list
_HEADING = re.compile(
    r"(?:note|check|step|explanation|verification|remark|reason(?:ing)?|hint|example|proof)s?\b"
    r"|(?!.*(?:\bno|\bnot|n't)\b)[^\W\d_]+(?:[ \t]+[^\W\d_]+){0,2}:?$",
    re.IGNORECASE,
)
"""The text of a `####` line that may follow the one with the answer: `#### Check`, `#### Note: 3 left`."""
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*|<(?:b|strong)>([^<>\n]+)</(?:b|strong)>")
_FIELD = re.compile(
    r"<answer>([^<>{}]{1,500})</answer>"
    r"|[\"'](?:final_?|correct_?)?(?:answer|choice|option)(?:_?letter)?[\"']\s*:"
    r"\s*(?:\"([^\"{}\n]{1,500})\"|'([^'{}\n]{1,500})')",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(r"\b(?:so|total|therefore|thus|hence|altogether|overall|in all)\b", re.IGNORECASE)
_ITEM = re.compile(r"(?:[-*+•\u2013]|\d{1,2}[.)])[ \t]+(?=\S)|>[ \t]*")
"""The mark at the beginning of a list item or a quotation."""
_BRACE = re.compile(r"(\\(?:f?boxed|fbox)\s*)?\{|\}")


def after_thinking(text: str) -> str | None:
    """The text after the last closed think block, or all of it without one; None if a block is unfinished."""
    tags = list(_THINK.finditer(text))
    if not tags:
        return text
    return text[tags[-1].end() :] if tags[-1][1] else None


def read_answer(text: str) -> Reading | None:
    """The final answer of a response, read as a number; None if it states none."""
    rest = after_thinking(text)
    if rest is None:
        return None
    words = plain(rest)
    if gives_several(words):
        return Reading(rest.strip(), None)
    marked = marked_number(words)
    for part in parts(rest):  # the last part is the whole text
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
    """The number that a text after a correction states in place of another, unless the text computes with
    that number."""
    for statement, after in restatements(plain(text), retracts=retracts):
        number = _bare_number(statement)
        later = None if number is None else last_number(after)
        if number is not None and (later is None or later.value == number.value):
            return number
    return None


def _bare_number(phrase: str) -> Reading | None:
    """The number of a phrase that holds only the number and its unit: `42`, `$42`, `42 red apples`."""
    phrase = strip(phrase)
    if parse_number(phrase) is None or len(WORD.findall(phrase)) > MAX_UNIT_WORDS:
        return None
    return phrase_number(phrase)


def _explained(before: str) -> Reading | None:
    """The number in the text before an explanation, if it is all of that text, or bold and the only one."""
    bare = before.strip().rstrip(" (-").strip(" *_#\n")
    if _ITEM_MARK.fullmatch(bare):
        return None
    bold = any(_bare_number(plain(match[1] or match[2])) for match in _BOLD.finditer(before))
    return _bare_number(plain(bare)) or (only_number(plain(before)) if bold else None)


def _clear(text: str, *, alone: bool) -> Reading | None:
    """The number that a text shows as its answer without marking it: the number alone before an explanation,
    the last bold number, the number of a conclusion, or, with `alone`, the only number. A conclusion after a
    bold number counts instead of it, because the bold number was given."""
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
    """The phrase of a plain text that is marked as its answer and has a number; None if there is none."""
    return next(_marked(words, numeric=True), None)


def marked_phrase(text: str, *, answer_is: bool = True) -> str | None:
    r"""What a response states in its last `\boxed{}`, else after its last `####`, else, with `answer_is`,
    after its last `answer is`; None if it has none of these."""
    for part in parts(after_thinking(text) or ""):
        phrase = next(_marked(plain(part.text), numeric=False, answer_is=answer_is), None)
        if phrase is not None:
            return phrase
    return None


def raw_phrase(text: str) -> str | None:
    """`marked_phrase` as it is written, including its LaTeX."""
    for part in parts(after_thinking(text) or ""):
        phrase = next(_marked(part.text, numeric=False), None)
        if phrase is not None:
            return phrase
    return None


def boxed_fields(text: str) -> str:
    r"""`text` with `\boxed{C}` in place of answer fields: `<answer>C</answer>` and JSON's `"answer": "C"`."""
    return _FIELD.sub(_boxed, text)


def _boxed(field: re.Match[str]) -> str:
    content = next(filter(None, field.groups())).strip()
    return rf"\boxed{{{content}}}" if content else ""


def bold_phrases(text: str) -> Iterator[str]:
    """The bold phrases of a text as plain text, beginning with the last."""
    for match in reversed(list(_BOLD.finditer(text))):
        yield plain(match[1] or match[2])


def fold(phrase: str) -> str:
    """A text answer for comparison, without case, spacing, outer punctuation and Unicode composition."""
    phrase = unicodedata.normalize("NFC", strip(phrase).casefold())
    return " ".join(phrase.split()).replace(", ", ",").strip(" ()")


def strip(phrase: str) -> str:
    r"""An answer phrase without the punctuation, the markup and the `\boxed{}` around it."""
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
    start = -1
    phrase = None
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened:
            opening = opened.pop()
            content = text[opening.end() : brace.start()]
            if opening[1] and opening.start() > start and content.strip():
                start = opening.start()
                phrase = strip(content)
    return phrase


def _marked(words: str, *, numeric: bool, answer_is: bool = True) -> Iterator[str]:
    """Phrases of a plain text that are marked as the answer, best first; `numeric`: only with a number."""
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
    """Whether the rest of a `####` line is an answer and not a markdown heading."""
    lead = _LEAD_IN.match(phrase)
    if lead and has_number(phrase[lead.end() :]):
        return True
    return is_last or (begins_with_number(phrase) and not _ENUMERATION.match(phrase))


def _is_bold_answer(phrase: str) -> bool:
    """Whether bold words are a number, perhaps after `x = ` or `Total: `."""
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
    """The first line that is not blank; empty if it is the first of several list items."""
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
