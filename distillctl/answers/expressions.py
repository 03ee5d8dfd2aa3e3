"""Exact evaluation of arithmetic in plain text: splitting it into tokens, and computing a sequence of them.

Numbers, brackets, + - * / ^, fractions, mixed numbers, percentages of something, absolute values, binomial
coefficients, roots of powers and factorials have a value. Letters, other commands and lists have none.
Nothing is passed to `eval`. Numbers are fractions, never floats. A result of more than `MAX_BITS` bits counts
as no value, so 9^9^9 takes no time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from distillctl.answers.arithmetic import MAX_BITS as MAX_BITS
from distillctl.answers.arithmetic import NoValue, binomial, factorial, power, root, small

MAX_DIGITS = 1000
"""Most digits of one number; Python reads integers of at most 4300 digits."""
MAX_DEPTH = 30
"""Deepest nesting of brackets, and of powers."""
MAX_TOKENS = 1000
"""Most tokens of one expression."""

CURRENCY = "$€£¥₹₩₽¢"
_GROUPS = r"\d{1,3}(?:,\d{2,3}){0,9},\d{3}(?!\d|,\d)|\d{1,3}(?:[ '\u2019\u2009]\d{3}){1,9}(?![\d'\u2019])"
_DECIMAL_COMMA = (
    r"\d{1,3}(?:\.\d{3}){1,9},\d{1,30}|\d{1,3}(?:[ '\u2019\u2009]\d{3}){1,9},\d{1,2}"
    r"|0,\d{1,30}|\d{1,30},(?:\d{1,2}|\d{4,30})"
)
"""Numbers with a decimal comma. A comma separates thousands only if groups of three digits follow."""
_REPEATING = r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{(\d{1,30})\}|\((\d{1,30})\))"
_HEXADECIMAL = r"0[xX][0-9A-Fa-f]{1,100}"
_TOKENS = {
    "number": rf"(?<![\d.,(\[{{])(?:{_DECIMAL_COMMA})(?!\d|[.,]\d|\s*[)\]}}])|(?<![\w.,]){_HEXADECIMAL}(?!\w)"
    rf"|{_REPEATING}|(?:(?<![\d.,])(?:{_GROUPS})|\d+)(?:\.\d+)?(?:[eE][-+]?\d{{1,3}}(?![\w.]))?|(?<![\w.])\.\d+",
    "root": r"\\sqrt|\\abs(?![A-Za-z])|√|(?<![A-Za-z])sqrt(?![A-Za-z])",
    "fraction": r"\\frac|\\binom",
    "power": r"\*\*|\^",
    "times": r"[*\u00d7\u22c5\u00b7\u2219\u2217]|\\(?:times|cdot|ast)(?![A-Za-z])",
    "over": r"[/\u00f7]|\\(?:div|over)(?![A-Za-z])",
    "relation": r"[<>]=?|(?<!\d)!=|[\u2264\u2265\u2260\u00b1\u2208]"
    r"|\\(?:leq?|geq?|neq?|lt|gt|pm|in)(?![A-Za-z])",
    "equals": r"[=\u2248\u2243\u2245\u2261~\u2192\u21d2]+>?|->|:="
    r"|\\(?:approx|equiv|simeq|cong|sim|to|implies|Rightarrow|rightarrow)(?![A-Za-z])",
    "sign": r"[-+]",
    "percent": r"%|[°º‰]",
    "open": r"\\\{|[(\[{]",
    "close": r"\\\}|[)\]}]",
    "currency": rf"[{CURRENCY}]",
    "bang": r"!",
    "comma": r",",
    "index": r"_",
    "colon": r":",
    "command": r"\\[A-Za-z]+|[∛∜]",
    "word": r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?",
    "line": r"\n",
    "other": r"\S",
}
_TOKEN = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _TOKENS.items()))
_FUNCTIONS = frozenset({"pi", "π", "log", "ln", "sin", "cos", "tan", "exp", "mod", "choose"})
_VARIABLES = re.compile(r"[xyz]{1,3}|ab|π\w*")
_UNITS = frozenset("mgshlLVWCFJ")  # as in 5m, 10s, 3L
CJK = "\u2e80"
"""First character of the scripts that put no space between a number and a word."""
_CLOSES = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a plain text."""

    kind: str
    """One of the keys of `_TOKENS`; `letter` for a word that is a variable or a function."""
    text: str
    start: int
    end: int


def tokens(text: str) -> list[Token]:
    """All tokens of a plain text; spaces are left out."""
    found = [Token(str(m.lastgroup), m[0], m.start(), m.end()) for m in _TOKEN.finditer(text)]
    return [_in_context(found, i) for i in range(len(found))]


def glued(found: Sequence[Token], i: int) -> bool:
    """Whether there is no space between token `i` and the token before it."""
    return i > 0 and found[i - 1].end == found[i].start


def _in_context(found: list[Token], i: int) -> Token:
    """Token `i`, with the kind that a word has between its neighbours: `times` in 3 x 5, `letter` in 3x."""
    token = found[i]
    if token.kind != "word":
        return token
    before = found[i - 1].kind if i else ""
    after = found[i + 1].kind if i + 1 < len(found) else ""
    kind = token.kind
    if token.text in ("x", "X") and before in ("number", "close") and after in ("number", "open", "currency"):
        kind = "times"
    elif token.text in _FUNCTIONS or (_is_variable(found, i, before, after)):
        kind = "letter"
    return Token(kind, token.text, token.start, token.end)


