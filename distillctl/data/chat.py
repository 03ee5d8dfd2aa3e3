"""Chats as data sets write them: messages of `role` and `content`, and the answer that may end them.

`read_chat` reads lists of {role, content}, ShareGPT's {from, value}, content that is a list of text parts,
the JSON text of such a list (`chat_text`), and plain text, which becomes one user message. It refuses content
that is not text, and content that training would lose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distillctl.data.chat_text import chat_of_text
from distillctl.data.columns import refuse_other_media
from distillctl.data.values import bad_row, kind_of, require_text

Message = dict[str, str]

_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
_SPEAKERS = {**_ROLES, "human": "user", "gpt": "assistant"}
"""Speakers in ShareGPT's `from`, and the role of each."""
_TOOL_ROLES = ("tool", "function", "function_call", "observation", "tool_call", "tool_response", "ipython")


@dataclass(frozen=True, slots=True)
class Chat:
    """What a prompt column holds."""

    messages: list[Message]
    """The prompt: each message has exactly `role` and `content`."""
    answer: str | None
    """The assistant's turn at the end of the chat, or None. It does not belong to the prompt."""


def read_chat(value: object, where: str, name: str) -> Chat:
    """The chat in a column `name`.

    Raises ConfigError for a value that is not a chat, and for a chat that has no user message or ends with a
    system message.
    """
    if isinstance(value, str):
        value = chat_of_text(value, where, name)
    if value is None or isinstance(value, str):
        return Chat([{"role": "user", "content": require_text(value, where, name)}], None)
    if not isinstance(value, list):
        raise bad_row(f"{where}: `{name}` must be text or messages, got {kind_of(value)}")
    messages = [_message(message, where, f"{name}[{i}]") for i, message in enumerate(value)]
    ends = bool(messages) and messages[-1]["role"] == "assistant"
    prompt = messages[:-1] if ends else messages
    if not any(message["role"] == "user" for message in prompt):
        raise bad_row(f"{where}: `{name}` has no message with the role `user`")
    if messages[-1]["role"] == "system":
        raise bad_row(f"{where}: `{name}` ends with a system message, which a model cannot answer")
    return Chat(prompt, messages[-1]["content"] if ends else None)


def last_question(messages: list[Message]) -> str:
    """Content of the last user message."""
    return next(m["content"] for m in reversed(messages) if m["role"] == "user")


def _message(message: Any, where: str, label: str) -> Message:
    if not isinstance(message, dict):
        raise bad_row(f"{where}: `{label}` must be a message, got {kind_of(message)}")
    refuse_other_media(message, f"{where}: `{label}`")
    is_sharegpt = message.get("role") is None and message.get("from") is not None
    role_key, content_key, roles = (
        ("from", "value", _SPEAKERS) if is_sharegpt else ("role", "content", _ROLES)
    )
    given = require_text(message.get(role_key), where, f"{label}.{role_key}")
    if given in _TOOL_ROLES:
        raise bad_row(f"{where}: `{label}` is a tool's turn (`{given}`): tool calls cannot be read")
    if given not in roles:
        hint = f"use one of the known roles: {', '.join(roles)}"
        raise bad_row(f"{where}: `{label}.{role_key}` is `{given}`, which is not a known role", hint)
    role = roles[given]
    content = message.get(content_key)
    label = f"{label}.{content_key}"
    if isinstance(content, list):
        content = "".join(_part(part, where, f"{label}[{i}]") for i, part in enumerate(content))
    if role == "system" and content == "":  # common on purpose: it replaces the template's default message
        return {"role": role, "content": ""}
    return {"role": role, "content": require_text(content, where, label)}


def _part(part: Any, where: str, label: str) -> str:
    """The text of one part of a message's content. The caller joins several parts without a separator."""
    kind = part.get("type") if isinstance(part, dict) else kind_of(part)
    if kind != "text" or not isinstance(part, dict):
        hint = "distillctl trains on text only: leave such rows out"
        raise bad_row(f"{where}: `{label}` is of type {kind}; only parts of type text can be read", hint)
    refuse_other_media(part, f"{where}: `{label}`")
    text = part.get("text")
    if not isinstance(text, str):
        found = kind_of(text)
        raise bad_row(f"{where}: `{label}.text` must be text, got {found}")
    return text
