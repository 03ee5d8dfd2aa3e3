"""The form that each line of events.jsonl must have. It is checked here, so readers need not check again.

Kinds and keys of other versions pass. A file that is damaged or made by somebody else may hold anything; its
malformed lines do not pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import from_json  # several times as fast as json on files of 100 MB

MAX_COUNT = 2**53
"""Largest step or other count: JSON's numbers are exact up to it."""
MAX_NUMBER = 1e100
"""Largest metric or number of seconds. Larger metrics count as missing; sums and products of smaller ones
stay finite."""
MAX_TIME = 253_402_300_799.0
"""Latest time of an event, in seconds since the epoch: the end of the year 9999."""
MAX_NAME = 200
"""Longest name of a metric, in characters."""
MAX_NAMES = 1000
"""Most metrics in one event, and in one file."""


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Parse one line. The event always has `step`; None for a torn line and for anything but an event.

    Metrics that are not finite or exceed `MAX_NUMBER` become None.
    """
    try:
        event = from_json(line)
    except ValueError:  # not JSON, not UTF-8, or nested too deep
        return None
    if not isinstance(event, dict) or type(event.get("kind")) is not str:
        return None
    event.setdefault("step", 0)
    if not _holds(event, _HEAD):
        return None
    check = _KINDS.get(event["kind"])
    return event if check is None or check(event) else None


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= MAX_NUMBER


def _is_seconds(value: object) -> bool:
    return _is_number(value) and value >= 0  # type: ignore[operator]  # it is a number


def _is_time(value: object) -> bool:
    return value is None or (_is_seconds(value) and value <= MAX_TIME)  # type: ignore[operator]  # likewise


def _or_none(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


Form = Mapping[str, Callable[[object], bool]]
_HEAD: Form = {"t": _is_time, "attempt": _is_count, "step": _is_count}
_START: Form = {"run": _is_text, "steps": _is_count, "student": _is_text, "teacher": _is_text,
                "world_size": _is_count, "device": _is_text}  # fmt: skip
_PHASE_END: Form = {"seconds": _is_seconds}
_CHECK: Form = {"level": _is_text, "name": _is_text, "detail": _is_text}
_SAMPLE: Form = {"mean_kl": _or_none(_is_number), "num_tokens": _is_count, "path": _is_text,
                 "correct": lambda value: value is None or type(value) is bool}  # fmt: skip
_END: Form = {"state": _is_text, "exit_code": lambda value: type(value) is int and abs(value) <= MAX_COUNT,
              "seconds": _is_seconds}  # fmt: skip


def _holds(event: Mapping[str, Any], form: Form, *, all_of_it: bool = False) -> bool:
    """Whether each key of `form` that the event has passes its check; `all_of_it`: it must have every key."""
    return all(check(event[key]) if key in event else not all_of_it for key, check in form.items())


def _is_phase(event: dict[str, Any]) -> bool:
    if not _is_text(event.get("name")):
        return False
    ends = event.get("state") == "end" and _holds(event, _PHASE_END, all_of_it=True)
    return ends or event.get("state") == "begin"


def _is_check(event: dict[str, Any]) -> bool:
    return _holds(event, _CHECK, all_of_it=True) and _holds(event, {"hint": _or_none(_is_text)})


def _has_metrics(event: dict[str, Any]) -> bool:
    """Whether `metrics` maps names to numbers; numbers that are not finite become None."""
    metrics = event.get("metrics")
    if type(metrics) is not dict or len(metrics) > MAX_NAMES:
        return False
    for name, value in metrics.items():
        if len(name) > MAX_NAME:
            return False
        if value is None:
            continue
        if type(value) is not float and type(value) is not int:
            return False
        if not -MAX_NUMBER <= value <= MAX_NUMBER or math.isnan(value):
            metrics[name] = None
        elif value < 0 and name.startswith("timing_s/"):
            return False
    return True


def _is_eval(event: dict[str, Any]) -> bool:
    if not _has_metrics(event) or not _holds(event, {"num": _is_count}):
        return False
    acc = event["metrics"].get("val/acc")
    return acc is None or 0 <= acc <= 1


def _is_sample(event: dict[str, Any]) -> bool:
    pieces = event.get("pieces", [])
    kl = event.get("kl", [])
    if not isinstance(pieces, list) or not isinstance(kl, list) or len(pieces) != len(kl):
        return False
    whole = all(map(_is_text, pieces)) and all(map(_or_none(_is_number), kl))
    return whole and _holds(event, _SAMPLE)


_KINDS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "start": lambda event: _holds(event, _START),
    "phase": _is_phase,
    "check": _is_check,
    "step": lambda event: event["step"] >= 1 and _has_metrics(event),
    "eval": _is_eval,
    "checkpoint": lambda event: _is_text(event.get("path")),
    "sample": _is_sample,
    "warn": lambda event: _is_text(event.get("message")),
    "stop": lambda event: _is_count(event.get("signal")) and _holds(event, {"state": _is_text}),
    "end": lambda event: _holds(event, _END, all_of_it=True),
}
