"""Reading English numbers in words, such as `twelve` or `forty-two apples`."""

from __future__ import annotations

import re

_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_VALUES = {word: i for i, word in enumerate(_UNITS)} | {word: 10 * i for i, word in enumerate(_TENS, 2)}
_UNIT = rf"(?:{'|'.join(reversed(_UNITS))})"  # `seventeen` before `seven`
_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?:[\s-]{_UNIT})?|{_UNIT})"
_GROUP = rf"(?:{_UNIT}\shundred(?:(?:\sand)?\s{_SMALL})?|{_SMALL})"
_NUMBER = re.compile(
    r"(?:(?:about|approximately|exactly|only|just|a total of)\s)?"
    rf"({_GROUP}(?:\s(?:thousand|million|billion)(?:(?:\sand)?\s{_GROUP})?){{0,3}})((?:\s[^\W\d_]+){{0,3}})",
    re.IGNORECASE,
)
_NO_UNIT = re.compile(
    rf"\s(?:{_SMALL}|hundred|thousand|of|or|and|more|less|fewer|than|third|half|quarter|is|are|was|thing|person|the|to|point)\b|.*[A-Z]"
)
MAX_CHARS = 200
"""Most characters of a phrase that may be a number in words."""


def in_digits(phrase: str) -> str:
    """A number in words, perhaps with a unit after it, written with digits; any other phrase unchanged."""
    match = _NUMBER.fullmatch(" ".join(phrase.split()).rstrip(".!")) if len(phrase) <= MAX_CHARS else None
    if match is None or _NO_UNIT.match(match[2]):
        return phrase
    total = part = 0
    for word in re.findall(r"[a-z]+", match[1].lower()):
        if word in _SCALES:
            part *= _SCALES[word]
            if word != "hundred":
                total += part
                part = 0
        else:
            part += _VALUES.get(word, 0)  # `and` adds nothing
    return f"{total + part}{match[2]}"
