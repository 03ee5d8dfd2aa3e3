"""The letter that a text shows without stating it: in its first line, in bold words, or alone on a line.

A list of all options shows no letter, unless one option is out of order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from distillctl.answers.denials import CROSSES, denied_after, denied_before, denies
from distillctl.answers.final_answer import MAX_PHRASE, MAX_STATEMENTS, bold_phrases
from distillctl.answers.letters import AT_LETTER, CLOSE, NO_SPECIES, OPEN, OPTION, is_letter, is_name, joined
from distillctl.answers.phrases import AFTER_LETTER, find_letter, of_phrase
from distillctl.answers.plain import plain

_ALONE = re.compile(r"(?:^|\s)(?:\(([A-Z])\)|\[([A-Z])\]|\"?([A-Z])\"?[.):]?(?=[^\S\n]*$))", re.MULTILINE)
_FORMULA = re.compile(r"(?:[=+*/<>\d]|\b(?:at|from|than|find|into))\s*$")
"""Text before a letter that is a variable, a unit or a point: `20 = A`, `9 L`, `at C`."""
_COMMA = re.compile(rf"(?<!\w)[A-Z]{CLOSE}[,;]\s*{OPEN}$")
_LINE_END = re.compile(r"[.,!]*[^\S\n]*$", re.MULTILINE)
_LISTED = re.compile(
    rf"^[^\S\n]*(?P<bullet>[-*>•]\s*)?(?:#+\s*)?(?:{OPTION}\s+)?{OPEN}(?P<letter>[A-HJ]){NO_SPECIES}"
    rf"(?:[).:\]]|\s-\s|{CLOSE}[^\S\n]*$)",
    re.MULTILINE | re.IGNORECASE,
)
"""An option at the start of a line."""
_INLINE = re.compile(rf"[\s,;]{OPEN}([B-J])(?:[).:\]]|\s=)")
_HEADING = re.compile(
    r"(?:why|explanation|reason\w*|others?|because|解析)[^\n]*[:?]|\n[^\n]*[:?]\s*$", re.IGNORECASE
)
"""Words between an answer and remarks on the other options."""
_VERB = re.compile(
    r"\s+(?:is|was|has|had|does|did|will|would|can|could|states?|says?|claims?|refers|means)\b|\s+[+*<>]\s|/a\b",
    re.IGNORECASE,
)
_MAX_OPTION = 80
"""Most characters of an option's text."""


def shown(rest: str, words: str) -> str | None:
    """The letter that a list of options sets apart, else the letter of the last bold words, else the last
    letter alone on its line."""
    listed = first_option(words) or _beside_list(words)
    if listed:
        return listed
    bold = list(_bold_options(rest))
    in_prose = [match for match, is_item in bold if not is_item]
    if in_prose:
        return of_phrase(in_prose[-1].string[in_prose[-1].start() :][:MAX_PHRASE])
    if bold:
        return _out_of_order([match["letter"] for match, _ in bold])
    lines = [line for line in words.splitlines() if line.strip()]
    if len(lines) == 1:
        found = find_letter(lines[0][:MAX_PHRASE], 0, cased=False)
        if found and _is_answer(found) and not is_of_list(found.string, found):
            return found["letter"].upper()
    return _alone(words)


def _is_answer(found: re.Match[str]) -> bool:
    """Whether a line begins or ends with its letter: `B Paris`, `definitely B`, but not `the C language`."""
    if not re.search(r"\w", found.string[: found.start()]):
        is_prose = found.string[found.end() : found.end() + 1] == " " and len(found.string) > _MAX_OPTION
        return not is_prose and not _VERB.match(found.string, found.end())
    return bool(found["close"] or AFTER_LETTER.match(found.string, found.end()))


