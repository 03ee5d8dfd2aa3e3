"""Chats that are written as text: the JSON of messages, and what was meant to be it.

Such a text is a chat or an error, and never the literal question. Other text stays text, also where it holds
brackets or JSON: `[1, 2] has which sum?`, a document, the JSON of a message with a question behind it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from distillctl.data.json_text import Repeated, unique_keys
from distillctl.data.values import bad_row
from distillctl.terminal.stream import inline

_MESSAGE_KEYS = frozenset(
    {
        "role", "from", "tool_calls", "tool_call_id", "function_call", "parts", "text", "message", "refusal",
        "audio", "reasoning_content", "thinking",
    }
)  # fmt: skip
"""Keys of a message that says who speaks and lacks `content`."""
_SPEAKER = (
    r"(?:system|user|assistant|human|gpt|tool|function|function_call|observation|developer|model|chatgpt|bot)"
)
_IS_SPEAKER = re.compile(_SPEAKER, re.IGNORECASE)
_LOOKS = re.compile(
    rf"""["'](?:role|from)["']\s*:\s*["']{_SPEAKER}["']|\A\s*[\[(]+\s*\{{\s*["'](?:role|content|from|value)["']\s*:""",
    re.IGNORECASE,
)
"""Messages that no parser takes: who speaks, or a list whose first key is one of a message."""
_PIECE = re.compile(
    r"""(?P<open>[\[({])|(?P<close>[\])}])|"(?:[^"\\]|\\.)*(?:"|\Z)|'(?:[^'\\]|\\.)*(?:'|\Z)|[^\[({\])}"']+""",
    re.DOTALL,
)
_BETWEEN = " \t\r\n,;"
_BOM = "\ufeff"
_HINT = (
    "write messages as a list, or as its JSON text (json.dumps), not as Python prints them; "
    "a question about such a text needs words around it"
)


def chat_of_text(text: str, where: str, name: str) -> object:
    """What the JSON text of a chat holds, good or bad, and any other text as it is.

    Raises ConfigError for text that is meant as a chat and is not JSON, or has a key twice.
    """
    written = text.lstrip(_BOM + " \t\r\n")
    if not written.startswith(("[", "{", "(", '"')):
        return text
    try:
        tree = json.loads(written)
    except (ValueError, RecursionError):
        if not (_LOOKS.search(written) and _is_all_brackets(written)):
            return text
        raise bad_row(f"{where}: `{name}` looks like the text of messages, but is not JSON", _HINT) from None
    if isinstance(tree, str) and chat_of_text(tree, where, name) is not tree:
        raise bad_row(f"{where}: `{name}` is the JSON text of the JSON text of messages", _HINT)
    if not _is_chat(tree):
        return text
    try:
        return json.loads(written, object_pairs_hook=unique_keys)
    except Repeated as error:
        raise bad_row(f"{where}: `{name}`: `{inline(error.key)}` comes twice in one object") from None


def _is_chat(tree: Any) -> bool:
    """Whether JSON is a message, a list with one, or an object that holds such a list."""
    if isinstance(tree, dict) and _is_message(tree) and _says_who(tree):
        return True
    waiting = list(tree.values()) if isinstance(tree, dict) else [tree]
    waiting = [part for part in waiting if isinstance(part, list)]
    while waiting:  # no recursion: a text decides how deep it is
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, dict) and _is_message(part):
            return True
    return False


def _is_message(tree: dict[str, Any]) -> bool:
    """Whether an object has the keys of a message, or says who speaks and has no other keys than those."""
    if {"role", "content"} <= tree.keys():
        return True
    if {"from", "value"} <= tree.keys():  # which an edge of a graph or a rate of exchange has as well
        return _says_who(tree) or isinstance(tree["value"], str)
    return _says_who(tree) and tree.keys() <= _MESSAGE_KEYS


def _says_who(tree: dict[str, Any]) -> bool:
    role = tree.get("role", tree.get("from"))
    return isinstance(role, str) and bool(_IS_SPEAKER.fullmatch(role))


def _is_all_brackets(text: str) -> bool:
    """Whether nothing but blanks and commas stands outside of brackets, of which the last may be open."""
    depth = 0
    for piece in _PIECE.finditer(text):
        if piece.lastgroup is None and depth <= 0 and piece[0].strip(_BETWEEN):
            return False
        depth += (piece.lastgroup == "open") - (piece.lastgroup == "close")
    return True
