r"""The letter that a text chooses, as a person reads it: `(B)`, `**B) Paris**`, `option b is correct`.

The article "a" and the pronoun "I" are no letters, `A and B` chooses none, and `not A but C` is C.
A letter that the words around it deny, as in `B is wrong` or `all but B`, is not chosen.
"""

from __future__ import annotations

import re
import unicodedata

from distillctl.grading.expressions import CJK
from distillctl.grading.final_answer import (
    MAX_PHRASE,
    MAX_STATEMENTS,
    after_thinking,
    bold_phrases,
    marked_phrase,
    strip,
)
from distillctl.grading.plain import plain

_OPEN, _CLOSE = r"[(\[{<\"']{0,4}", r"[)\]}>\"']{0,4}"
_W = rf"[^\W{CJK}-\uffff]"  # a letter or digit of a script that puts blanks between words
_LETTER = rf"(?P<open>{_OPEN})(?<!{_W})(?<!\w')(?P<letter>[A-Za-z])(?!{_W}|'\w)(?P<close>{_CLOSE})"
_NOUN = r"(?:answer|option|choice|letter|alternative|solution|response|selection)"
_IS = (
    r"(?:(?<![A-Za-z])(?:is|are|was|be|would be|should be|must be|has to be|will be|seems to be|ist|lautet|es"
    r"|est|é|è|adalah|là)(?![A-Za-z])|应?[该該]?[是为為]|는|은|は|[:=→]|->|-)"
)
_FILLER = re.compile(
    r"(?:(?:the|my|our|correct|right|best|final|most|likely|either|both|between|clearly|definitely|probably"
    rf"|indeed|therefore|thus|simply|only|just|none other than|und|{_NOUN}|{_IS})(?![A-Za-z])[\s,:]*"
    r"|[\s*_$:.#>-]+)*",
    re.IGNORECASE,
)
_CLOSED = re.compile(_CLOSE)
_AT_START = re.compile(_LETTER)
_NEGATED = re.compile(rf"(?:not|isn't|neither|all but|except)\s+(?:{_NOUN}\s+)?{_LETTER}", re.IGNORECASE)
_INSTEAD = re.compile(
    r"(?:\bbut|\brather|\binstead|\bit'?s|\bit is|\bis|\bno,)(?:\s+(?:rather|instead|it'?s|it is))*\s+", re.I
)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|except|excluding|doubt|unlikely|whether|if|(?:all|anything|everything)"
    r" but|rul(?:e|es|ed|ing) out|(?:eliminat|exclud|reject|discard)(?:e|es|ed|ing|s)?)|n['o]t)"
    r"(?:\s+(?:be|to|is|it'?s|it|that|the|correct|right|best|choose|pick|select|say|think|believe|go|with|for|consider"
    rf"|{_NOUN}))*[\s:]*{_OPEN}$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"\s*\?\s*(?:no(?!\s+doubt)|wrong|not)\b"
    r"|\s+(?:(?:is|are|was|were|can|could|must|would|should|does|did|do|has|seems|looks|appears)"
    r"(?:\s+(?:be|to be|been|also|clearly|definitely|probably|obviously|therefore|thus))*"
    r"\s+(?:not|wrong|incorrect|false|out|excluded|eliminated|impossible|unlikely|ruled out|invalid"
    r"|(?:only\s+)?part(?:ly|ially))\b|cannot\b|(?:is|are|was|were|ca|could|wo|would|does|did|do)n't\b)",
    re.IGNORECASE,
)
_MAX_DENIAL = 60
"""Characters before a letter in which words may deny it."""
_ALSO = re.compile(
    rf"\s*(?:[,、/&+]|and/or|and|or|und|oder|et|ou|y|o|和|或)(?:\s*(?:and|or))?\s*(?:{_NOUN}\s+)?"
    rf"{_LETTER}(?!\s+(?:is|was)\b)"
)
_BESIDE = re.compile(
    rf"(?<!{_W})([A-Za-z]){_CLOSE}\s*(?:[/&+、]|(?:,\s*)?(?:and|or)\b)\s*(?:{_NOUN}\s+)?{_OPEN}$",
    re.IGNORECASE,
)
_REASONS = frozenset({
    "because", "since", "as", "is", "was", "and", "or", "but", "not", "for", "due", "which", "that", "with",
    "here", "by", "rather", "means",
})  # fmt: skip
"""Words that follow a letter and no article."""
_NEXT_WORD = re.compile(r"\s+([\w']+)")

