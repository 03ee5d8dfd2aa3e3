"""Messages of a teacher server that refuses a request: remove the prompt, and add a hint."""

from __future__ import annotations

import re

import httpx
from pydantic_core import from_json

_HINTS = {
    "requires the V2 model runner": "loss.kind=student_topk needs a teacher server on a GPU, where vLLM "
    "scores chosen tokens: use loss.kind=topk or sampled",
    "Scale-out endpoints are disabled": "loss.kind=student_topk needs a server started with "
    "--enable-scale-out",
    "greater than max allowed": "start it with --max-logprobs {max_logprobs} or lower loss.topk",
    "does not exist": "the server no longer serves the model that it listed when the run began",
    "Out of range float values": "its log-probabilities are not numbers: the weights that it serves hold NaN "
    "or infinity",
    "maximum context length": "start it with a larger --max-model-len, or lower data.max_prompt_length or "
    "data.max_response_length",
}
"""The hint for each part of a message of vLLM."""
_INPUT = re.compile(
    r"""[\\"', ]*\binput(?:_value)?[\\"']* *[:=]"""
    r"""|[\[({<]? *-?\d+[\])}>]*(?:[\s,;|/:]+[\[({<]*-?\d+[\])}>]*){2,}"""
    r"""|\b(?:token|prompt)(?:[ _]?ids?)?\W{0,4}\d+"""
)
"""Matches where a message begins to repeat the request: pydantic's `input`, more than two numbers in a row,
the id of a token or the number of a prompt."""
_MAX_MESSAGE = 4000
"""Most characters of a server's message that are read."""


def refusal_hint(trouble: str, max_logprobs: int) -> str:
    """The hint for vLLM's message `trouble`; empty for an unknown message."""
    hints = (hint for part, hint in _HINTS.items() if part in trouble)
    return next(hints, "").format(max_logprobs=max_logprobs)


def server_message(response: httpx.Response) -> str:
    """The server's message, cut where it begins to repeat the request: token ids reveal a prompt too."""
    try:
        told = from_json(response.content)
        told = told.get("error", told)
        text = told["message"] if isinstance(told, dict) else told
    except (ValueError, AttributeError, KeyError):
        text = response.text
    return _INPUT.split(" ".join(str(text)[:_MAX_MESSAGE].split()), maxsplit=1)[0][:300]
