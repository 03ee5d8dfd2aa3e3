"""Exact arithmetic on fractions. The size of results is limited, so no operation takes long."""

from __future__ import annotations

import math
from fractions import Fraction

MAX_BITS = 20_000
"""Most bits in the numerator or the denominator of a result."""
MAX_FACTORIAL = 1000


class NoValue(Exception):
    """The expression has no value that we can compute, or its value is too large."""


def small(value: Fraction) -> Fraction:
    """`value` itself; raises NoValue if it is too large."""
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
        exponent = Fraction(2 + int(exponent) % 2) * (1 if exponent > 0 else -1)  # the base is 0, 1 or -1
    return Fraction(base ** int(exponent))


def factorial(value: Fraction) -> Fraction:
    """The factorial of a whole number; raises NoValue for any other number."""
    if value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise NoValue
    return small(Fraction(math.factorial(int(value))))


def binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= MAX_FACTORIAL:
        raise NoValue
    return small(Fraction(math.comb(int(n), int(k))))


def root(value: Fraction, degree: Fraction = Fraction(2)) -> Fraction:
    """The exact square root (`degree` 2) or cube root (3) of a fraction; raises NoValue if irrational."""
    if degree not in (2, 3) or (value < 0 and degree == 2):
        raise NoValue
    whole = math.isqrt if degree == 2 else _cube_root
    found = Fraction(whole(abs(value.numerator)), whole(value.denominator))
    if found**degree != abs(value):
        raise NoValue
    return found if value >= 0 else -found


def _cube_root(value: int) -> int:
    """The integer cube root by Newton's method, rounded down."""
    found = 1 << -(-value.bit_length() // 3)
    while found**3 > value:
        found = (2 * found + value // found**2) // 3
    return found
