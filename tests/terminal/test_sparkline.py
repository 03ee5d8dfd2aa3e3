"""Curves of one line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.terminal.sparkline import ASCII_BLOCKS, BLOCKS, sparkline


def test_rising_values_rise_through_all_blocks() -> None:
    assert sparkline([float(n) for n in range(8)], 8) == BLOCKS
    assert sparkline([float(-n) for n in range(8)], 8, ascii_only=True) == ASCII_BLOCKS[::-1]


@pytest.mark.parametrize("value", [0.0, 5.0, -1e300])
def test_a_flat_series_stands_at_mid_height(value: float) -> None:
    assert sparkline([value] * 4, 10) == "▄▄▄▄"


def test_missing_values_are_gaps() -> None:
    assert sparkline([0.0, math.nan, 1.0, math.inf], 4) == "▁ █ "
    assert sparkline([math.nan, math.nan], 4) == "  "
    assert sparkline([], 4) == ""


def test_a_scale_may_be_given_and_values_beyond_it_stay_inside() -> None:
    assert sparkline([-9.0, 0.5, 9.0], 3, low=0.0, high=1.0) == "▁▅█"


@given(st.lists(st.floats(), max_size=60), st.integers(-1, 40), st.booleans())
def test_never_wider_than_asked_for(values: list[float], width: int, ascii_only: bool) -> None:
    line = sparkline(values, width, ascii_only=ascii_only)
    assert len(line) == max(0, min(len(values), width))
    assert set(line) <= {*(ASCII_BLOCKS if ascii_only else BLOCKS), " "}
