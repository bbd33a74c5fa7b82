"""The statistics of counts: exact intervals and tests, percentiles, sample sizes. Pure, standard library only.

A count of duplicates is treated as Poisson; its interval is Garwood's (1936). Two counts are compared given their sum:
the first is then binomial (Przyborowski and Wilenski 1940), and the Clopper-Pearson (1934) interval of its share gives
the interval of the ratio. The incomplete gamma and beta functions are computed by the series and continued fractions
of Abramowitz and Stegun (6.5.29, 6.5.31, 26.5.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_TINY = 1e-300
_CLOSE = 1e-16
_MOST_TERMS = 100_000
_TIE = 1e-7  # outcomes as likely as the observed one, up to rounding, count as ties


# -- special functions


def gamma_cdf(shape: float, x: float) -> float:
    """The probability that a gamma variable of scale 1 is at most x: the regularised lower incomplete P(shape, x)."""
    if x <= 0.0:
        return 0.0
    return _gamma_series(shape, x) if x < shape + 1.0 else 1.0 - _gamma_fraction(shape, x)


def gamma_sf(shape: float, x: float) -> float:
    """The upper incomplete gamma function, Q = 1 - P, without the loss of digits of that difference."""
    if x <= 0.0:
        return 1.0
    return 1.0 - _gamma_series(shape, x) if x < shape + 1.0 else _gamma_fraction(shape, x)


def _gamma_series(shape: float, x: float) -> float:
    term = total = 1.0 / shape
    for n in range(1, _MOST_TERMS):
        term *= x / (shape + n)
        total += term
        if term < total * _CLOSE:
            break
    return total * math.exp(shape * math.log(x) - x - math.lgamma(shape))


def _gamma_fraction(shape: float, x: float) -> float:
    """Q by its continued fraction, evaluated by Lentz's method."""
    b = x + 1.0 - shape
    c, d = 1.0 / _TINY, 1.0 / b
    total = d
    for n in range(1, _MOST_TERMS):
        numerator = -n * (n - shape)
        b += 2.0
        d = 1.0 / _not_zero(numerator * d + b)
        c = _not_zero(b + numerator / c)
        total *= d * c
        if abs(d * c - 1.0) < _CLOSE * 10:
            break
    return total * math.exp(shape * math.log(x) - x - math.lgamma(shape))


def beta_cdf(a: float, b: float, x: float) -> float:
    """The probability that a beta variable is at most x: the regularised incomplete beta function I_x(a, b)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta)
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, 1.0 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    total = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d = 1.0 / _not_zero(1.0 + numerator * d)
            c = _not_zero(1.0 + numerator / c)
            total *= d * c
        if abs(d * c - 1.0) < _CLOSE * 10:
            break
    return total


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _root(below: Callable[[float], bool], low: float, high: float) -> float:
    """The point where a monotone condition changes from true to false, by bisection to the last bit."""
    while True:
        middle = (low + high) / 2.0
        if not low < middle < high:
            return middle
        if below(middle):
            low = middle
        else:
            high = middle


def gamma_quantile(probability: float, shape: float) -> float:
    """The x at which gamma_cdf(shape, x) is the probability."""
    high = shape + 1.0
    while gamma_cdf(shape, high) < probability:
        high *= 2.0
    return _root(lambda x: gamma_cdf(shape, x) < probability, 0.0, high)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x at which beta_cdf(a, b, x) is the probability."""
    return _root(lambda x: beta_cdf(a, b, x) < probability, 0.0, 1.0)


# -- intervals and tests


