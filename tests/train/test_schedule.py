"""The learning-rate schedule."""

import math

import pytest

from distillctl.config.schema import OptimConfig
from distillctl.train.student import lr_schedule


def factors(num_steps, **settings):
    factor = lr_schedule(OptimConfig(**settings), num_steps)
    return [factor(done) for done in range(num_steps)]


def test_warm_up_starts_above_zero_and_reaches_the_peak():
    assert factors(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_linear_falls_to_zero_after_the_last_step():
    assert factors(4, schedule="linear") == [1, 0.75, 0.5, 0.25]
    assert lr_schedule(OptimConfig(schedule="linear"), 4)(4) == 0


def test_cosine_follows_the_formula():
    expected = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert factors(10, schedule="cosine", warmup_steps=2)[2:] == pytest.approx(expected)


def test_a_warm_up_longer_than_the_run_never_reaches_the_peak():
    assert max(factors(29, warmup_steps=50)) == 29 / 50
