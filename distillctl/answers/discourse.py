"""The parts of a response by what they do with its answer: state, correct, check or explain it.

In: text. Out: parts of it. The patterns cover the languages that chat models respond in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_CORRECTIONS = 20
"""Most corrections that are tried, from the last."""
NAMES = (
    r"(?<!sub-)(?<!partial )(?<!intermediate )(?<![^\W_])(?:answer|ans(?=[.:\s])\.?|antwort|respuesta"
    r"|réponse|reponse|resposta|risposta|ответ|відповідь|odpowied[zź]|antwoord|svar(?:et)?|cevap|jawaban(?:nya)?"
    r"|đáp án|उत्तर|जवाब|الجواب|الإجابة)|答案|正解|答え|정답|답|(?<![回解问問应應])答"
)
"""Pattern for the words that a response calls its answer by."""
IS = (
    r"(?:\s*(?:is|are|was|would be|will be|should be|must be|equals|=|:|→|⇒|->|es|est|ist|lautet|é|è|jest"
    r"|adalah|là|है|هو|为|是)(?!\w)[^\S\n]*:?|\s*:|\s*[—-]\s|\s*(?:应该|应)?[为是為]|\s*[은는は]\s*)"
)
"""Pattern for the words and signs between such a name and the answer."""

_BREAK = r"(?:\A|[.!?;:,)(…—。✓✗\uff01\uff1f\uff0c\uff1b\uff1a]|\n|(?<=\s)-(?=\s))[\s\"'*_>#]{0,12}"
"""Pattern for what comes directly before a correction or a check."""
_RETRACTS = (
    r"(?:(?:wait|no|hmm+|oh|sorry|hold on|actually)\W{1,3})?(?:no,? wait|oops|whoops|scratch that"
    r"|correction\b[^\S\n]*[:.,*]|edit[^\S\n]*[:*]+\s*(?=[$€£]?-?\d[\d.,]*\W*(?:\n|\Z))"
    r"|i meant?(?=\s+[$€£]?-?\d)"
    r"|i was wrong|i misread|let me (?:correct|fix)"
    r"|i (?:made|did make|see|found|notice) (?:a|an|my|the) (?:\w+ )?(?:mistake|error)"
    r"|(?:that|this)(?:'s| is| was) (?:wrong|incorrect|not (?:right|correct))(?=\s*(?:[.,:;!—-]|\Z))"
    r"|korrektur\b|moment mal|corrección\b|correção\b|correzione\b|исправление\b|поправка\b"
    r"|不对|不對|更正|訂正|정정)"
)
"""Pattern for words that take back an earlier statement."""
_DOUBTS = (
    r"(?:wait|actually|hold on|hmm+|sorry|on second thought|in fact|rather|edit(?=[^\S\n]*[:*])|i meant?"
    r"|warte|eigentlich|espera|en realidad|attendez?|en fait"
    r"|подождите|на самом деле|等等|等一下|其实|待って|잠깐)"
    r"(?![^\W\d_])"
)
"""Pattern for words that may take it back."""
_CORRECTION = re.compile(
    rf"{_BREAK}(?:(?P<retracts>{_RETRACTS})|{_DOUBTS}(?:\W{{1,3}}(?P<retracts_too>{_RETRACTS}))?)",
    re.IGNORECASE,
)
_RESTATES = re.compile(
    r"(?<!\w)(?:(?:(?:it|that|this)(?:'s| is| was)|i meant?|(?:it |that |this )?(?:should|must|would|has to)"
    r" (?:be|have been)|the (?:\w+ ){0,2}(?:total|result|number|value|sum|amount|answer|cost|price)"
    r" (?:is|should be|was))[\s:*]{1,4}|(?:es|c'est|это|应该是|是)\s*)(?=[\s*_$€£(\\]{0,4}-?[\d.]|\\frac)",
    re.IGNORECASE,
)
"""Words before a number that replaces an earlier one."""
_AT_ONCE = re.compile(r"[\s,.:;!*…—-]{0,6}(?:no[\s,:.]{1,3})?")
_STATEMENT_END = re.compile(r"[.,](?!\d)|[!?;()\n]|\s[—-]\s")
_MAX_STATEMENT = 80
"""Longest statement, in characters, that replaces an earlier one."""

_CHECK_HEADS = (
    r"(?:(?:quick|sanity|double|final)[ -])?(?:check(?:ing)?(?: (?:our|the|my|your|this|it|work|answer|result"
    r"|solution)){0,3}|verification|verify(?:ing)?|proof)|comprobación|comprobamos|verificación|vérification"
    r"|on vérifie|preuve|probe|überprüfung|kontrolle|verificação|verifica|prova|проверка|перевірка"
    r"|sprawdzenie|controle|kontroll?|pemeriksaan|kiểm tra|検算|確認|検証|검산|확인|验证|验算|检验|檢驗|驗算"
)
_EXPLANATION_HEADS = (
    r"(?:explanation|breakdown|reason(?:ing)?|details|explicación|explication|erklärung|begründung|explicação"
    r"|spiegazione|объяснение|пояснение|wyjaśnienie|uitleg|a\u00e7\u0131klama|penjelasan|giải thích"
    r"|説明|解説|설명|解释|说明|解析)"
)
_HEAD_ENDS = r"[\s*_]{0,4}(?:\([^()\n]{0,40}\)[\s*_]{0,3})?(?:[:\uff1a]|\n)"
_CHECKED = (
    r"(?: (?:that|this|it|if|our|my|your|the|final|work|answers?|results?|solutions?|calculations?|math|again"
    r"|above|quickly|is|are|correct(?:ly|ness)?|right|to (?:be|make) sure"
    r"|that [^.:,!?\n]{1,30} is (?:correct|right)|(?:by|with) [^.:,!?\n]{1,40})){0,6}[*_]{0,2}[.:!,]"
)
"""What a sentence must check to begin a check: the answer or the work, not `the total`."""
_HELP = r"(?:questions?|help|clarifications?|assistance|explanations?|details?|doubts?|concerns?)\b"
_CHECK = (
    rf"(?:(?:let(?:'s| us| me)|we can|to) (?:now )?(?:double[ -]?)?(?:check|verify|confirm){_CHECKED}"
    rf"|(?:{_CHECK_HEADS}){_HEAD_ENDS}|(?:please )?let me know\b"
    r"|i hope (?:this|that|it|these|the \w+|my \w+) (?:\w+ ){0,3}?(?:help|clarif|clear|useful|makes? sense)"
    r"|feel free to (?:ask|reach|let|contact|share|provide|message|tell|send)\b"
    rf"|if you (?:have|need|want|would like) (?:(?:any|some|more|other|further|additional) ){{1,2}}{_HELP}"
    r"|if you(?: would|'d) like (?:me to|to (?:see|know|learn))\b)"
)
"""Pattern for the beginning of a check or of closing words."""
_EXPLANATION = re.compile(
    rf"{_BREAK}(?P<head>{_EXPLANATION_HEADS}{_HEAD_ENDS}|here'?s (?:why|how)\b)", re.IGNORECASE
)
_NOTE = re.compile(r"\n[\s\"'*_>#-]{0,12}(?:note|remark|hint)\b[^\n]*", re.IGNORECASE)
_RESUMES = (
    r"(?<=[.!?\n✓✔。])[\s*_#>]{0,8}(?:so|thus|therefore|hence|in total|total|altogether|finally|in conclusion"
    r"|conclusion|step \d|answer|final|next|now|then)(?![^\W\d_])"
)
"""Pattern for the words with which the solution continues after a check."""
_ASIDE = re.compile(rf"{_BREAK}{_CHECK}.*?(?={_RESUMES}|\Z)", re.IGNORECASE | re.DOTALL)
_UNKNOWN = re.compile(
    r"\b(?:answer (?:is|remains) (?:unknown|unclear)"
    r"|(?:not enough|insufficient|too little) (?:information|data)"
    r"|(?:can ?not|can't|could not|couldn't) (?:be )?(?:determine|calculate|answer|solve|compute|know)d?\b"
    r"|impossible to (?:determine|tell|say|know|answer))",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(r"\b(?:so|therefore|thus|hence|total)\b|=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a response that may state its answer."""

    text: str
    whole: bool
    """Whether a number in it may be the answer without being marked as such."""
    restates: bool
    """Whether it may replace an earlier number."""


