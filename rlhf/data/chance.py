"""How likely chance alone is: the chi-square test, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

_TINY = 1e-300
_PRECISION = 1e-14
_MAX_TERMS = 100_000


def chi_square(counts: Sequence[int]) -> float:
    """Pearson's statistic of counts that should be equal; NaN where nothing was counted."""
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected if expected else math.nan


def chi_square_p(statistic: float, df: int) -> float:
    """Probability of a statistic at least as large, of chi-square with ``df`` degrees of freedom.

    Source: Abramowitz and Stegun 1964, 26.4.19: the regularised upper incomplete gamma function
    of df / 2 and half the statistic.
    """
    if df < 1 or math.isnan(statistic):
        return math.nan
    return upper_gamma(df / 2, statistic / 2)


def upper_gamma(a: float, x: float) -> float:
    """Regularised upper incomplete gamma function, Q(a, x).

    Source: Press et al. 2007, "Numerical recipes", section 6.2: the series for small x, else the
    continued fraction by Lentz's method.
    """
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    return 1.0 - scale * _series(a, x) if x < a + 1 else scale * _fraction(a, x)


def _series(a: float, x: float) -> float:
    term = total = 1 / a
    for n in range(1, _MAX_TERMS):
        term *= x / (a + n)
        total += term
        if term < total * _PRECISION:
            break
    return total


def _fraction(a: float, x: float) -> float:
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    fraction = d
    for n in range(1, _MAX_TERMS):
        factor = -n * (n - a)
        b += 2
        d = 1 / _nonzero(factor * d + b)
        c = _nonzero(b + factor / c)
        fraction *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return fraction


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