_NAMES = (
    rf"{_NOUN}|ans\.?|antwort|lösung|respuesta|réponse|reponse|resposta|risposta|ответ|jawaban|đáp án"
    r"|答案|选项|选择|選擇|正解|答え|정답|답|答"
)
_SAYS = re.compile(
    rf"(?:(?<![A-Za-z])(?:{_NAMES})(?:s?\s+(?:to|for|of)\s[^.:\n]{{1,80}}?)?(?:\s+(?:here|choice|option))?"
    r"(?:\s*\([^()\n]{2,30}\))?"
    rf"\s*{_IS}[\s:]*|应?[选選][择擇]?\s*|(?<![A-Za-z])answer\s+(?=[(\[]?[A-Z]\b))",
    re.IGNORECASE,
)
_CHOOSES = re.compile(
    r"(?:\b(?:choose|chose|choosing|pick(?:ed|ing)?|select(?:ed)?|go(?:ing)? (?:with|for)|went with"
    r"|vote for|opt for|say|guess|conclude|it'?s|it is|it must be|must be|leaves(?: us)?(?: only)?(?: with)?"
    r"|so|thus|therefore"
    r"|hence)"
    rf"|(?:⇒|∴))[\s,:]+(?:that\s+)?(?:it'?s\s+|it is\s+)?(?:the\s+)?(?:{_NOUN}\s*(?:is\s+)?)?"
    rf"(?={_OPEN}[A-Za-z](?![\w']))",
    re.IGNORECASE,
)
_RIGHT = (
    r"(?:\s+(?:clearly|indeed|therefore|thus|also|definitely|certainly|probably|actually|really|obviously|my|our"
    r"|the|only|most|single|one|that is))*\s+"
    r"(?:correct|right|best|better|true|answer|appropriate|accurate|likely|it\b|choice|option|the one\b)"
    r"|(?<=\bis)\s*(?=[.;!\n]|$)"
)
_IS_RIGHT = re.compile(
    rf"{_LETTER}(?P<option>(?:(?<=[)\]}}>\"'])|[.:])\s(?:(?!\b[A-Z]\b)[^.\n]){{1,60}}?)??[\s,]*"
    r"(?:\b(?:is|(?:must|should|would|has to|seems to|appears to) be|seems|looks|appears|remains)\b"
    rf"(?:{_RIGHT})|(?<!\w)(?:ist|es|est|è|é)\s+(?:\w{{2,3}}\s+)?"
    r"(?:richtig|korrekt|corre[ct]t|juste|bonne|vraie?\b)"
    r"|是?(?:正[确確解]|[对對]的)|が正|[이가] (?:정답|맞))",
)
_WRONG = re.compile(r"\b(?:not|wrong|incorrect|false)\b|n't\b", re.IGNORECASE)
_NAMED = re.compile(
    rf"\b(?:option|choice|alternative|letter)\s+{_LETTER}(?!\s+(?:is|was|and|or|can)\b)", re.I
)
_ALONE = re.compile(r"(?:^|\s)(?:\(([A-Z])\)|\[([A-Z])\]|\"?([A-Z])\"?[.):]?(?=[^\S\n]*$))", re.MULTILINE)
_OPTION = re.compile(
    rf"(?P<label>{_OPEN}(?P<letter>[A-Za-z])[)\]}}>\"'.:]+(?=\s|$))(?:(?![.!?;]\s|\b[A-Z][)\]:])[^\n])*"
)
"""A letter that brackets, a point or a colon mark, and at most one sentence without another such letter."""
_LISTED = re.compile(rf"^[^\S\n]*(?:[-*>]\s*)?{_OPEN}([A-Z])[).:\]]", re.MULTILINE)


class _Several(Exception):
    """A phrase names more than one letter as its answer."""


def chosen_letter(text: str) -> str | None:
    """The letter that a response chooses, upper case; None where it chooses none, or several.

    It is that of the marked answer (`final_answer.marked_phrase`), else of a response that is one option such
    as `B) Paris`, else of the last statement such as `the answer is B`, `I choose B`, `B is correct`, else of
    the last bold words, else the letter that a response of one line begins with, else the last that stands
    alone.
    """
    rest = after_thinking(text)
    if rest is None:
        return None
    words = plain("".join(map(_uncircled, rest)))
    try:
        marked = _of_phrase((marked_phrase(words, answer_is=False) or "")[:MAX_PHRASE])
        return marked or _option(words) or _said(words) or _shown(rest, words)
    except _Several:
        return None


def truth_letter(truth: str) -> str | None:
    """The letter of a ground truth, which is read like a response."""
    return chosen_letter(truth)


def _option(words: str) -> str | None:
    """The letter of a text that is one option and no more, as `B) Paris`."""
    match = _OPTION.fullmatch(strip(words))
    return (
        match["letter"].upper() if match and not _DENIED_AFTER.match(match[0], match.end("label")) else None
    )


