"""Progress as plain lines for pipes, logs and CI: one greppable line per event, without escape codes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TextIO

from distillctl.monitor.state import RunState
from distillctl.terminal.table import duration, one_line

HEARTBEAT_S = 30.0
"""Longest silence: CI systems end jobs that print nothing for minutes."""
STEP_INTERVAL_S = 5.0
"""Shortest time between two step lines; the first and the last step are always shown."""


class PlainDisplay:
    """Writes lines to `out` (stderr)."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._out = out
        self._clock = clock
        self._state = RunState()
        self._last_line = clock()
        self._last_step_line = 0.0
        self._held_back: dict[str, Any] | None = None

    def recall(self, event: dict[str, Any]) -> None:
        """Take in an event of an earlier attempt."""
        self._state.apply(event)

    def apply(self, event: dict[str, Any]) -> None:
        """Print the line of an event, if its kind has one."""
        self._state.apply(event)
        kind = event["kind"]
        if kind == "step" and not self._step_is_due(event["step"]):
            self._held_back = event
            return
        if kind in ("stop", "end") and self._held_back is not None:
            self._show(self._held_back)  # it was the last step, which is always shown
        if kind in _LINES:
            self._show(event)

    def tick(self) -> None:
        """Print a heartbeat if nothing was printed for `HEARTBEAT_S`."""
        now = self._clock()
        if now - self._last_line >= HEARTBEAT_S:
            doing = self._state.phase or f"step {self._state.step + 1}"
            since = now - (self._state.last_t or now)
            self._print(f"... {doing}, {since:.0f} s since the last event", now)

    def close(self) -> None:
        """Do nothing: no file is open."""

    def _step_is_due(self, step: int) -> bool:
        due = self._clock() - self._last_step_line >= STEP_INTERVAL_S
        return due or step in (1, self._state.first_step, self._state.num_steps)

    def _show(self, event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            self._last_step_line = self._clock()
            self._held_back = None
        self._print(_LINES[event["kind"]](event, self._state), event.get("t", self._clock()))

    def _print(self, text: str, t: float) -> None:
        self._last_line = self._clock()
        clock = time.strftime("%H:%M:%S", time.localtime(t))
        # A message may quote anything, even line breaks and escape codes.
        self._out.write(f"{clock} {one_line(text)}\n")
        self._out.flush()


def _start(event: dict[str, Any], state: RunState) -> str:
    keys = ("run", "steps", "student", "teacher", "world_size", "device")
    return " ".join(["start", *(f"{key}={event[key]}" for key in keys if key in event)])


def _phase(event: dict[str, Any], state: RunState) -> str:
    if event["state"] == "begin":
        return f"phase {event['name']} ..."
    return f"phase {event['name']} done seconds={event['seconds']:.1f}"


def _check(event: dict[str, Any], state: RunState) -> str:
    fix = f" (fix: {event['hint']})" if event.get("hint") else ""
    return f"check {event['level']} {event['name']}: {event['detail']}{fix}"


def _step(event: dict[str, Any], state: RunState) -> str:
    m = event["metrics"]
    eta = state.eta_s()
    fields = [
        f"step={event['step']}/{state.num_steps}",
        f"kl={_number(m.get('kl/reverse'), '.4f')}",
        f"entropy={_number(m.get('actor/entropy'), '.3f')}",
        f"loss={_number(m.get('actor/loss'), '.4f')}",
        f"gen_tok_s={_number(m.get('perf/rollout_tokens_per_s'), '.0f')}",
        f"resp_len={_number(m.get('response_length/mean'), '.0f')}",
        f"grad_norm={_number(m.get('actor/grad_norm'), '.2f')}",
        f"lr={_number(m.get('actor/lr'), '.1e')}",
        f"step_s={_number(m.get('timing_s/step'), '.1f')}",
        f"eta={'-' if eta is None else duration(eta)}",
    ]
    return " ".join(fields)


def _eval(event: dict[str, Any], state: RunState) -> str:
    acc = _number(event["metrics"].get("val/acc"), ".3f")  # null when no prompt has a ground truth
    return f"eval step={event['step']} acc={acc} prompts={event.get('num', '-')}"


def _end(event: dict[str, Any], state: RunState) -> str:
    return (
        f"end state={event['state']} step={event['step']} exit_code={event['exit_code']} "
        f"after={duration(event['seconds'])}"
    )


_LINES: dict[str, Callable[[dict[str, Any], RunState], str]] = {
    "start": _start,
    "phase": _phase,
    "check": _check,
    "step": _step,
    "eval": _eval,
    "checkpoint": lambda event, _: f"checkpoint step={event['step']} path={event['path']}",
    "warn": lambda event, _: f"warning step={event['step']} {event['message']}",
    "stop": lambda event, _: (
        f"stop step={event['step']} signal={event['signal']} state={event.get('state', 'saved')}"
    ),
    "end": _end,
}


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
