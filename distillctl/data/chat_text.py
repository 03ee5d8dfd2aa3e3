"""Chats that are written as text: the JSON of messages, and faulty attempts at it.

Such a text is a chat or an error, never the literal question. All other text stays text, even if it contains
brackets or JSON: `[1, 2] has which sum?`, a document, the JSON of a message followed by a question.
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
"""Keys that a message without `content` may have, if it names its speaker."""
_SPEAKER = (
    r"(?:system|user|assistant|human|gpt|tool|function|function_call|observation|developer|model|chatgpt|bot)"
)
_IS_SPEAKER = re.compile(_SPEAKER, re.IGNORECASE)
_LOOKS = re.compile(
    rf"""["'](?:role|from)["']\s*:\s*["']{_SPEAKER}["']|\A\s*[\[(]+\s*\{{\s*["'](?:role|content|from|value)["']\s*:""",
    re.IGNORECASE,
)
"""Signs of messages in text that is not valid JSON: a speaker, or a list whose first key is a message's."""
_PIECE = re.compile(
    r"""(?P<open>[\[({])|(?P<close>[\])}])|"(?:[^"\\]|\\.)*(?:"|\Z)|'(?:[^'\\]|\\.)*(?:'|\Z)|[^\[({\])}"']+""",
    re.DOTALL,
)
_BETWEEN = " \t\r\n,;"
_BOM = "\ufeff"
_HINT = (
    "write messages as a list, or as its JSON text (json.dumps), not as Python prints them; "
    "if the prompt is a question about such a text, put words around it"
)


def chat_of_text(text: str, where: str, name: str) -> object:
    """The value of a text that is the JSON of a chat, valid as a chat or not. Any other text comes unchanged.

    Raises ConfigError for text that is meant as a chat but is not JSON or repeats a key.
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
    """Whether a JSON value is a message, a list that contains one, or an object with such a list."""
    if isinstance(tree, dict) and _is_message(tree) and _says_who(tree):
        return True
    waiting = list(tree.values()) if isinstance(tree, dict) else [tree]
    waiting = [part for part in waiting if isinstance(part, list)]
    while waiting:  # a loop, not recursion: the text decides how deep it nests
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, dict) and _is_message(part):
            return True
    return False


def _is_message(tree: dict[str, Any]) -> bool:
    """Whether an object has a message's two keys, or names its speaker and has keys of messages only."""
    if {"role", "content"} <= tree.keys():
        return True
    if {"from", "value"} <= tree.keys():  # an edge of a graph or an exchange rate has these keys as well
        return _says_who(tree) or isinstance(tree["value"], str)
    return _says_who(tree) and tree.keys() <= _MESSAGE_KEYS


def _says_who(tree: dict[str, Any]) -> bool:
    role = tree.get("role", tree.get("from"))
    return isinstance(role, str) and bool(_IS_SPEAKER.fullmatch(role))


def _is_all_brackets(text: str) -> bool:
    """Whether only blanks and commas stand outside of brackets. The last bracket may be left open."""
    depth = 0
    for piece in _PIECE.finditer(text):
        if piece.lastgroup is None and depth <= 0 and piece[0].strip(_BETWEEN):
            return False
        depth += (piece.lastgroup == "open") - (piece.lastgroup == "close")
    return True
