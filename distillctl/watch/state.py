"""The state of a run, folded from its events: what every display and report reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ETA_WINDOW = 20
"""Newest steps whose mean duration the remaining time is computed from."""


@dataclass(slots=True)
class RunState:
    """Feed events in order with `apply`; unknown kinds and keys are ignored."""

    start: dict[str, Any] = field(default_factory=dict)
    phase: str | None = None
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds of each start-up phase of the newest attempt."""
    steps: dict[int, dict[str, float | None]] = field(default_factory=dict)
    """Metrics by step; a step repeated by a later attempt replaces the earlier one."""
    evals: dict[int, dict[str, Any]] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)
    first_step: int = 1
    """First step of the newest attempt."""
    attempt: int = 0
    last_t: float | None = None

    @property
    def step(self) -> int:
        """Newest finished step."""
        return max(self.steps, default=0)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run; 0 before the start event."""
        return int(self.start.get("steps", 0))

    def apply(self, event: dict[str, Any]) -> None:
        """Take in one event."""
        self.last_t = event.get("t", self.last_t)
        self.attempt = max(self.attempt, event.get("attempt", 0))
        step = event.get("step", 0)
        match event["kind"]:
            case "start":
                self.start, self.end, self.phase = event, {}, None
                self.first_step = step + 1
                self.steps = {s: m for s, m in self.steps.items() if s <= step}
            case "phase" if event["state"] == "begin":
                self.phase = event["name"]
            case "phase":
                self.phase = None
                self.phases[event["name"]] = event["seconds"]
            case "check" if event["level"] == "warn":
                self.warnings.append(f"{event['name']}: {event['detail']}")
            case "step":
                self.steps[step] = event["metrics"]
            case "eval":
                self.evals[step] = event["metrics"]
            case "checkpoint":
                self.checkpoints[step] = event["path"]
            case "warn":
                self.warnings.append(event["message"])
            case "end":
                self.end = event

    def eta_s(self) -> float | None:
        """Seconds to the end, from the newest steps but the attempt's first (which warms things up)."""
        known = [s for s in self.steps if s > self.first_step][-ETA_WINDOW:]
        times = [t for s in known if (t := self.steps[s].get("timing_s/step")) is not None]
        if not times:
            return None
        return sum(times) / len(times) * (self.num_steps - self.step)
