"""Single letters in a text, and which of them name options.

The article "a", the pronoun "I" and the letter of a name such as `vitamin C` do not name options.
"""

from __future__ import annotations

import re
import unicodedata

from distillctl.answers.expressions import CJK

OPEN = r"[(\[{<\"']{0,4}"
CLOSE = r"[)\]}>\"']{0,4}"
_W = rf"[^\W{CJK}-\uffff]"  # a letter or digit of a script that puts spaces between words
NO_SPECIES = (
    r"(?!\. (?:coli|aureus|elegans|subtilis|difficile|pylori|cerevisiae|melanogaster|thaliana|pneumoniae"
    r"|faecalis|tuberculosis|albicans|cholerae|falciparum|sapiens)\b)"
)
"""Must not follow an option's letter: species names, which follow the letter of a genus as in `E. coli`."""
LETTER = (
    rf"(?P<open>{OPEN})(?<!{_W})(?<!\w')(?P<letter>[A-Za-z]){NO_SPECIES}"
    rf"(?!{_W}|'(?!d[\u0131iuü]r\b)\w)(?P<close>{CLOSE})"
)
OPTION = (
    r"(?:option|choice|letter|alternative|selection|opci[oó]n|op[cç][aã]o|alternativa|letra|lettre|lettera|opzione"
    r"|вариант)"
)
"""Words before an option's letter."""
NOUN = (
    rf"(?:{OPTION}|answer|solution|response|antwort|lösung|respuesta|r[eé]ponse|resposta|risposta|ответ"
    r"|jawaban)"
)
AT_LETTER = re.compile(LETTER)
_ITEM = rf"(?<!{_W})[A-Za-z]{CLOSE}\s*"
_JOINED = re.compile(
    rf"(?:{_ITEM},\s*)*{_ITEM}(?:[/&+、]|(?:,\s*)?(?:and also|and|or|to|through|und|oder|et|ou|y)\b)\s*"
    rf"(?:{NOUN}\s+|perhaps\s+|maybe\s+)?{OPEN}$"
    rf"|(?:{_ITEM}[,、]\s*){{2,}}{OPEN}$",
    re.IGNORECASE,
)
_MAX_JOINED = 60
"""Number of characters before a letter in which others may be joined to it."""
_DRESSED = re.compile(r"(?:CIRCLED|PARENTHESIZED|FULLWIDTH|SQUARED) LATIN (SMALL|CAPITAL) LETTER ([A-Z])$")
_REASONS = frozenset({
    "because", "since", "as", "is", "was", "and", "or", "but", "not", "for", "due", "which", "that", "with",
    "here", "by", "rather", "means",
})  # fmt: skip
"""Words that may follow a letter but not an article."""
_NEXT_WORD = re.compile(r"\s+([\w']+)")
_NAME = re.compile(
    r"(?i:\b(?:vitamin|hepatitis|type|group|angle|point|plan|team|phase|class|set|event|matrix|graph|figure"
    r"|appendix|patient|person|player|city|town|company|factor|line|part|box|bag|train|car|machine|influenza|plane"
    r"|vertex|node|drug|protein|substance|element|compound|curve|circuit|vaccine|side|room|table|column|row"
    r"|route|shop|store|customer|coach|packet|card|variable|triangle|path|school|brand|country|student|grade)s?)\s+$"
    rf"|(?<=[a-z,):.\"] )(?!(?i:{NOUN})s?\s)[A-Z][a-z]{{2,}}\s+$"
)
_MAX_NAME = 40
"""Number of characters before a letter that are searched for the rest of a name."""


def uncircled(text: str) -> str:
    """`text` with circled, squared, parenthesised and full-width letters as ASCII letters."""
    return text if text.isascii() else "".join(map(_uncircled, text))


def is_letter(match: re.Match[str], text: str, *, cased: bool) -> bool:
    """Whether a single letter is neither an article nor a pronoun.

    With `cased`, lower-case letters count only in brackets.
    """
    letter = match["letter"]
    if match["open"] or match["close"]:
        return True
    if cased and letter.islower():
        return False
    following = _NEXT_WORD.match(text, match.end("close"))
    if following is None or letter not in "aAI":
        return letter != "I" or following is None
    word = following[1]
    if letter == "I":
        return word in ("is", "because", "since")
    return word.lower() in _REASONS if letter != "A" else word.lower() in _REASONS or word[0].isupper()


def is_name(text: str, start: int) -> bool:
    """Whether the letter at `start` belongs to a name: `vitamin C`, `angle A`."""
    return bool(_NAME.search(text[max(0, start - _MAX_NAME) : start]))


def joined(text: str, start: int) -> tuple[int, set[str]]:
    """The letters that `and`, `or`, a slash or commas join to the one at `start`, and where they begin."""
    match = _JOINED.search(text[max(0, start - _MAX_JOINED) : start])
    if match is None:
        return start, set()
    return start - len(match[0]), {letter["letter"].upper() for letter in AT_LETTER.finditer(match[0])}


def _uncircled(char: str) -> str:
    dressed = None if char.isascii() else _DRESSED.search(unicodedata.name(char, ""))
    if dressed is None:
        return char
    return dressed[2].lower() if dressed[1] == "SMALL" else dressed[2]