def _alone(words: str) -> str | None:
    """The last letter that ends a line, else the only letter in brackets in the text or before a list."""
    lone = list(_ALONE.finditer(words))[-MAX_STATEMENTS:]
    ends = [match for match in lone if _LINE_END.match(words, match.end())]
    if not ends and len(set(map(_letter, lone))) > 1:
        in_list = next((i for i, match in enumerate(lone) if match[0][0] in "\n("), len(lone))
        lone = lone[:in_list] if len(set(map(_letter, lone[:in_list]))) == 1 else []
    for match in reversed(ends or lone):
        start = match.start(match.lastindex or 0)
        letter = _letter(match)
        if denied_before(words, start) or denied_after(words, match.end()):
            continue
        if is_name(words, start) or _FORMULA.search(words[max(0, start - 8) : start]):
            continue
        return None if joined(words, start)[1] - {letter} or _follows_comma(words, start) else letter
    return None


def _follows_comma(words: str, start: int) -> bool:
    """Whether the letter at `start` follows a comma and another letter that is not denied: `A, C`."""
    before = _COMMA.search(words, max(0, start - 20), start)
    return before is not None and not denied_before(words, before.start())


def _letter(match: re.Match[str]) -> str:
    return str(match[match.lastindex or 0])


def _beside_list(words: str) -> str | None:
    """The letter of a short last line that repeats an option of a list: `C) Mars`."""
    listed = list(_LISTED.finditer(words))
    if not listed:
        return None
    last = listed[-1]
    letters = [match["letter"].upper() for match in listed]
    rest = words[last.end() :].strip()
    is_last = "\n" not in rest and len(rest) <= _MAX_OPTION and not denies(words, last)
    chosen = _out_of_order(letters) if len(listed) > 1 else None
    return chosen if is_last and chosen == letters[-1] else None


def first_option(words: str) -> str | None:
    """The letter of a first line that is an option, such as `C) Mars`, but not part of a list."""
    listed = list(_LISTED.finditer(words))
    if not listed:
        return None
    first = listed[0]
    if words[: first.start()].strip() or denies(words, first) or is_of_list(words, first):
        return None
    letters = [match["letter"].upper() for match in listed]
    is_apart = not first["bullet"] and all(match["bullet"] for match in listed[1:])
    if len(listed) == 1 or is_apart or _HEADING.search(words, first.end(), listed[1].start()):
        return letters[0]
    return letters[0] if _out_of_order(letters) == letters[0] else None


def is_of_list(words: str, option: re.Match[str]) -> bool:
    """Whether the line of an option ends in a cross or holds the next option too: `A) 1 B) 2 C) 3`."""
    end = words.find("\n", option.end())
    end = end if end >= 0 else len(words)
    if words[option.end() : end].rstrip()[-1:] in tuple(CROSSES):
        return True
    following = _INLINE.search(words, option.end(), end)
    if following is None or ord(following[1]) != ord(option["letter"].upper()) + 1:
        return False
    between = words[option.end() : following.start()]
    return between.count("(") <= between.count(")")


def _out_of_order(letters: list[str]) -> str | None:
    """The first or last letter, if it alone is out of order: C in `C A B D`, B in `A B C B`."""
    if len(letters) == 1:
        return letters[0]
    starts = letters[1:]
    ends = letters[:-1]
    if letters[0] > letters[1] and starts == sorted(set(starts)):
        return letters[0]
    return letters[-1] if letters[-1] <= letters[-2] and ends == sorted(set(ends)) else None


def _bold_options(rest: str) -> Iterator[tuple[re.Match[str], bool]]:
    """Letters at the beginning of bold words that are not denied, and whether their line begins with them."""
    for line in rest.splitlines():
        text = plain(line) if "**" in line or "<" in line else ""
        end = 0
        for phrase in reversed(list(bold_phrases(line))):
            start = text.find(phrase.strip(), end)
            match = AT_LETTER.match(text, start) if start >= 0 else None
            if match and is_letter(match, text, cased=True) and not denies(text, match):
                yield match, not text[:start].strip(" \t*•>-")
            end = max(start, end)