def _said(words: str) -> str | None:
    """The letter of the last statement that names one."""
    for match in reversed(list(_SAYS.finditer(words))[-MAX_STATEMENTS:]):
        letter = None if _denies(words, match.start()) else _of_phrase(_line(words, match.end()))
        if letter:
            return letter
    said: list[tuple[int, str]] = []
    for match in list(_CHOOSES.finditer(words))[-MAX_STATEMENTS:]:
        letter = _of_phrase(_line(words, match.end()), cased=True)
        if letter and not _denies(words, match.start()):
            said.append((match.end(), letter))
    said += _called_right(words)
    if said:
        return max(said)[1]
    named = [m["letter"].upper() for m in _NAMED.finditer(words) if not _is_denied(words, m.span("letter"))]
    return named[-1] if named else None


def _called_right(words: str) -> list[tuple[int, str]]:
    """Letters that a text calls right, as in `B is correct`, with their places. Raises _Several."""
    found = []
    for match in list(_IS_RIGHT.finditer(words))[-MAX_STATEMENTS:]:
        letter = match["letter"].upper()
        wrong = _WRONG.search(match["option"] or "") or _denies(words, match.start())
        if wrong or not _is_letter(match, words, cased=False):
            continue
        if _beside(words, match.start()) not in (None, letter):
            raise _Several
        found.append((match.start("letter"), letter))
    return found


def _shown(rest: str, words: str) -> str | None:
    """The letter of the last bold words, of the only line that begins with one, or the last one alone."""
    for phrase in bold_phrases(rest):
        match = _AT_START.match(phrase.strip())
        if match and _is_letter(match, phrase.strip(), cased=True):
            return _of_phrase(phrase[:MAX_PHRASE])
    lines = [line for line in words.splitlines() if line.strip()]
    if len(lines) == 1:
        letter = _of_phrase(lines[0][:MAX_PHRASE])
        if letter:
            return letter
    listed = list(_LISTED.finditer(words))
    if len(listed) == 1 and _LISTED.match(words.lstrip()) and not _is_denied(words, listed[0].span(1)):
        return str(listed[0][1])
    for match in reversed(list(_ALONE.finditer(words))[-MAX_STATEMENTS:]):
        span = match.span(match.lastindex or 0)
        if not _is_denied(words, span):
            letter = words[slice(*span)]
            return letter if _beside(words, span[0]) in (None, letter) else None
    return None


def _of_phrase(phrase: str, *, cased: bool = False) -> str | None:
    """The letter that a phrase begins with, after words such as `option`. Raises _Several."""
    at = _start(phrase)
    denied = _NEGATED.match(phrase, at)
    if denied:
        instead = _INSTEAD.search(phrase, denied.end())
        return _of_phrase(phrase[instead.end() :], cased=cased) if instead else None
    match = _AT_START.match(phrase, at)
    if match is None or not _is_letter(match, phrase, cased=cased):
        return None
    ruled_out = _DENIED_AFTER.match(phrase, match.end())
    if ruled_out:
        instead = _INSTEAD.search(phrase, match.end("close"))
        return _of_phrase(phrase[instead.end() :], cased=cased) if instead else None
    also = _ALSO.match(phrase, match.end())
    if also and also["letter"].upper() != match["letter"].upper() and _is_letter(also, phrase, cased=True):
        raise _Several
    return match["letter"].upper()


def _line(words: str, start: int) -> str:
    """The rest of a line, or the next one where nothing is left of it."""
    return words[start : start + MAX_PHRASE].lstrip().split("\n", 1)[0]


def _start(phrase: str) -> int:
    match = _FILLER.match(phrase)
    return match.end() if match else 0


def _is_letter(match: re.Match[str], text: str, *, cased: bool) -> bool:
    """Whether a lone letter is no article and no pronoun; `cased`: small ones count in brackets only."""
    letter, bracketed = match["letter"], bool(match["open"] or match["close"])
    if bracketed:
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


def _is_denied(text: str, span: tuple[int, int]) -> bool:
    """Whether the words around the letter at `span` deny it: `not B`, `all but B`, `B is wrong`."""
    closed = _CLOSED.match(text, span[1])
    return _denies(text, span[0]) or bool(_DENIED_AFTER.match(text, closed.end() if closed else span[1]))


def _denies(text: str, end: int) -> bool:
    """Whether the words before `end` deny what follows: `not`, `I don't think that`."""
    return bool(_DENIED_BEFORE.search(text[max(0, end - _MAX_DENIAL) : end]))


def _beside(text: str, end: int) -> str | None:
    """The letter that `and`, `or` or a slash joins to the one at `end`."""
    match = _BESIDE.search(text[max(0, end - _MAX_DENIAL) : end])
    return match[1].upper() if match else None


def _uncircled(char: str) -> str:
    """A letter of a circle or of full width as an ASCII letter."""
    name = unicodedata.name(char, "") if not char.isascii() else ""
    if "LATIN" in name and any(word in name for word in ("CIRCLED", "PARENTHESIZED", "FULLWIDTH", "SQUARED")):
        plain_char = unicodedata.normalize("NFKC", char)
        return plain_char.strip("()") if len(plain_char) == 3 else plain_char
    return char