def poisson_interval(count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Garwood's exact interval of the mean of a Poisson count."""
    tail = (1.0 - confidence) / 2.0
    low = gamma_quantile(tail, count) if count else 0.0
    return low, gamma_quantile(1.0 - tail, count + 1.0)


def binomial_interval(count: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact Clopper-Pearson interval of a share."""
    tail = (1.0 - confidence) / 2.0
    low = beta_quantile(tail, count, trials - count + 1) if count else 0.0
    high = beta_quantile(1.0 - tail, count + 1, trials - count) if count < trials else 1.0
    return low, high


def binomial_test(count: int, trials: int, share: float) -> float:
    """The exact two-sided p: the probability of all outcomes that are no likelier than the observed one."""
    if not 0 <= count <= trials or not 0.0 < share < 1.0:
        raise ValueError("expected a count of at most `trials`, and a share between 0 and 1")
    logs = [_log_binomial(k, trials, share) for k in range(trials + 1)]
    most = logs[count] + math.log1p(_TIE)
    return min(1.0, math.fsum(math.exp(value) for value in logs if value <= most))


def _log_binomial(count: int, trials: int, share: float) -> float:
    ways = math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
    return ways + count * math.log(share) + (trials - count) * math.log1p(-share)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two rates: their ratio (None if the second count is 0), its interval, and the p of "they are equal"."""

    ratio: float | None
    low: float
    high: float
    p: float


def compare(count_a: int, size_a: int, count_b: int, size_b: int, confidence: float = 0.95) -> Comparison | None:
    """Rate a against rate b, given the sum of the counts; None if there are no counts or no sizes.

    The interval ends at infinity if the second count is 0.
    """
    trials = count_a + count_b
    if not trials or not size_a or not size_b:
        return None
    p = binomial_test(count_a, trials, size_a / (size_a + size_b))
    low, high = (
        math.inf if share >= 1.0 else share / (1.0 - share) * size_b / size_a
        for share in binomial_interval(count_a, trials, confidence)
    )
    return Comparison(count_a / size_a / (count_b / size_b) if count_b else None, low, high, p)


@dataclass(frozen=True, slots=True)
class Dispersion:
    """How much the counts of blocks vary: variance over mean, 1 for Poisson counts, and the p of "no more"."""

    index: float
    p: float


def dispersion(counts: Sequence[int], sizes: Sequence[int]) -> Dispersion | None:
    """Pearson's chi-squared of block counts against one rate; None for fewer than two blocks or without a count."""
    total, messages = sum(counts), sum(sizes)
    if len(counts) < 2 or not total or min(sizes) <= 0:
        return None
    means = [total * size / messages for size in sizes]
    squares = math.fsum((count - mean) ** 2 / mean for count, mean in zip(counts, means, strict=True))
    degrees = len(counts) - 1
    return Dispersion(squares / degrees, gamma_sf(degrees / 2.0, squares / 2.0))


def percentile(ordered: Sequence[float], share: float) -> float:
    """A percentile of sorted values, linear between the two nearest (Hyndman and Fan's type 7)."""
    if not ordered:
        raise ValueError("no values")
    at = (len(ordered) - 1) * share
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


# -- sample size


def power(mean_a: float, mean_b: float, alpha: float = 0.05) -> float:
    """The probability that the two-sided exact test finds Poisson counts of these means, and equal sizes, to differ."""
    mean, share = mean_a + mean_b, mean_a / (mean_a + mean_b)
    spread = 9.0 * math.sqrt(mean) + 20.0
    found, critical = [], -1
    for total in range(max(1, math.floor(mean - spread)), math.ceil(mean + spread) + 1):
        critical = _critical(total, critical, alpha)
        if critical >= 0:
            weight = math.exp(total * math.log(mean) - mean - math.lgamma(total + 1))
            found.append(weight * (_at_most(critical, total, share) + _at_most(critical, total, 1.0 - share)))
    return min(1.0, math.fsum(found))


def _critical(total: int, start: int, alpha: float) -> int:
    """The largest count that, like its mirror image, rejects equal rates; -1 if there is none.

    It never falls as the total grows, so the search continues from the previous one.
    """
    critical = start
    while 2 * critical + 2 < total and 2.0 * _at_most(critical + 1, total, 0.5) <= alpha:
        critical += 1
    return critical


def _at_most(count: int, trials: int, share: float) -> float:
    """The probability of at most `count` successes."""
    return 1.0 if count >= trials else beta_cdf(trials - count, count + 1, 1.0 - share)


def messages_needed(rate: float, ratio: float, wanted: float = 0.8, alpha: float = 0.05) -> int:
    """The messages per arm at which the test has the power `wanted`, for the rates `rate` and `ratio` × `rate`."""
    rates = 0.0 < rate < 1.0 and 0.0 < rate * ratio < 1.0
    if not (rates and ratio != 1.0 and 0.0 < wanted < 1.0 and 0.0 < alpha < 1.0):
        raise ValueError("expected two rates, a power and an alpha between 0 and 1, and a ratio above 0 that is not 1")

    def too_few(mean: float) -> bool:
        return power(mean * ratio, mean, alpha) < wanted

    high = 1.0
    while too_few(high):
        high *= 2.0
    low = 0.0
    while high - low > 1e-4 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if too_few(middle) else (low, middle)
    return math.ceil(high / rate)
