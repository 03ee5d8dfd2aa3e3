"""Configuration of the guards: when a run that goes wrong is stopped."""

from __future__ import annotations

from pydantic import Field

from distillctl.config.section import Fraction, Section


class GuardsConfig(Section):
    """Signs that a run goes wrong: the first step that shows one warns, several in a row stop the run (exit
    1), with the last good checkpoint kept. null switches a guard off."""

    patience: int = Field(default=10, ge=1)
    """Steps in a row that one guard may be violated for before the run stops."""
    max_skipped_steps: int | None = Field(default=5, ge=1)
    """Optimizer steps skipped in a row, because loss or gradient was not finite, that stop the run."""
    min_entropy: float | None = Field(default=1e-4, ge=0.0)
    """Entropy collapse: the student's mean entropy falls below this many nats."""
    max_length_growth: float | None = Field(default=4.0, gt=1.0)
    """Length explosion: responses are on average this many times as long as in the first steps."""
    min_teacher_mass: Fraction | None = 0.5
    """Teacher mass loss: the tokens listed by a top-k loss hold less of the teacher's probability."""
    max_kl_growth: float | None = Field(default=5.0, gt=1.0)
    """KL runaway: the reverse KL is this many times that of the first steps."""
