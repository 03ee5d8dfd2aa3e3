"""Exact arithmetic of fractions with limits on its results, so that none takes long."""

from __future__ import annotations

import math
from fractions import Fraction

MAX_BITS = 20_000
"""Of the numerator and the denominator of a result."""
MAX_FACTORIAL = 1000


class NoValue(Exception):
    """This is no arithmetic, or too much of it."""


def small(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise NoValue
    return value


def power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if exponent == Fraction(1, 2):
            return root(base)
        raise NoValue
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base != 0 and bits * abs(exponent) > MAX_BITS:
        raise NoValue
    if abs(exponent) > 2**64:
        exponent = Fraction(2 + int(exponent) % 2) * (1 if exponent > 0 else -1)  # of 0, 1 and -1
    return Fraction(base ** int(exponent))


def factorial(value: Fraction) -> Fraction:
    """Of a whole number."""
    if value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise NoValue
    return small(Fraction(math.factorial(int(value))))


def binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= MAX_FACTORIAL:
        raise NoValue
    return small(Fraction(math.comb(int(n), int(k))))


def root(value: Fraction, degree: Fraction = Fraction(2)) -> Fraction:
    """The square or cube root of the square or cube of a fraction."""
    if degree not in (2, 3) or (value < 0 and degree == 2):
        raise NoValue
    whole = math.isqrt if degree == 2 else _cube_root
    found = Fraction(whole(abs(value.numerator)), whole(value.denominator))
    if found**degree != abs(value):
        raise NoValue
    return found if value >= 0 else -found


def _cube_root(value: int) -> int:
    """The cube root of a cube by Newton's method, rounded down where there is none."""
    found = 1 << -(-value.bit_length() // 3)
    while found**3 > value:
        found = (2 * found + value // found**2) // 3
    return found
