r"""Putting formulas on one line: a block `\[ x \]` of three lines becomes one, and `**5**` becomes `5`.

In: text with LaTeX and markdown. Out: the same formulas, without emphasis and code marks around them.
"""

from __future__ import annotations

import re

from distillctl.answers.expressions import CJK

_BLOCK = re.compile(
    r"\\\[(?:(?!\\\[).){1,4000}?\\\]"
    r"|\\\((?:(?!\\\().){1,4000}?\\\)"
    r"|\$\$[^$]+\$\$"
    r"|^[ \t]*(?P<fence>`{3,})[a-z]*\n(?P<fenced>.{1,1000}?)\n[ \t]*(?P=fence)[ \t]*$"
    r"|\\begin\s*\{(?P<name>[A-Za-z]+\*?)\}(?:(?!\\begin\s*\{(?P=name)\}).){1,4000}?\\end\s*\{(?P=name)\}",
    re.DOTALL | re.MULTILINE,
)
"""A formula or code block that may span several lines."""
_OWN_LINES = r"(?:equation|align|alignat|gather|multline|eqnarray|math|displaymath)"
_DISPLAY = re.compile(rf"{_OWN_LINES}\*?")
"""Environments that begin a formula."""
_ROWS = re.compile(rf"\\(?:begin|end)\s*\{{(?:{_OWN_LINES}|aligned|gathered|split)\*?\}}")
"""The marks of these environments, and of environments that set a formula in rows."""
_QUOTED = re.compile(r"\n[ \t]*>")
_LABEL = re.compile(r"\\(?:tag|label)\*?\s*\{[^{}]*\}|\\(?:nonumber|notag)(?![A-Za-z])")
_ROW_END = re.compile(r",?\s*\\\\(?:\[[^\]\n]*\])?\s*(?P<goes_on>[=<>+-]|\\(?:leq?|geq?|approx|equiv)\b|$)?")
_CJK = rf"{CJK}-\uffff"
_EMPHASIS = re.compile(
    rf"(?<![^\s(:\"'{_CJK}])(?P<mark>\*{{1,3}}|_{{1,3}}|`{{1,2}}|<(?P<tag>b|strong|em|i|code)>)(?=\S)"
    rf"(?P<words>(?:(?!(?P=mark))[^\n]){{1,500}}?)(?<=\S)(?:(?P=mark)|</(?P=tag)>)(?![^\s.,;:!?)\"'{_CJK}])"
)
"""Words that are bold, italic or code; spaces around them distinguish them from products as in `2*x*y`."""
_IS_NOT = re.compile(r"\b(is|was)n['\u2019]t\b")


def undressed(text: str) -> str:
    """`text` with each formula on one line and without emphasis and code marks; `isn't` becomes `is not`."""
    text = _BLOCK.sub(_on_one_line, text)
    for _ in range(2):  # marks may be nested, as in `_**5**_`
        text = _EMPHASIS.sub(lambda match: match["words"], text)
    return _IS_NOT.sub(r"\1 not", text)


def _on_one_line(block: re.Match[str]) -> str:
    """A formula without its line breaks, or the unchanged content of a code block."""
    if block["fence"]:
        return block["fenced"]
    formula = _without_rows(block[0])
    before = block.string[max(0, block.start() - 3) : block.start()].rstrip(" ")[-1:]
    is_bare = block["name"] and _DISPLAY.fullmatch(block["name"]) and before not in ("$", "{")
    return rf"\[{formula}\]" if is_bare else formula


def _without_rows(formula: str) -> str:
    """A formula on one line, with a comma before each row that is a separate equation."""
    if "\n" in formula and all(line.lstrip().startswith(">") for line in formula.split("\n")[1:]):
        formula = _QUOTED.sub("\n", formula)
    flat = _ROWS.sub("", formula)
    if flat != formula and r"\begin" not in flat:
        flat = _LABEL.sub("", flat).replace("&", "")
        flat = _ROW_END.sub(lambda end: f" {end['goes_on']}" if end["goes_on"] is not None else ", ", flat)
    return " ".join(flat.split())
