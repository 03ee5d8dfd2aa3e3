"""The state of a run, computed from its events in constant memory. Every display reads it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from distillctl.monitor.history import History

ETA_WINDOW = 20
"""Number of newest steps whose mean duration gives the remaining time."""
PHASES = ("rollout", "teacher", "update", "sync")
"""Parts of a step; `timing_s/<phase>` has their seconds."""
NUM_WARNINGS = 20
"""Number of newest warnings that are kept."""


@dataclass(slots=True, kw_only=True)
class RunState:
    """The state of a run. Pass events to `apply` in order; it ignores unknown kinds and keys."""

    with_histories: bool = True
    """Whether to keep histories. Readers that draw no curves leave them out: a long run then takes a fraction
    of the time."""
    start: dict[str, Any] = field(default_factory=dict)
    phase: str | None = None
    phase_t: float | None = None
    """When the phase began, in seconds since the epoch."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of each start-up phase of the newest attempt."""
    step: int = 0
    """Newest finished step."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Metrics of the newest step."""
    histories: dict[str, History] = field(default_factory=dict)
    """History of each metric; a step that a later attempt repeats replaces the earlier one."""
    phase_totals_s: dict[str, float] = field(default_factory=dict)
    """Seconds of each of `PHASES` over all steps seen, repeated ones included."""
    durations_s: deque[float] = field(default_factory=lambda: deque(maxlen=ETA_WINDOW))
    """Durations of the newest steps; the attempt's first step is left out because it includes warm-up."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """The newest `eval` event."""
    checkpoint: dict[str, Any] = field(default_factory=dict)
    """The newest `checkpoint` event."""
    sample: dict[str, Any] = field(default_factory=dict)
    """The newest `sample` event."""
    warnings: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=NUM_WARNINGS))
    stop: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    first_step: int = 1
    """First step of the newest attempt."""
    attempt: int = 0
    begin_t: float | None = None
    """Time of the newest attempt's first event."""
    last_t: float | None = None
    """Time of the newest event."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole run; 0 before the start event."""
        return int(self.start.get("steps", 0))

    def apply(self, event: dict[str, Any]) -> None:
        """Take in one event."""
        self.last_t = event.get("t", self.last_t)
        if event.get("attempt", 0) > self.attempt or self.begin_t is None:
            self.begin_attempt(event)
        step = event.get("step", 0)
        match event["kind"]:
            case "start":
                self._start(event, step)
            case "phase" if event["state"] == "begin":
                self.phase = event["name"]
                self.phase_t = event.get("t")
            case "phase":
                self.phase = self.phase_t = None
                self.phases[event["name"]] = event["seconds"]
            case "check" if event["level"] == "warn":
                self.warnings.append({"step": step, "message": f"{event['name']}: {event['detail']}"})
            case "step":
                self._step(step, event["metrics"])
            case "eval":
                self.evaluation = event
                for name, value in event["metrics"].items():
                    self._add(name, step + 1, value)  # one evaluation comes before the first step, at step 0
            case "checkpoint":
                self.checkpoint = event
            case "sample":
                self.sample = event
            case "warn":
                self.warnings.append(event)
            case "stop":
                self.stop = event
            case "end":
                self.end = event

    def begin_attempt(self, event: dict[str, Any]) -> None:
        """Forget what belongs to the previous attempt only."""
        self.attempt = event.get("attempt", 0)
        self.begin_t = event.get("t")
        self.phases = {}
        self.stop = {}
        self.end = {}
        self.durations_s.clear()

    def eta_s(self) -> float | None:
        """Estimated seconds to the end, from the mean duration of the newest steps; None before any."""
        if not self.durations_s:
            return None
        return sum(self.durations_s) / len(self.durations_s) * (self.num_steps - self.step)

    def phase_shares(self) -> dict[str, float]:
        """Each phase's share of the time of all phases over all steps; empty before the first step."""
        whole = sum(self.phase_totals_s.values())
        return {phase: self.phase_totals_s.get(phase, 0.0) / whole for phase in PHASES} if whole else {}

    def _start(self, event: dict[str, Any], step: int) -> None:
        self.start = event
        self.step = step
        self.first_step = step + 1
        self.phase = self.phase_t = None
        for history in self.histories.values():
            history.truncate(step)

    def _step(self, step: int, metrics: dict[str, float | None]) -> None:
        self.step = step
        self.metrics = metrics
        if self.with_histories:
            for name, value in metrics.items():
                self._add(name, step, value)
        for phase in PHASES:
            seconds = metrics.get(f"timing_s/{phase}") or 0.0
            self.phase_totals_s[phase] = self.phase_totals_s.get(phase, 0.0) + seconds
        duration = metrics.get("timing_s/step")
        if duration is not None and step > self.first_step:
            self.durations_s.append(duration)

    def _add(self, name: str, step: int, value: float | None) -> None:
        if name not in self.histories:
            self.histories[name] = History()
        self.histories[name].add(step, value)
