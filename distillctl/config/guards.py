"""Configuration of the guards, which stop a run that goes wrong."""

from __future__ import annotations

from pydantic import Field

from distillctl.config.section import Fraction, Section


class GuardsConfig(Section):
    """Signs that a run goes wrong. The first step that shows one gives a warning; several in a row stop the
    run (exit 1) and keep the last good checkpoint. null switches a guard off."""

    patience: int = Field(default=10, ge=1)
    """The run stops when one guard is violated for this many steps in a row."""
    max_skipped_steps: int | None = Field(default=5, ge=1)
    """The run stops when this many optimizer steps in a row are skipped because loss or gradient is not
    finite."""
    min_entropy: float | None = Field(default=1e-4, ge=0.0)
    """Entropy collapse: the student's mean entropy is below this many nats."""
    max_length_growth: float | None = Field(default=4.0, gt=1.0)
    """Length explosion: the mean response length is more than this many times that of the first steps."""
    min_teacher_mass: Fraction | None = 0.5
    """Lost teacher mass: the tokens that a top-k loss lists hold less than this share of the teacher's
    probability."""
    max_kl_growth: float | None = Field(default=5.0, gt=1.0)
    """KL runaway: the reverse KL is more than this many times that of the first steps."""
