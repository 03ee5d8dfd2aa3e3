r"""Where a text states its final answer.

Only what follows the last closed think block counts; in an unfinished one nothing does. There the answer is
the last `\boxed{}`, else what follows the last `####` that is no heading, else the last `answer is` or
`answer:`, else the last bold number, else the last number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from distillctl.grading.plain import plain
from distillctl.grading.reading import (
    Reading,
    begins_with_number,
    has_number,
    last_number,
    parse_number,
    phrase_number,
)

MAX_PHRASE = 500
"""Characters of a statement that are read: untrained students repeat themselves for thousands of tokens."""
MAX_STATEMENTS = 20
"""Statements that are tried, from the last."""
_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_HASHES = re.compile(r"####+(.*)")
_ENUMERATION = re.compile(r"\d[.):]\s+[^\W\d]")  # `#### 1. Add the costs` is a heading
_IS = r"(?:\s*(?:is|are|was|would be|will be|should be|equals|=|:|→|为|是)(?!\w)\s*:?|\s*:|[为是])"
_LEAD_IN = re.compile(rf"(?:the\s+)?(?:final\s+)?answer(?:{_IS})?\s*(?=\S)", re.IGNORECASE)
_FOREIGN = (
    r"(?:ответ|respuesta|r[eé]ponse|resposta|risposta|antwort|jawaban|odpowiedź|đáp án|정답|답)"
    r"(?:\s*[:—]|\s+(?:es|est|é|è|ist|lautet|adalah|là|to)(?!\w))"
)
"""`The answer is` in other languages."""
_ANSWER = re.compile(
    rf"(?:(?:\banswer(?:\s+to\s[^.:\n]{{1,80}}?)?|答案){_IS}|\b{_FOREIGN})[ \t]*|\bfinal answer[ \t]*(?=\n)",
    re.IGNORECASE,
)
_SENTENCES = re.compile(r"[^\W\d]{2,}[.!?;]\s+\S|\d[.!?;]\s+[^\W\d]{2,}")
_WORD = re.compile(r"[^\W\d_]{2,}")
_MAX_UNIT_WORDS = 3
_NUMBER_AND_REASON = re.compile(
    r"((?:[A-Za-z]\w{0,9}\s*=)?[^\n=]{1,100}?)"
    r"(?:[.:]?[^\S\n]*\n\s*"
    r"(?:here'?s (?:why|how)|explanation|because|reason(?:ing)?|check|verification|note|proof)\b"
    r"|[,;]\s+(?:since|because|as)\b[^\n]*\Z)",
    re.IGNORECASE,
)
"""A response that begins with its answer: `x=12, since 12-3=9`."""
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
_ITEM = re.compile(r"(?:[-•]|\d+[.)])\s+(?=[^\W\d])")  # `- 5` may be a number
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
    phrase = next(_marked(words, numeric=True), None)
    if phrase is None:
        phrase = next(filter(_is_bold_answer, bold_phrases(rest)), None)
    if phrase is not None:
        return phrase_number(phrase)
    alone = _NUMBER_AND_REASON.match(words.lstrip())
    if alone and parse_number(alone[1].rpartition("=")[2]) is not None:
        return phrase_number(alone[1])
    number = last_number(words)
    if number is not None:
        return number
    return next((Reading(phrase, None) for phrase in _hashes(words, numeric=False)), None)


def read_truth(text: str) -> Reading:
    """A ground truth, read like a response; a single sentence without a mark is the answer itself.

    A range, a date, a telephone number or `1 million` (`figures`) is text.
    """
    rest = after_thinking(text) or text
    words = strip(plain(rest))
    is_phrase = "\n" not in words and not _SENTENCES.search(words)
    if is_phrase and next(_marked(words, numeric=True), None) is None:
        found = phrase_number(words)
    else:
        found = read_answer(rest) or Reading(words, None)
    return Reading(words, None) if found.is_figure else found


def number_in_turn(text: str) -> Reading | None:
    """The number that `read_answer` finds in a response which states it: marked as the answer, or alone with
    its unit; None for a `figures.is_figure`."""
    found = read_answer(text)
    if found is None or found.value is None or found.is_figure:
        return None
    words = strip(plain(after_thinking(text) or ""))
    if next(_marked(words, numeric=True), None) is not None:
        return found
    left, _, right = words.rpartition("=")
    is_alone = "\n" not in words and not _WORD.search(left) and len(_WORD.findall(right)) <= _MAX_UNIT_WORDS
    return found if is_alone and parse_number(right) == found.value else None


def final_text(text: str) -> str | None:
    """The final answer of a response whose answer is text: what is marked, else the last line; without the
    mark of a list that it alone makes."""
    rest = boxed_fields(after_thinking(text) or "")
    lines = [line.strip() for line in rest.splitlines() if line.strip()]
    found = marked_phrase(rest) or (lines[-1] if lines else None)
    mark = _ITEM.match(found or "")
    return found[mark.end() :] if found and mark and _is_only_item(found, lines) else found


def _is_only_item(item: str, lines: list[str]) -> bool:
    """Whether no item of a list stands above or below one."""
    at = next((i for i in reversed(range(len(lines))) if item in plain(lines[i])), None)
    beside = [] if at is None else lines[max(0, at - 1) : at] + lines[at + 1 : at + 2]
    return at is not None and not any(map(_ITEM.match, beside))


def marked_phrase(text: str, *, answer_is: bool = True) -> str | None:
    r"""What a response states in its last `\boxed{}`, else after its last `####`, else (`answer_is`) after
    its last `answer is`; None without any."""
    rest = after_thinking(text)
    return None if rest is None else next(_marked(plain(rest), numeric=False, answer_is=answer_is), None)


def raw_phrase(text: str) -> str | None:
    """`marked_phrase` as it stands, with its LaTeX."""
    rest = after_thinking(text)
    return None if rest is None else next(_marked(rest, numeric=False), None)


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
    if phrase.endswith("$") and phrase.startswith("$"):  # $42$ is LaTeX
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
        yield boxed
    yield from _hashes(words, numeric=numeric)
    said = list(_ANSWER.finditer(words)) if answer_is else []
    for match in reversed(said[-MAX_STATEMENTS:]):
        phrase = strip(_line(words[match.end() : match.end() + MAX_PHRASE]))
        if phrase and (not numeric or has_number(phrase)):
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
    _, mark, right = phrase.rpartition("=")
    label, colon, rest = phrase.partition(":")
    if mark and begins_with_number(phrase):
        return parse_number(right) is not None
    if colon and rest.strip() and not has_number(label):
        return parse_number(rest) is not None
    return parse_number(phrase) is not None and not _ENUMERATION.match(phrase)


def _line(text: str) -> str:
    """The first line that is not blank."""
    return next((line for line in text.split("\n", 4)[:4] if strip(line)), "")
