"""Reading ground truths as numbers, and finding the ground truth in an assistant's turn."""

from __future__ import annotations

import re

from distillctl.answers.final_answer import (
    MAX_UNIT_WORDS,
    WORD,
    after_thinking,
    last_boxed,
    marked_number,
    read_answer,
    strip,
)
from distillctl.answers.number_words import in_digits
from distillctl.answers.plain import plain
from distillctl.answers.reading import Reading, parse_number, phrase_number

_SENTENCES = re.compile(r"(?<![^\W\d])[^\W\d]{2,}[.!?;]\s+\S|\d[.!?;]\s+[^\W\d]{2,}")
_NAME = re.compile(r"\d+(?:[.):]\s+|-)[^\W\d_]{2}")
"""Text that begins with a number that is not a value: `1. Paris`, `7-Eleven`."""
_HASHES = re.compile(r"####+[ \t]*(\d[^\n]*)")


def read_truth(text: str) -> Reading:
    """Read a ground truth like a response. A single sentence without a mark is itself the answer.

    A range, a date, a telephone number or `1 million` (`figures`) is text.
    """
    rest = after_thinking(text) or text
    words = in_digits(strip(plain(rest)))
    is_phrase = "\n" not in words and not _SENTENCES.search(words)
    if is_phrase and marked_number(words) is None:
        found = phrase_number(words)
    else:
        found = read_answer(rest) or Reading(words, None)
    return Reading(words, None) if found.is_figure else found


def number_in_turn(text: str) -> Reading | None:
    """The number that a response marks as its answer, or that stands alone with its unit, else None.

    None also for figures (`figures.is_figure`), for `1. Paris`, and for a heading such as `#### 3 Tips`.
    """
    found = read_answer(text)
    if found is None or found.value is None or found.is_figure:
        return None
    words = strip(plain(after_thinking(text) or ""))
    if marked_number(words) is not None:
        return None if not last_boxed(words) and _is_heading(words) else found
    left, _, right = words.rpartition("=")
    is_alone = "\n" not in words and not WORD.search(left) and len(WORD.findall(right)) <= MAX_UNIT_WORDS
    return found if is_alone and not _NAME.match(words) and parse_number(right) == found.value else None


def _is_heading(words: str) -> bool:
    """Whether the last `####` line that begins with a number is a heading, such as `#### 1. Paris`.

    Above text or after another such line, `#### 3 Tips` and `#### 2 weeks before` are headings too.
    """
    found = list(_HASHES.finditer(words))
    if not found:
        return False
    phrase = strip(found[-1][1])
    if _NAME.match(phrase):
        return True
    units = WORD.findall(phrase)
    is_above = bool(words[found[-1].end() :].strip())
    if len(found) > 1:
        return bool(units)
    return is_above and (len(units) > 1 or any(unit[0].isupper() for unit in units))
