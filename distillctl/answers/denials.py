"""What the words around a letter say about it: that it is right, wrong, or only supposed."""

from __future__ import annotations

import re

from distillctl.answers.letters import CLOSE, NOUN, OPEN

WRONG_WORD = (
    r"(?:not (?:correct|right|true)|incorrect\w*|untrue|wrong|false|falsch|fals[aoe]|fausse?|faux"
    r"|errad[ao]|sbagliat[ao]|неверн\w+)"
)
RIGHT_WORD = (
    r"(?:correct|right|true|richtig|korrekt|corre(?:ct|tt?)[aoe]?|verdadeir[ao]|verdader[ao]|exact[ae]|giust[ao]|juste"
    r"|bonne|vraie?|верн\w+|правильн\w+)"
)
_ADVERBS = (
    r"(?:\s+(?:clearly|indeed|therefore|thus|also|definitely|certainly|probably|actually|really|obviously|simply"
    r"|completely|undoubtedly|surely|no doubt|(?:without|beyond) (?:(?:a|any) )?doubt"
    r"|my|our|the|only|most|single|one|more|that is|be|to be|been|all|both|la|die|das|el|le))*"
)
IS_RIGHT = (
    r"(?:\?\s*yes\b|\b(?:is|are|was|were|seems|looks|appears|remains"
    r"|(?:must|should|would|(?:has|seems|appears) to) be)\b"
    rf"{_ADVERBS}\s+(?:correct|right|best|better|true|answer|appropriate|accurate|likely|it\b|choice|option"
    r"|(?:the|only) one\b"
    r"|(?:complete|suitable|reasonable|plausible|possible|valid|viable|logical)\s+(?:answer|choice|option)\b)"
    r"|\b(?:is|remains)\s*(?=[.;!\n]|$)"
    rf"|(?<!\w)(?:ist|es|est|está|é|è|sind|jest)\s+(?:\w{{2,3}}\s+)?{RIGHT_WORD}\b"
    r"|(?:(?:选项|[项項]|的?说法)[\s:]{0,2})?是?\s{0,2}(?:正[确確解]|[对對](?:的|(?=[\s,.;、]|$))"
    r"|最佳|最合适|符合)|が正|[이가] (?:정답|맞))"
)
"""A verb and a word that calls its subject the answer."""
IS_WRONG = (
    r"(?:\?\s*(?:no(?!\s+doubt)|wrong|not)\b"
    r"|\b(?:is|are|was|were|can|could|must|would|should|does|did|do|has|have|seems|looks|appears)\b"
    rf"{_ADVERBS}\s+(?:not|{WRONG_WORD}|out|excluded|eliminated|impossible|unlikely|ruled out|invalid"
    r"|no\b(?!\s+doubt)|(?:only\s+)?(?:part(?:ly|ially)|mostly))\b"
    r"|\bcannot\b|\b(?:is|are|was|were|ca|could|wo|would|does|did|do)n't\b"
    rf"|(?<!\w)(?:ist|es|est|está|é|è|sind|son|sont)\s+(?:{WRONG_WORD}|nicht|pas)\b"
    r"|(?<!\w)(?:no es|não é|non è|n'est pas)(?!\w)|(?<!\w)не(?:верн|правильн)"
    r"|(?:(?:选项|[项項]|的?说法)[\s:]{0,2})?[是均都]?\s{0,2}(?:错|錯|不[正对對符]))"
)
"""A verb and a word that denies its subject."""
CROSSES = "✗✘❌✖"
_AFTER = re.compile(
    rf"{CLOSE}\s*(?:{IS_WRONG}|[:(—-]?\s*[{CROSSES}]"
    r"|[:(—-]\s*(?:not correct|incorrect|wrong)(?=\s*(?:[.,;!)\n]|$)))",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|none|unlike|cannot|except|excluding|doubt|unlikely|no longer"
    r"|no way|disagree|(?:false|incorrect|wrong)(?= (?:that|to))|whether|if|so (?:is|are)"
    r"|nicht|não|non|pas|bukan"
    r"|(?:all|anything|everything) but|rather than|instead of|as opposed to|than"
    r"|rul(?:e|es|ed|ing) out|(?:eliminat|exclud|reject|discard)(?:e|es|ed|ing|s)?)"
    r"|\bno(?=\s+(?:es|la|el)\b)|n['o]t|不[是选選]?|并非|(?<!\w)не"
    rf"|[{CROSSES}])"
    r"(?:\s+(?:be|to|is|it'?s|it|that|the|correct|right|best|choose|pick|select|say|think|believe|go|with|for|consider"
    rf"|of|es|é|è|la|el|die|{NOUN}))*[\s:]*{OPEN}$",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"(?:^|[.!?\n]\s*)(?:is|was|are|could|would|should|can)\s+(?:the|it|that)\b[^.!?\n]*$", re.IGNORECASE
)
_MAX_DENIAL = 60
"""Number of characters before a letter in which words may deny it."""
_TURN = re.compile(
    r"[.!?;]\s|\n|\b(?:but|however|yet|so|therefore|thus|hence|while|whereas|the (?:real|actual|truth))\b"
    r"|但|所以|因此",
    re.IGNORECASE,
)
"""Where a supposition ends."""
_SUPPOSES = re.compile(
    r"\b(?:if|unless|otherwise|were|common|fooled|easy to|(?:in)?to think(?:ing)?|suppose"
    r"|supposing|assuming|had|would have|mistak\w+|misconception|tempt\w+"
    r"|initially|originally"
    r"|at first|first thought|falsely|wrongly|wenn|falls"
    r"|(?:might|may|could|would|can|often|people|students|many|some|others?) (?:\w+ )?"
    r"(?:think|thought|say|said|believe|argue|assume|guess|pick|choose|answer|conclude))\b"
    r"|假设|如果|若|有人|\bsi\s",
    re.IGNORECASE,
)
_NO_DOUBT = re.compile(
    r"\b(?:no|not|never|without|beyond|little|(?:do|does|did|ca)n['o]t)\s+(?:\w+\s+){0,2}?doubt\b",
    re.IGNORECASE,
)
_ONLY_IF = re.compile(
    r"(?:\s+(?:answer|choice|option|one))?\s*(?:only (?:if|when|for|in|under)|if|unless|provided"
    r"|when(?:ever)?|(?:in|for|under) (?:some|certain|many|most|other|special|particular|specific)"
    r"|只有|仅当)\b",
    re.IGNORECASE,
)
_MAX_SENTENCE = 200
"""Number of characters before a statement that are searched for a condition."""


def denies(text: str, match: re.Match[str]) -> bool:
    """Whether the words around a letter deny it: `not B`, `all but B`, `B is wrong`."""
    return denied_before(text, match.start("letter")) or denied_after(text, match.end("letter"))


def denied_before(text: str, start: int) -> bool:
    """Whether the words before `start` deny what follows (`I don't think that`) or ask for it (`is the`)."""
    before = _NO_DOUBT.sub("", text[max(0, start - _MAX_DENIAL) : start])
    return bool(_BEFORE.search(before) or _ASKS.search(before))


def denied_after(text: str, end: int) -> bool:
    """Whether the words after a letter deny it: `is wrong`, `cannot be`, `? No`."""
    return bool(_AFTER.match(text, end))


def supposed_before(text: str, start: int) -> bool:
    """Whether the words before `start` only suppose what follows, as in `if x > 0` or `one might think`."""
    sentence = _TURN.split(text[max(0, start - _MAX_SENTENCE) : start])[-1]
    return bool(_SUPPOSES.search(sentence))


def supposed_after(text: str, end: int) -> bool:
    """Whether a condition such as `only when x > 0` follows at `end`."""
    return bool(_ONLY_IF.match(text, end))
