"""Final answers in model output: verl's two scorers bit for bit, and a tolerant one of our own.

In: a decoded response and the expected answer. Out: a `Grade`. Pure functions, standard library only.
`verl_strict` and `verl_flexible` follow `verl/utils/reward_score/gsm8k.py`, quirks included, so that
accuracies can be compared with published ones; `normalised` reads an answer the way a person does.
Numbers are compared as exact fractions, never as floats.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

_CLIP_CHARS = 300  # verl's _SOLUTION_CLIP_CHARS
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(\-?[0-9\.\,]+)")

_CURRENCY = "$€£¥₹₩₽"
# Python refuses to read integers of more digits (sys.get_int_max_str_digits is 4300 by default).
_MAX_DIGITS = 1000
# Not the tail of a word (m2), of an exponent (cm^2, 10^{-3}) or of another number.
_START = r"(?<![\w^])(?<!\^-)(?<!\^\{)(?<!\^\{-)"
# A minus glued to what stands before it is a subtraction or a hyphen, not a sign.
_SIGN = rf"(?P<sign>(?<![\w)\]}}])-)?[{_CURRENCY}]?(?P<late_sign>-)?"
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_EXPONENT = r"(?:[eE][+-]?\d{1,3}(?![\d.]))?"
_NUMBER = re.compile(
    rf"{_START}{_SIGN}(?:(?P<whole>\d+)\s+(?=\d+/\d))?(?P<top>{_DIGITS}{_EXPONENT})"
    r"(?:\s*/\s*(?P<bottom>\d+(?:\.\d+)?))?"
)
_OPERATOR = re.compile(r"\s*[%°]?\s*(?:[-+*/=\u00d7\u00f7\u00b7]|x\s*\d)")
# What may follow a number that is a whole answer: a percent sign, a unit. `3x` is algebra, not a unit.
_UNIT = re.compile(rf"(?![A-Za-z]\b)[^\d+*=()^\[\]{{}}<>{_CURRENCY}]*[{_CURRENCY}]?\s*\.?")

_HASHES = re.compile(r"####+(.*)")
_ENUMERATION = re.compile(r"\d[.):]\s+[^\W\d]")  # `#### 1. Add the costs` is a heading
_LEAD_IN = re.compile(r"(?:the\s+)?(?:final\s+)?answer(?:\s+is\b)?\s*:?\s*(?=\S)", re.IGNORECASE)
_BRACE = re.compile(r"(\\f?boxed\s*)?\{|\}")
_FRAC = r"(?:(?<![\w)\]}])(-))?\s*\\[dt]?frac"
_LATEX = (
    (re.compile(rf"{_FRAC}\s*\{{([^{{}}]*)\}}\s*\{{([^{{}}]*)\}}"), r" \1\2/\3 "),
    (re.compile(rf"{_FRAC}\s*(\d)\s*(\d)"), r" \1\2/\3 "),
    (re.compile(r"\s*(?:\\times|\u00d7)\s*10\s*\^\s*\{?(-?\d{1,3})\}?"), r"e\1"),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|mathit)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\[,!;:]"), ""),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[()\[\]]|\\(?:left|right|displaystyle|quad)\b"), " "),
    (re.compile(r"(?<!\d)\*\*|\*\*(?!\d)|__|`"), ""),  # markdown; 2**3 stays
    (re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))"), ""),  # thin thousands separators
)
_SLASH = "\u2044"  # of vulgar fractions such as one half
_PUNCTUATION = str.maketrans(dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-") | {"\uff0c": ",", _SLASH: "/"})


@dataclass(frozen=True, slots=True)
class Grade:
    """Verdicts of the three scorers on one response."""

    strict: bool
    """verl-strict: the text after the last `#### ` equals the ground truth character by character."""
    flexible: bool
    """verl-flexible: the last run of digits, dots and commas does."""
    normalised: bool
    """The final answer has the ground truth's value, or its text when that is not a number."""
    has_format: bool
    """verl-strict found an answer, right or wrong."""
    extracted: str | None
    """The final answer that `normalised` compared."""


def grade(text: str, ground_truth: str) -> Grade:
    """Grade a decoded response (special tokens left out) against the expected final answer."""
    strict = verl_strict(text)
    truth_is_number = parse_number(ground_truth) is not None
    if truth_is_number:
        extracted = normalised(text)
        same = extracted is not None and numbers_equal(extracted, ground_truth)
    else:
        extracted = _final_phrase(_plain(text), numeric=False)
        same = extracted is not None and fold(extracted) == fold(_plain(ground_truth))
    return Grade(
        strict=strict == ground_truth,
        flexible=verl_flexible(text) == ground_truth,
        normalised=same,
        has_format=strict is not None,
        extracted=extracted,
    )


def verl_strict(text: str) -> str | None:
    """The last `#### NUMBER` of the last 300 characters without commas, or None (verl's default)."""
    answers: list[str] = _STRICT.findall(text[-_CLIP_CHARS:])
    return answers[-1].replace(",", "") if answers else None


def verl_flexible(text: str) -> str | None:
    """The last run of digits, dots and commas of the last 300 characters that is not a single dot.

    When there are only single dots, verl's loop leaves one of them as the answer, and so does this.
    """
    runs: list[str] = _FLEXIBLE.findall(text[-_CLIP_CHARS:])
    return next((run for run in reversed(runs) if run != "."), runs[0] if runs else None)


