"""Plain text: without LaTeX, markdown and tags, and with ASCII for Unicode's other forms of a character."""

from __future__ import annotations

import re
import unicodedata

THIN = "\u2009"
"""Replaces every narrow space, those of LaTeX included."""
_SLASH = "\u2044"  # of vulgar fractions such as one half
_MINUS = dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe58\ufe63\uff0d", "-")
_WIDE = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full-width ASCII
_SPACES = dict.fromkeys("\u00a0\u2007\u2008\u2009\u202f", THIN)
_QUOTES = dict.fromkeys("\u2018\u2019", "'") | dict.fromkeys("\u201c\u201d\u00ab\u00bb\u300c\u300d", '"')
_OTHER = {_SLASH: "/", "\u2215": "/", "\u3002": ". ", "\u3000": " "}
_TABLE = str.maketrans(_WIDE | _MINUS | _SPACES | _QUOTES | _OTHER)
_RAISED = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a"
_LOWERED = str.maketrans(_RAISED, "0123456789-+")
_POWER = re.compile(rf"(?<=[\d)\]}}])[{_RAISED}]+")
_WORDS = r"(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathsf|mathit|mbox|hbox|operatorname|emph|bf|rm)"

_INSIDE = r"[-{(\d][-+*/^\d.,(){} ]{0,40}(?<=[\d)}])"
STYLE = re.compile(
    r"\\(?:textcolor|color|colorbox)\s*\{[^{}\n]{0,40}\}"
    r"|\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|it|sf|tt)(?![A-Za-z])"
)
"""LaTeX commands that set the colour or size of what follows."""

_UNDRESS = (
    (STYLE, " "),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (
        re.compile(r"\\(?:left\s*\||lvert(?![A-Za-z]))([^|\n]{1,60}?)\\(?:right\s*\||rvert(?![A-Za-z]))"),
        r"\\abs{\1}",
    ),
    (re.compile(rf"(?<![\w|)])\|({_INSIDE})\|(?![-\w|])"), r"\\abs{\1}"),
    (re.compile(r"(?<![\d.,])(?=[1-9])(\d{1,3})\.(\d{3})(?=\s?€)"), r"\1\2"),
    (re.compile(r"<<[^<>\n]*>>(?=\s*[-$\d.])"), ""),  # GSM8K puts calculator notes before their result
    (re.compile(r"<sup>\s*([^<>\n]{1,20}?)\s*</sup>"), r"^{\1}"),
    (re.compile(r"<br\s*/?>|</?p>", re.IGNORECASE), "\n"),
    (re.compile(r"</?[A-Za-z][\w-]{0,20}(?:\s[^<>\n]*)?>|<\|[^|<>\n]{1,40}\|>"), " "),
    (re.compile(r"\\[dtc]frac\b|\\frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dtc]?frac\s*(\d)\s*(?=\d|\{)"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(rf"\\{_WORDS}\s*\{{([^{{}}]*)\}}"), r" \1 "),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree\b"), "°"),
    (re.compile(r"\\pounds\b"), "£"),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;: ]|(?<=\d)~(?=\d{3})"), THIN),
    (re.compile(r"\\([$%#&_])"), r"\1"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[()\[\]]|\\(?:left|right|[bB]igg?[lr]?|displaystyle|q?quad)(?![A-Za-z])"), " "),
    (re.compile(r"(?<!\d)\*\*|\*\*(?!\s*\d)|__|`"), ""),  # markdown; 2**3 stays
)


def plain(text: str) -> str:
    """`text` with ASCII digits, signs and brackets, and without LaTeX and markdown around its words.

    Unicode's NFKC is not used, because it would turn `cm²` into `cm2` and `5²` into 52. A raised number after
    a digit or a bracket becomes a power.
    """
    if not text.isascii():
        text = "".join(map(_ascii_digit, text.translate(_TABLE)))
        text = _POWER.sub(lambda power: f"^{{{power[0].translate(_LOWERED)}}}", text)
    for pattern, replacement in _UNDRESS:
        text = pattern.sub(replacement, text)
    return text


def _ascii_digit(char: str) -> str:
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.decimal(char))
    if unicodedata.decomposition(char).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", char).replace(_SLASH, "/")
    return char