def _is_variable(found: list[Token], i: int, before: str, after: str) -> bool:
    word = found[i].text
    operators = ("power", "times", "over", "equals", "sign", "index", "relation")
    if before in ("number", "close") and glued(found, i):  # 3x, but neither 3kg nor 5m
        return bool(_VARIABLES.fullmatch(word)) or (len(word) == 1 and word not in _UNITS and word < CJK)
    if len(word) > 1:
        return False
    if before == "number":  # 3 x + 5, but neither 12 m nor 42 m^2
        return (
            word not in _UNITS
            and word < CJK
            and (after in ("", "line", "close", "currency") or after in operators)
        )
    called = after == "open" and glued(found, i + 1)  # f(3)
    return called or before in operators or after in operators or (before == "open" and after == "close")


def evaluate(found: Sequence[Token]) -> Fraction | None:
    """The value of the expression that all these tokens form; None if they form no expression."""
    if not found or len(found) > MAX_TOKENS:
        return None
    reader = _Reader([token for token in found if token.kind != "currency"])
    try:
        value = reader.sum(0)
    except (NoValue, ZeroDivisionError):
        return None
    return value if reader.kind() in ("", "percent") and reader.at_last() else None


class _Reader:
    """Reads an expression by recursive descent. Each method consumes the tokens whose value it returns."""

    def __init__(self, found: list[Token]) -> None:
        self._found = found
        self._at = 0

    def kind(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._found[at].kind if at < len(self._found) else ""

    def at_last(self) -> bool:
        return self._at >= len(self._found) - 1

    def _take(self) -> Token:
        self._at += 1
        return self._found[self._at - 1]

    def sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self.kind() == "sign":
            minus = self._take().text == "-"
            term = self._product(depth)
            value = small(value - term if minus else value + term)
        return value

    def _product(self, depth: int) -> Fraction:
        negative = False
        while self.kind() == "sign":
            negative ^= self._take().text == "-"
        value = self._percentage(self._power(depth), alone=True)
        while self.kind() in ("times", "over", "open", "root", "fraction"):
            divide = self.kind() == "over"
            if self.kind() in ("times", "over"):
                self._take()
            negative ^= self._minus()
            factor = self._percentage(self._power(depth), alone=False)
            value = small(value / factor if divide else value * factor)
        return -value if negative else value

    def _percentage(self, value: Fraction, *, alone: bool) -> Fraction:
        """A factor, divided by 100 if a percent sign follows: 20% * 210, 210 * 20%.

        One hundred percent only changes the unit: 3/4 * 100% is 75%.
        """
        if self.kind() != "percent" or value == 100 or (alone and self.kind(1) != "times"):
            return value
        return value / 100 if self._take().text == "%" else value

    def _minus(self) -> bool:
        return self.kind() == "sign" and self._take().text == "-"

    def _power(self, depth: int) -> Fraction:
        base = self._operand(depth)
        while self.kind() == "bang":
            self._take()
            base = factorial(base)
        if self.kind() != "power":
            return base
        self._take()
        if depth >= MAX_DEPTH:
            raise NoValue
        negative = self._minus()
        exponent = self._power(depth + 1)
        return power(base, -exponent if negative else exponent)

    def _operand(self, depth: int) -> Fraction:
        if depth >= MAX_DEPTH:
            raise NoValue
        kind = self.kind()
        if kind == "number":
            return self._number(depth)
        if kind == "open":
            return self._bracket(depth)
        if kind == "root":
            return self._root(depth)
        if kind == "fraction":
            if self._take().text == "\\binom":
                return binomial(self._bracket(depth), self._bracket(depth))
            return self._bracket(depth) / self._bracket(depth)
        raise NoValue

    def _root(self, depth: int) -> Fraction:
        """A root or an absolute value."""
        if self._take().text == "\\abs":
            return abs(self._bracket(depth))
        degree = Fraction(2)
        if self.kind() == "open" and self._found[self._at].text == "[":
            degree = self._bracket(depth)
        return root(self._operand(depth + 1), degree)

    def _bracket(self, depth: int) -> Fraction:
        if self.kind() != "open":
            raise NoValue
        opened = self._take().text
        value = self.sum(depth + 1)
        if self.kind() != "close" or self._take().text != _CLOSES[opened]:
            raise NoValue
        return value

    def _number(self, depth: int) -> Fraction:
        value = _known(number_value(self._take().text))
        if value.denominator == 1 and self.kind() == "fraction":
            return value + self._operand(depth + 1)  # 3 1/2 in LaTeX
        if value.denominator == 1 and [self.kind(i) for i in range(3)] == ["number", "over", "number"]:
            top, _, bottom = (self._take().text for _ in range(3))
            return value + _known(number_value(top)) / _known(number_value(bottom))  # 3 1/2
        return value


def number_value(text: str) -> Fraction | None:
    """The value of one `number` token; None if it has more than `MAX_DIGITS` digits."""
    if len(text) > MAX_DIGITS:
        return None
    repeating = re.fullmatch(_REPEATING, text)
    if repeating:
        whole = repeating[1]
        fixed = repeating[2]
        period = repeating[3] or repeating[4]
        nines = 10 ** len(period) - 1
        return Fraction(int(whole + fixed + "0") // 10 * nines + int(period), 10 ** len(fixed) * nines)
    return Fraction(int(text, 16)) if re.fullmatch(_HEXADECIMAL, text) else Fraction(digits(text))


def digits(text: str) -> str:
    """The text of a `number` token with a decimal point and without separators."""
    if re.fullmatch(_DECIMAL_COMMA, text) and (text.startswith("0,") or not re.fullmatch(_GROUPS, text)):
        return re.sub(r"[.' \u2019\u2009]", "", text).replace(",", ".")
    return re.sub(r"[,' \u2019\u2009]", "", text)


def _known(value: Fraction | None) -> Fraction:
    if value is None:
        raise NoValue
    return value