def normalised(text: str) -> str | None:
    r"""The final answer of the whole response: a plain number such as `-1234.5` or `3/4`, or text.

    It is what follows the last `####` that is an answer and not a heading, else the last `\boxed{}`,
    else the last number. Thousands separators, currency, percent signs, units and markup are dropped.
    None when there is no such answer.
    """
    phrase = _final_phrase(_plain(text), numeric=True)
    if phrase is None:
        return None
    return _number_in(phrase) or phrase


def numbers_equal(left: str, right: str) -> bool:
    """Whether both texts are numbers (as `parse_number` reads them) of the same value."""
    value = parse_number(left)
    return value is not None and value == parse_number(right)


def parse_number(text: str) -> Fraction | None:
    """The exact value of a text that is one number, currency and unit allowed, else None."""
    plain = _plain(text).strip()
    match = _NUMBER.match(plain.removeprefix("+"))
    if match is None or not _UNIT.fullmatch(plain.removeprefix("+"), match.end()):
        return None
    return _value(match)


def _value(match: re.Match[str]) -> Fraction | None:
    """The value of a `_NUMBER` match; None for a division by zero and for absurdly many digits."""
    if match.end() - match.start() > _MAX_DIGITS:
        return None
    bottom = Fraction(match["bottom"] or 1)
    if bottom == 0:
        return None
    size = Fraction(match["whole"] or 0) + Fraction(match["top"].replace(",", "")) / bottom
    return -size if match["sign"] or match["late_sign"] else size


def _spelled(match: re.Match[str]) -> str:
    """A `_NUMBER` match without separators and currency."""
    sign = "-" if match["sign"] or match["late_sign"] else ""
    whole = f"{match['whole']} " if match["whole"] else ""
    bottom = f"/{match['bottom']}" if match["bottom"] else ""
    return f"{sign}{whole}{match['top'].replace(',', '')}{bottom}"


def final_phrase(text: str) -> str | None:
    r"""What a response states after its last `####`, else in its last `\boxed{}`; None without either."""
    plain = _plain(text)
    hashes = [phrase for match in _HASHES.finditer(plain) if (phrase := _strip(match[1]))]
    return _LEAD_IN.sub("", hashes[-1], count=1) if hashes else _last_boxed(plain)


def _number_in(phrase: str) -> str | None:
    """The number an answer phrase states: the one it starts with, the result of a sum, or the first."""
    start = _NUMBER.match(phrase)
    if start and not _OPERATOR.match(phrase, start.end()):
        return _spelled(start)
    result = _NUMBER.search(phrase.rpartition("=")[2]) or _NUMBER.search(phrase)
    return _spelled(result) if result else None


def _final_phrase(plain: str, numeric: bool) -> str | None:
    """The stretch of a plain text that states the final answer; `numeric`: a number is expected."""
    hashes = [(_strip(match[1]), match.end()) for match in _HASHES.finditer(plain)]
    hashes = [(phrase, end) for phrase, end in hashes if phrase]
    for phrase, end in reversed(hashes):
        if not numeric or _is_answer(phrase, is_last=not plain[end:].strip()):
            return _LEAD_IN.sub("", phrase, count=1)
    boxed = _last_boxed(plain)
    if boxed:
        return boxed
    numbers = list(_NUMBER.finditer(plain))
    if numbers:
        return _spelled(numbers[-1])
    return hashes[-1][0] if hashes else None


def _is_answer(phrase: str, is_last: bool) -> bool:
    """Whether the rest of a `####` line is an answer; a markdown heading looks the same."""
    lead = _LEAD_IN.match(phrase)
    if lead and _NUMBER.search(phrase, lead.end()):
        return True
    return is_last or bool(_NUMBER.match(phrase) and not _ENUMERATION.match(phrase))


def _last_boxed(plain: str) -> str | None:
    r"""Content of the last `\boxed{}` whose braces close."""
    opened: list[re.Match[str]] = []
    start, phrase = -1, None
    for brace in _BRACE.finditer(plain):
        if brace[0] != "}":
            opened.append(brace)
        elif opened:
            opening = opened.pop()
            if opening[1] and opening.start() > start:
                start, phrase = opening.start(), _strip(plain[opening.end() : brace.start()])
    return phrase


def _plain(text: str) -> str:
    """`text` with ASCII digits and minus signs, and without LaTeX and markdown around its words.

    Not Unicode's NFKC, which would turn `cm²` into `cm2` and `5²` into 52.
    """
    if not text.isascii():
        text = "".join(map(_ascii_digit, text.translate(_PUNCTUATION)))
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def _ascii_digit(char: str) -> str:
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.decimal(char))
    if unicodedata.decomposition(char).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", char).replace(_SLASH, "/")
    return char


def _strip(phrase: str) -> str:
    r"""An answer phrase without the punctuation and markup around it, and out of its `\boxed{}`."""
    phrase = phrase.strip(" \t\r\n*_:\"'")
    boxed = _last_boxed(phrase)
    if boxed:
        return boxed
    phrase = phrase.rstrip(".,;!").strip()
    if phrase.endswith("$") and phrase.startswith("$"):  # $42$ is LaTeX
        phrase = phrase[1:-1]
    return phrase.strip()


def fold(phrase: str) -> str:
    """A text answer for comparison: case, spacing and surrounding punctuation do not matter."""
    return " ".join(_strip(phrase).casefold().split()).strip(" ()")
