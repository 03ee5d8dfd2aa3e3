"""The kinds of events, the keys of each, and what a line of events.jsonl has to be.

Whoever reads an event that `parse_event` returned need not check it again. A file of another version has
other kinds and keys, which pass. A file that was damaged or made by somebody else may hold anything; lines
that break the rules below do not pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


def _is_anything(value: object) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Field:
    """A key of an event: its meaning, what its value has to be, and whether it has to be there."""

    meaning: str
    check: Callable[[object], bool]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of event: its meaning, its keys, and what these have to be together."""

    meaning: str
    fields: Mapping[str, Field]
    check: Callable[[dict[str, Any]], bool] = _is_anything


def parse_event(line: bytes) -> dict[str, Any] | None:
    """Parse one line. The event always has `step`; None for a torn line and for anything but an event.

    Metrics that are not finite or exceed `MAX_NUMBER` become None.
    """
    try:
        event = from_json(line)
    except ValueError:  # not JSON, not UTF-8, or nested too deep
        return None
    if not isinstance(event, dict):
        return None
    event.setdefault("step", 0)
    if not _holds(event, HEAD):
        return None
    kind = KINDS.get(event["kind"])
    return event if kind is None or (_holds(event, kind.fields) and kind.check(event)) else None


def _holds(event: Mapping[str, Any], fields: Mapping[str, Field]) -> bool:
    """Whether the event has every required field, and every field that it has is as it should be."""
    for name, field in fields.items():
        if name in event:
            if not field.check(event[name]):
                return False
        elif field.required:
            return False
    return True


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


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_exit_code(value: object) -> bool:
    return type(value) is int and abs(value) <= MAX_COUNT


def _list_of(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _are_metrics(metrics: object) -> bool:
    """Whether these map names to numbers; numbers that are not finite become None."""
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


def _has_its_end(event: dict[str, Any]) -> bool:
    return event["state"] == "begin" or (event["state"] == "end" and "seconds" in event)


def _has_a_share(event: dict[str, Any]) -> bool:
    acc = event["metrics"].get("val/acc")
    return acc is None or 0 <= acc <= 1


def _has_a_kl_for_each_piece(event: dict[str, Any]) -> bool:
    return len(event.get("pieces", [])) == len(event.get("kl", []))


HEAD = {
    "t": Field("seconds since 1970", _is_time),
    "attempt": Field("the attempt that wrote the line, from 1", _is_count),
    "step": Field("optimizer steps done; 0 before the first", _is_count),
    "kind": Field("one of the kinds below", _is_text, required=True),
}
"""The keys of every event."""
_METRICS = Field("numbers by the name of the metric, null where not finite", _are_metrics, required=True)
KINDS = {
    "phase": Kind(
        "A phase of the start begins or ends, such as loading a model.",
        {
            "name": Field("what the phase does", _is_text, required=True),
            "state": Field("`begin` or `end`", _is_text, required=True),
            "seconds": Field("how long it took; of an `end`", _is_seconds),
        },
        _has_its_end,
    ),
    "check": Kind(
        "One finding of the preflight.",
        {
            "name": Field("what was checked", _is_text, required=True),
            "level": Field("`ok` or `warn`", _is_text, required=True),
            "detail": Field("what was found", _is_text, required=True),
            "hint": Field("how to change it; may be empty", _or_none(_is_text)),
        },
    ),
    "start": Kind(
        "The ranks begin to train.",
        {
            "run": Field("the run directory", _is_text),
            "steps": Field("optimizer steps of the whole run", _is_count),
            "student": Field("`student.model`", _is_text),
            "teacher": Field("`teacher.model`", _is_text),
            "device": Field("`cpu` or `cuda`", _is_text),
            "world_size": Field("number of ranks", _is_count),
            "num_threads": Field("CPU threads of each rank", _is_anything),
        },
    ),
    "step": Kind(
        "A training step is done.",
        {"metrics": _METRICS},
        lambda event: event["step"] >= 1,
    ),
    "eval": Kind(
        "An evaluation is done.",
        {"metrics": _METRICS, "num": Field("prompts that were graded", _is_count)},
        _has_a_share,
    ),
    "checkpoint": Kind(
        "A checkpoint is complete.",
        {"path": Field("its folder in the run directory", _is_text, required=True)},
    ),
    "sample": Kind(
        "Rollouts were saved. The event shows the first of them.",
        {
            "path": Field("the file in the run directory", _is_text),
            "pieces": Field("the texts of its first 200 tokens", _list_of(_is_text)),
            "kl": Field("the reverse KL of each of these, in nats", _list_of(_or_none(_is_number))),
            "mean_kl": Field("the mean over the whole response", _or_none(_is_number)),
            "num_tokens": Field("tokens of the response", _is_count),
            "correct": Field("the grader's verdict, null without a ground truth", _or_none(_is_flag)),
        },
        _has_a_kl_for_each_piece,
    ),
    "warn": Kind(
        "Something may be wrong, and the run goes on.",
        {
            "message": Field("what", _is_text, required=True),
            "guard": Field("the key of the guard that is violated, if it is one", _is_anything),
        },
    ),
    "stop": Kind(
        "A signal asked the run to stop.",
        {
            "signal": Field("its number", _is_count, required=True),
            "state": Field("`asked`, then `saved` when the run is about to end", _is_text),
        },
    ),
    "end": Kind(
        "The attempt is over.",
        {
            "state": Field("`done`, `failed` or `stopped`", _is_text, required=True),
            "exit_code": Field("of the command", _is_exit_code, required=True),
            "seconds": Field("of the whole attempt", _is_seconds, required=True),
        },
    ),
}
"""Everything that a run writes; files of other versions may have other kinds."""
