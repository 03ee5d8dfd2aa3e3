"""Intervals and tests, against enumeration and published values."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.grading.significance import (
    _t_95,
    clustered_interval,
    mcnemar_exact,
    paired_interval,
    pass_at_k,
    sign_flip_test,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)],
)
def test_wilson_intervals_of_the_literature(successes, total, low, high):
    """The last two are Newcombe 1998 (Statistics in Medicine 17), table I, method 3."""
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_the_score_equation(case):
    """Its ends are where |share - p| = z sqrt(p (1 - p) / n)."""
    successes, total = case
    for end in wilson_interval(successes, total):
        if 1e-9 < end < 1 - 1e-9:  # else it is an end of the scale, but for rounding
            distance = abs(successes / total - end) / math.sqrt(end * (1 - end) / total)
            assert distance == pytest.approx(1.959963984540054, rel=1e-6)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (1, 1), (0, 5), (2, 7), (7, 2), (4, 4)])
def test_mcnemar_counts_outcomes_as_uneven_as_the_one_seen(first, second):
    n = first + second
    uneven = [sum(coins) for coins in itertools.product((0, 1), repeat=n)]
    as_extreme = [ones for ones in uneven if abs(2 * ones - n) >= abs(first - second)]
    assert mcnemar_exact(first, second) == pytest.approx(len(as_extreme) / 2**n)


def test_mcnemar_of_many_pairs_does_not_overflow():
    assert 0 < mcnemar_exact(900, 1100) < 1e-4
    assert mcnemar_exact(0, 2000) == pytest.approx(2.0 * 0.5**2000, abs=1e-300)


@pytest.mark.parametrize(("n", "c", "k"), [(1, 0, 1), (1, 1, 1), (5, 2, 1), (5, 2, 3), (5, 4, 2), (6, 6, 3)])
def test_pass_at_k_counts_the_subsets_with_a_right_answer(n, c, k):
    answers = [True] * c + [False] * (n - c)
    subsets = list(itertools.combinations(answers, k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(
    ("df", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (120, 1.9799)]
)
def test_quantiles_of_students_table(df, quantile):
    """Abramowitz and Stegun 1964, table 26.10."""
    assert _t_95(df) == pytest.approx(quantile, rel={1: 1e-5, 2: 2e-5, 3: 1.2e-3}.get(df, 2e-4))


@pytest.mark.parametrize("total", [1, 3, 10, 263])
def test_wilson_ends_are_exact_where_none_or_all_succeed(total):
    assert wilson_interval(0, total)[0] == 0.0
    assert wilson_interval(total, total)[1] == 1.0


def test_an_interval_is_the_t_interval_with_one_more_prompt_at_each_end():
    shares, differences = [0.0, 0.5, 1.0, 1.0], [0.5, -0.5, 1.0, 0.0]
    for interval, values, ends in (
        (clustered_interval, shares, [0.0, 1.0]),
        (paired_interval, differences, [-1.0, 1.0]),
    ):
        more = values + ends
        error = 2.5706 * statistics.stdev(more) / math.sqrt(6)
        mean = statistics.fmean(more)
        expected = (max(ends[0], mean - error), min(ends[1], mean + error))
        assert interval(values) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("shares", "low", "high"), [([0.0] * 10, 0.0, 0.2775), ([1.0] * 10, 0.7225, 1.0)])
def test_prompts_that_all_agree_leave_doubt_all_the_same(shares, low, high):
    assert clustered_interval(shares) == pytest.approx((low, high), abs=5e-5)


def test_few_pairs_leave_much_doubt():
    low, high = paired_interval([1.0] * 5)
    assert low < 0.1
    assert high == 1.0
    assert paired_interval([0.0] * 10)[1] > 0.2
    assert paired_interval([1.0]) == paired_interval([]) == (-1.0, 1.0)


RATES = (0.0, 0.002, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


@pytest.mark.parametrize("num_prompts", [5, 10, 20, 50, 200])
def test_the_interval_of_pairs_covers_the_difference(num_prompts):
    """Every outcome with its multinomial probability: how often the true difference lies in its interval."""
    n = num_prompts
    outcomes = [(gained, lost) for gained in range(n + 1) for lost in range(n + 1 - gained)]
    ends = np.array([paired_interval([1.0] * g + [-1.0] * k + [0.0] * (n - g - k)) for g, k in outcomes])
    gained, lost = np.array(outcomes).T
    log_factorial = np.cumsum([0.0, *np.log(np.arange(1, n + 1))])
    ways = log_factorial[n] - log_factorial[gained] - log_factorial[lost] - log_factorial[n - gained - lost]
    for gain, loss in itertools.product(RATES, RATES):
        if gain + loss > 1 or gain < loss:  # the interval is symmetric
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log([gain, loss, max(0.0, 1 - gain - loss)])
            counts = np.array([gained, lost, n - gained - lost])
            terms = np.where(counts == 0, 0.0, counts * logs[:, None]).sum(axis=0)
        weights = np.exp(ways + terms)
        covered = (ends[:, 0] <= gain - loss + 1e-9) & (gain - loss - 1e-9 <= ends[:, 1])
        assert weights.sum() == pytest.approx(1.0)
        assert weights[covered].sum() >= 0.937, (gain, loss)


@pytest.mark.parametrize("num_prompts", [5, 20, 50])
@pytest.mark.parametrize("num_samples", [2, 16])
def test_the_interval_of_several_samples_covers_the_accuracy(num_prompts, num_samples):
    """Simulated prompts whose chances of a right answer follow a beta distribution, or are all equal."""
    generator = np.random.default_rng(0)
    for mean, concentration in itertools.product((0.02, 0.05, 0.1, 0.3, 0.5), (0.05, 1.0, None)):
        shape = (1000, num_prompts)
        chances = np.full(shape, mean)
        if concentration is not None:
            chances = generator.beta(mean * concentration, (1 - mean) * concentration, shape)
        shares = generator.binomial(num_samples, chances) / num_samples
        ends = [clustered_interval(row) for row in shares.tolist()]
        covered = sum(low <= mean <= high for low, high in ends) / len(ends)
        assert covered >= 0.92, (mean, concentration)  # 0.94 less three standard errors


@pytest.mark.parametrize("differences", [[1.0] * 5, [0.5, -0.25, 0.75, 0.0, 0.5], [1.0, -1.0]])
def test_the_sign_flip_test_approaches_the_enumeration(differences):
    signs = list(itertools.product((1, -1), repeat=len(differences)))
    totals = [abs(sum(s * d for s, d in zip(row, differences, strict=True))) for row in signs]
    exact = sum(total >= abs(sum(differences)) - 1e-9 for total in totals) / len(signs)
    assert sign_flip_test(differences) == pytest.approx(exact, abs=0.02)
    assert sign_flip_test(differences) == sign_flip_test(differences)


def test_no_difference_is_no_evidence():
    assert sign_flip_test([0.0, 0.0]) == 1.0
