"""Finding a final answer that is text: what is marked as the answer, else the last line."""

from __future__ import annotations

import re

from distillctl.answers.final_answer import after_thinking, boxed_fields, marked_phrase
from distillctl.answers.plain import plain

_TEXT_ITEM = re.compile(r"(?:[-•]|\d+[.)])\s+(?=[^\W\d])")  # `- 5` may be a number


def final_text(text: str) -> str | None:
    """The final answer of a response whose answer is text: what is marked, else the last line.

    If it is the only item of a list, the mark of the list is removed.
    """
    rest = boxed_fields(after_thinking(text) or "")
    lines = [line.strip() for line in rest.splitlines() if line.strip()]
    found = marked_phrase(rest) or (lines[-1] if lines else None)
    mark = _TEXT_ITEM.match(found or "")
    return found[mark.end() :] if found and mark and _is_only_item(found, lines) else found


def _is_only_item(item: str, lines: list[str]) -> bool:
    """Whether neither the line above nor the line below an item is a list item."""
    at = next((i for i in reversed(range(len(lines))) if item in plain(lines[i])), None)
    beside = [] if at is None else lines[max(0, at - 1) : at] + lines[at + 1 : at + 2]
    return at is not None and not any(map(_TEXT_ITEM.match, beside))
