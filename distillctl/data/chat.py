"""Chats as data sets write them: messages of `role` and `content`, and the answer that they may end with.

Read are lists of {role, content}, ShareGPT's {from, value}, content in parts of text, the JSON text of such a
list (`chat_text`), and plain text, which is one message of the user. What is no text, or would be lost, is
refused.
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
"""ShareGPT's `from`."""
_TOOL_ROLES = ("tool", "function", "function_call", "observation", "tool_call", "tool_response", "ipython")


@dataclass(frozen=True, slots=True)
class Chat:
    """What a prompt column holds."""

    messages: list[Message]
    """The prompt: each message has exactly `role` and `content`."""
    answer: str | None
    """The assistant's turn that the chat ended with; it is no part of the prompt."""


def read_chat(value: object, where: str, name: str) -> Chat:
    """The chat in a column `name`.

    Raises ConfigError for what is none, has no user message, or ends with a system message.
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
        raise bad_row(f"{where}: `{name}` ends with a system message, to which there is no answer")
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
        raise bad_row(f"{where}: `{label}` is the turn of a tool (`{given}`), and tools cannot be read")
    if given not in roles:
        hint = f"correct it: known are {', '.join(roles)}"
        raise bad_row(f"{where}: `{label}.{role_key}` is `{given}`, no role that is known", hint)
    role, content, label = roles[given], message.get(content_key), f"{label}.{content_key}"
    if isinstance(content, list):
        content = "".join(_part(part, where, f"{label}[{i}]") for i, part in enumerate(content))
    if role == "system" and content == "":  # common and meant: it keeps a template's default one away
        return {"role": role, "content": ""}
    return {"role": role, "content": require_text(content, where, label)}


def _part(part: Any, where: str, label: str) -> str:
    """The text of one part of a message's content; several follow each other without anything between."""
    kind = part.get("type") if isinstance(part, dict) else kind_of(part)
    if kind != "text" or not isinstance(part, dict):
        hint = "only text is trained on: leave such rows out"
        raise bad_row(f"{where}: `{label}` is of type {kind}: only parts of type text can be read", hint)
    refuse_other_media(part, f"{where}: `{label}`")
    text = part.get("text")
    if not isinstance(text, str):
        found = kind_of(text)
        raise bad_row(f"{where}: `{label}.text` must be text, got {found}")
    return text
