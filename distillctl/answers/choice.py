r"""The letter that a text chooses, as a person reads it: `(B)`, `**B) Paris**`, `option b is correct`.

`A and B` chooses no letter, and `not A but C` chooses C. A letter that the words around it deny, as in
`B is wrong` or `all but B`, is not chosen. A statement that the text only supposes (`if x > 0, the answer is
B`) counts only if there is no other. Text after a correction (`wait, it should be A`) counts first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from distillctl.answers.denials import (
    CROSSES,
    denied_after,
    denied_before,
    denies,
    supposed_after,
    supposed_before,
)
from distillctl.answers.discourse import NAMES
from distillctl.answers.final_answer import (
    MAX_PHRASE,
    MAX_STATEMENTS,
    after_thinking,
    boxed_fields,
    marked_phrase,
    strip,
)
from distillctl.answers.layout import first_option, is_of_list, shown
from distillctl.answers.letters import LETTER, NO_SPECIES, NOUN, OPEN, OPTION, uncircled
from distillctl.answers.phrases import AFTER_LETTER, IS, Several, find_letter, of_phrase
from distillctl.answers.plain import plain
from distillctl.answers.verdicts import Statement, called_right

_NAMES = (
    rf"{NOUN}|{NAMES}|sol\.?|corre(?:ct|tt?)[ao]|richtig|gabarito|correct"
    r"|(?:correct|right|best|true) (?:one|statement|pick)|选项|选择的?|選擇|(?:正确|最合适|最佳)的|正しいの"
)
_ADJECTIVE = r"(?:corre(?:ct|tt?)[aoe]?|exact[ae]|esatt[ao]|giust[ao]|yang \w+|đúng|poprawna|है)"
_SAYS = re.compile(
    rf"(?:(?<![A-Za-z])(?:{_NAMES})(?:s?\s+(?:to|for|of)\s[^.:\n]{{1,80}}?)?(?:\s+(?:here|choice|option))?"
    rf"(?:\s*\([^()\n]{{2,30}}\))?(?:\s+{_ADJECTIVE})?[\"'】\]]?[^\S\n]*{IS}[\s:]*"
    r"|[【\[]\s*[正确最终参考标准]{0,4}(?:答案|answer)\s*[】\]][\s:]*|答案(?=并?不是|并非)|应?[选選][择擇]?\s*"
    rf"|(?<![A-Za-z])(?:answer|cevap|उत्तर)\s+(?={OPEN}[A-Z]\b))",
    re.IGNORECASE,
)
"""Words such as `The answer is` before a letter."""
_LEAD = rf"[\s,:]+(?:that\s+)?(?:it'?s\s+|it is\s+)?(?:the\s+)?(?:{NOUN}\s*(?:is\s+)?)?"
_CHOOSES = re.compile(
    r"(?:\b(?:choose|chose|choosing|pick(?:ed|ing)?|select(?:ed)?|go(?:ing)? (?:with|for)|went with"
    r"|vote for|opt for|say|guess|conclude|I meant?|it'?s|it is|(?:it )?(?:must|should|has to) be"
    r"|(?:leaves|leaving)(?: us)?(?: only)?(?: with)?"
    r"|only(?=\s+(?:\w+\s+)?[A-Z]\s+(?:does|works|fits|satisfies|holds))"
    rf"|ist(?=\s+(?:{NOUN}\s+)?[A-Z]\s+(?:richtig|korrekt))"
    rf"|(?:so|thus|therefore|hence)(?={_LEAD}{OPEN}[A-Za-z]"
    r"(?:[)\]\"'.,;:!—-]|[^\S\n]*$|\s+(?:because|since|it|as|-)\b)))"
    rf"|⇒|∴){_LEAD}(?={OPEN}[A-Za-z](?![\w']))",
    re.IGNORECASE | re.MULTILINE,
)
"""Words such as `I choose` before a letter."""
_NAMED = re.compile(
    rf"(?P<label>^[^\S\n]*(?:[-*>•]\s*)?)?\b{OPTION}\s+{LETTER}"
    rf"(?!\s+(?:is|was|and|or|can)\b|\s*,\s*{OPEN}[A-Za-z](?!\w))",
    re.IGNORECASE | re.MULTILINE,
)
_OPTION = re.compile(
    rf"{OPEN}(?P<letter>[A-Za-z]){NO_SPECIES}[)\]}}>\"'.:]+(?=\s|$)(?:(?![.!?;]\s|\b[A-Z][)\]:])[^\n])*"
)
"""A letter marked by brackets, a point or a colon, then at most one sentence without another such letter."""
_ANSWER = re.compile(r"(?:Q:[^\n]{1,500}\s)?A:\s+")
"""The beginning of an answer to a question, unless it is the option `A`."""
_NEXT = re.compile(r"(?<!\w)[A-Z][)\]:](?=\s)")
"""The label of an option."""
_CORRECTED = re.compile(
    r"(?:(?<![^\s(,.;:!?…—-])(?:(?:no,?\s+)?wait|actually|in fact|correction|edit|update|or rather"
    r"|sorry|oops|(?:scratch|strike) that|on (?:second thought|reflection)|hold on|hmm+|I mean|my mistake"
    r"|(?:my )?apologies|I (?:made a|was) mistake\w*|(?:let me |after )reconsider\w*|I take that back"
    r"|(?:but )?that(?:'s| is| was) (?:wrong|incorrect|not right|a mistake)|let me correct (?:that|myself)"
    r"|(?P<weak>however|re-?(?:reading|checking|evaluating)))\b"
    r"|(?<=[.…?!,—-])\sno(?=[,—-]|\s[—-])|更正|不对)[\s,:;.!…—-]*(?:no\b[\s,—-]*)?",
    re.IGNORECASE,
)
"""Words such as `Wait, actually`, after which the text states another letter. After `weak` ones such as
`however` it may or may not."""
_MAX_CORRECTIONS = 5
"""Number of corrections, from the last, after which the text is read."""


def chosen_letter(text: str) -> str | None:
    """The letter that a response or ground truth chooses, in upper case; None if it chooses none or several.

    These places are tried in order:
    1. what follows the last corrections;
    2. the marked answer (`final_answer.marked_phrase`);
    3. the whole text, if it is one option such as `B) Paris`;
    4. the last statement such as `the answer is B`, `I choose B` or `B is correct`;
    5. the first line, if it is an option;
    6. a statement such as `B is true` or `if x, the answer is B`;
    7. the last letter after a word such as `option`;
    8. the letter that `layout.shown` finds.
    """
    rest = after_thinking(text)
    if rest is None:
        return None
    rest = boxed_fields(uncircled(rest))
    words = plain(rest)
    try:
        corrected = next(filter(None, _corrections(words)), None)
        return (
            corrected
            or _marked(words)
            or _option(words)
            or _said(words, firm_only=True, least=1)
            or _first(words)
            or _said(words)
            or _named(words)
            or shown(rest, words)
        )
    except Several:
        return None


def _option(words: str) -> str | None:
    """The letter of a text that is a single option such as `B) Paris`.

    If the option's text is itself a statement, as in `A: The answer is B`, that statement counts.
    """
    text = strip(words)
    answer = _ANSWER.match(text)
    if answer and not _NEXT.search(text, answer.end() + 1):
        rest = strip(text[answer.end() :])
        begun = _begun(_line(rest, 0)) or _option(rest)
        if begun:
            return begun
    match = _OPTION.fullmatch(text)
    if match is None or match[0][-1] in CROSSES or denied_after(match[0], match.end("letter")):
        return None
    try:
        return _said(words, firm_only=True) or match["letter"].upper()
    except Several:  # as the text of `D) Both A and B are correct` does
        return match["letter"].upper()


def _first(words: str) -> str | None:
    """The letter of the first line, if that line is an option, or a letter and a reason."""
    line = _line(words, 0).rstrip()
    is_prose = _ANSWER.match(line) and _OPTION.fullmatch(line) is None
    if is_prose or line.startswith(("Q:", "I")):
        return None
    return first_option(words) or (None if _OPTION.match(line) else _begun(line))


def _corrections(words: str) -> Iterator[str | None]:
    """The letter that the words after each correction state, beginning with the last correction."""
    for match in reversed(list(_CORRECTED.finditer(words))[-_MAX_CORRECTIONS:]):
        rest = words[match.end() :]
        begun = None if match["weak"] else _begun(_line(rest, 0))
        yield begun or _marked(rest) or _said(rest, firm_only=True, least=1 if match["weak"] else 0)


def _begun(line: str) -> str | None:
    """The letter of a line that says only a letter, perhaps with a reason after it."""
    try:
        found = find_letter(line, 0, cased=True)
    except Several:
        return None
    is_all = found and AFTER_LETTER.match(line, found.end()) and not is_of_list(line, found)
    return found["letter"].upper() if found and is_all else None


def _marked(words: str) -> str | None:
    return of_phrase((marked_phrase(words, answer_is=False) or "")[:MAX_PHRASE])


def _said(words: str, *, firm_only: bool = False, least: int = 0) -> str | None:
    """The letter of the last statement that names one and has at least the strength `least`.

    A statement that the text only supposes counts if no other does, and never with `firm_only`. Raises
    Several.
    """
    supposed: set[str] = set()
    place_of_several = -1
    for found in (_answers, _choices_and_verdicts):
        statements = [statement for statement in sorted(found(words)) if statement.place > place_of_several]
        statements = [statement for statement in statements if statement.strength >= least]
        firm = [statement for statement in statements if not statement.supposed]
        if firm:
            last = _last(firm)
            if last.letter:
                return last.letter
            place_of_several = last.place
        supposed |= {statement.letter for statement in statements if statement.supposed}
    if place_of_several >= 0:
        raise Several
    if firm_only or not supposed:
        return None
    if len(supposed) > 1 or "" in supposed:
        raise Several
    return supposed.pop()


def _last(firm: list[Statement]) -> Statement:
    """The last of the strongest statements.

    If these only call several options correct, the result is a statement without a letter.
    """
    firm = [statement for statement in firm if statement.strength > 0] or firm
    chosen = [i for i, statement in enumerate(firm) if statement.strength > 1]
    if len({statement.letter for statement in firm[chosen[-1] + 1 if chosen else 0 :]}) == 1:
        return firm[-1]
    return firm[chosen[-1]] if chosen else firm[-1]._replace(letter="")


def _answers(words: str) -> Iterator[Statement]:
    """Statements such as `the answer is B`."""
    for match in list(_SAYS.finditer(words))[-MAX_STATEMENTS:]:
        if not denied_before(words, match.start()):
            yield from _statement(words, match, cased=False)


def _choices_and_verdicts(words: str) -> Iterator[Statement]:
    """Statements such as `I choose B` and `B is correct`."""
    for match in list(_CHOOSES.finditer(words))[-MAX_STATEMENTS:]:
        if not denied_before(words, match.start()):
            yield from _statement(words, match, cased=True)
    yield from called_right(words)


def _statement(words: str, match: re.Match[str], *, cased: bool) -> Iterator[Statement]:
    """The statement that begins with `match`, if a letter follows."""
    phrase = _line(words, match.end())
    said = match.start() + len(match[0].rstrip())
    supposed = "would be" in match[0].lower() or supposed_before(words, said)
    try:
        found = find_letter(phrase, 0, cased=cased)
    except Several:
        yield Statement(match.end(), "", supposed)
        return
    if found:
        supposed = supposed or supposed_after(phrase, found.end())
        yield Statement(match.end(), found["letter"].upper(), supposed)


def _named(words: str) -> str | None:
    """The last letter after a word such as `option`, without the labels of a list."""
    named = [match for match in _NAMED.finditer(words) if not denies(words, match)]
    if len({match["letter"].upper() for match in named if match["label"] is not None}) > 1:
        named = [match for match in named if match["label"] is None]
    return named[-1]["letter"].upper() if named else None


def _line(words: str, start: int) -> str:
    """The rest of the line at `start`, or the next line if nothing is left of it."""
    return words[start : start + MAX_PHRASE].lstrip().split("\n", 1)[0]
