"""The statistics against scipy, to 1e-9, and against what is known of them.

scipy takes half a second to import, so only the tests that compare with it import it.
"""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqstee.measure import statistics as own

counts = st.integers(0, 2000)
confidences = st.sampled_from([0.8, 0.9, 0.95, 0.99, 0.999])


def close(value: float) -> object:
    """Equal to 1e-9 of the value."""
    return pytest.approx(value, rel=1e-9, abs=1e-15)


@given(st.floats(0.05, 5000), st.floats(0.0, 3.0))
def test_incomplete_gamma(shape: float, factor: float) -> None:
    """Both tails, far below and far above the mean."""
    from scipy import special

    x = shape * factor
    assert own.gamma_cdf(shape, x) == pytest.approx(special.gammainc(shape, x), rel=1e-9, abs=1e-12)
    assert own.gamma_sf(shape, x) == pytest.approx(special.gammaincc(shape, x), rel=1e-9, abs=1e-12)


@given(st.floats(0.5, 3000), st.floats(0.5, 3000), st.floats(0.0, 1.0))
def test_incomplete_beta(a: float, b: float, x: float) -> None:
    """Over the whole interval, its ends included."""
    from scipy import special

    assert own.beta_cdf(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-9, abs=1e-12)


@given(counts, confidences)
def test_poisson_intervals_are_garwoods(count: int, confidence: float) -> None:
    """The chi-squared form of the textbooks."""
    from scipy import stats

    low, high = own.poisson_interval(count, confidence)
    tail = (1 - confidence) / 2
    assert low == close(stats.chi2.ppf(tail, 2 * count) / 2 if count else 0.0)
    assert high == close(stats.chi2.ppf(1 - tail, 2 * count + 2) / 2)


@given(counts, counts, confidences)
def test_binomial_intervals_are_clopper_pearsons(count: int, rest: int, confidence: float) -> None:
    """The form with beta quantiles; scipy's own proportion_ci looks for them by a root-finder, and ends 1e-9 away."""
    from scipy import stats

    if count + rest == 0:
        return
    tail = (1 - confidence) / 2
    low, high = own.binomial_interval(count, count + rest, confidence)
    assert low == close(stats.beta.ppf(tail, count, rest + 1) if count else 0.0)
    assert high == close(stats.beta.ppf(1 - tail, count + 1, rest) if rest else 1.0)


@given(counts, counts, st.sampled_from([0.5, 0.25, 1 / 3, 0.9, 0.123456]))
def test_the_binomial_test_is_exact(count: int, rest: int, share: float) -> None:
    """Two-sided, by outcomes no likelier than the observed one."""
    from scipy import stats

    if count + rest == 0:
        return
    expected = stats.binomtest(count, count + rest, share).pvalue
    assert own.binomial_test(count, count + rest, share) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_percentiles(values: list[float], share: float) -> None:
    """As numpy's and scipy's default."""
    from scipy import stats

    expected = stats.scoreatpercentile(values, share * 100)
    assert own.percentile(sorted(values), share) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=20))
def test_dispersion_is_pearsons(found: list[int]) -> None:
    """Blocks of equal sizes against one rate."""
    from scipy import stats

    result = own.dispersion(found, [1000] * len(found))
    if not sum(found):
        assert result is None
        return
    expected = stats.chisquare(found)
    assert result
    assert result.index == close(expected.statistic / (len(found) - 1))
    assert result.p == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)


def test_the_originals_figures() -> None:
    """29 against 6 of 300,000 messages each, and 10 against 3 of 100,000."""
    from scipy import stats

    found = own.compare(29, 300_000, 6, 300_000)
    assert found
    assert found.p == close(stats.binomtest(29, 35).pvalue)
    assert round(found.p, 5) == 0.00012
    assert (round(found.ratio or 0, 1), round(found.low, 1), round(found.high)) == (4.8, 2.0, 14)
    fewer = own.compare(10, 100_000, 3, 100_000)
    assert fewer
    assert round(fewer.p, 2) == 0.09


def test_a_comparison_without_counts_says_so() -> None:
    """No count, no comparison; a second count of 0 has a ratio without an upper end."""
    from scipy import stats

    assert own.compare(0, 100, 0, 100) is None
    assert own.compare(1, 100, 0, 0) is None
    found = own.compare(5, 100, 0, 100)
    assert found
    assert (found.ratio, found.high) == (None, math.inf)
    share = stats.binomtest(5, 5).proportion_ci().low
    assert found.low == close(share / (1 - share))


def test_unequal_arms_are_compared_by_their_sizes() -> None:
    """Twice the messages and twice the count: a ratio of 1, and no sign of a difference."""
    found = own.compare(40, 200_000, 20, 100_000)
    assert found
    assert (found.ratio, found.p) == (close(1.0), close(1.0))


@pytest.mark.parametrize(("mean_a", "mean_b"), [(8.0, 4.0), (50.0, 25.0), (25.0, 50.0), (30.0, 30.0), (400.0, 340.0)])
def test_power_is_the_exact_tests_own(mean_a: float, mean_b: float) -> None:
    """Summed over all pairs of counts, with scipy's test for each sum."""
    from scipy import stats

    mean = mean_a + mean_b
    expected = 0.0
    for total in range(1, int(mean + 12 * math.sqrt(mean)) + 20):
        lower = stats.binom.cdf(range(total + 1), total, 0.5)
        rejected = [k for k in range(total + 1) if 2 * min(lower[k], lower[total - k]) <= 0.05]
        expected += stats.poisson.pmf(total, mean) * stats.binom.pmf(rejected, total, mean_a / mean).sum()
    assert own.power(mean_a, mean_b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("ratio", [2.0, 0.5, 5.0, 1.3])
def test_the_planned_size_has_the_power(ratio: float) -> None:
    """Just enough: 5 % fewer messages have less."""
    rate = 20e-6
    size = own.messages_needed(rate, ratio, 0.8)
    assert 0.799 < own.power(size * rate * ratio, size * rate) < 0.81
    assert own.power(0.95 * size * rate * ratio, 0.95 * size * rate) < 0.8


def test_the_planned_size_finds_the_difference() -> None:
    """Played a thousand times with seeded counts, the test says "different" in about 800 of them."""
    rng = random.Random(1)
    mean = own.messages_needed(20e-6, 3.0, 0.8) * 20e-6
    found = 0
    for _ in range(1000):
        a, b = (sum(rng.random() < expected / 1000 for _ in range(1000)) for expected in (3 * mean, mean))
        found += bool(a + b) and own.binomial_test(a, a + b, 0.5) <= 0.05
    assert 760 < found < 850


@pytest.mark.parametrize(
    "wrong", [(0.0, 2.0, 0.8), (1e-5, 1.0, 0.8), (1e-5, -2.0, 0.8), (1e-5, 2.0, 1.0), (0.1, 11.0, 0.8)]
)
def test_a_plan_needs_a_difference_to_find(wrong: tuple[float, float, float]) -> None:
    """Out of range is an error, not an endless search."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        own.messages_needed(*wrong)