def parts(text: str) -> Iterator[Part]:
    """The parts to search for the answer, best first: the text after each correction from the last, then all.

    After `that's wrong` or `Correction:` any clear number counts. After `wait` or `actually` only a marked or
    restated number counts, because these words usually begin a check.
    """
    for match in reversed(list(_CORRECTION.finditer(text))[-MAX_CORRECTIONS:]):
        at_once = _AT_ONCE.match(text, match.end())
        retracts = bool(match["retracts"] or match["retracts_too"])
        restates = retracts or bool(at_once and _RESTATES.match(text, at_once.end()))
        yield Part(text[match.end() :], whole=retracts, restates=restates)
    yield Part(text, whole=True, restates=False)


def restatements(text: str, *, retracts: bool) -> Iterator[tuple[str, str]]:
    """The statements after a correction that replace an earlier number, each with the text that follows it.

    Such a statement follows words such as `it's` or `should be`, which come first in `text`. After words that
    retract, they may come anywhere, or the text may begin with the number itself.
    """
    at_once = _AT_ONCE.match(text)
    start = at_once.end() if at_once else 0
    starts = [match.end() for match in _RESTATES.finditer(text) if retracts or match.start() <= start]
    if retracts:
        starts.insert(0, start)
    for low in reversed(starts[-MAX_CORRECTIONS:]):
        end = _STATEMENT_END.search(text, low, low + _MAX_STATEMENT)
        high = end.start() if end else len(text)
        if high - low <= _MAX_STATEMENT:
            yield text[low:high], text[high:]


def without_asides(text: str) -> str:
    """`text` without notes that conclude nothing, and without checks and closing words.

    A check ends where the text draws a conclusion.
    """
    return _ASIDE.sub("\n", _NOTE.sub(lambda note: note[0] if _CONCLUDES.search(note[0]) else "", text))


def before_explanation(text: str) -> str:
    """The part of `text` before its first explanation; empty if there is no explanation."""
    match = _EXPLANATION.search(text)
    return text[: match.start("head")] if match else ""


def gives_up(text: str) -> bool:
    """Whether `text` says that the answer is unknown, and concludes nothing after that."""
    match = _UNKNOWN.search(text)
    return match is not None and not _CONCLUDES.search(text, match.end())
