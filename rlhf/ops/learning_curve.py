"""What more rankings would bring: a line through accuracies at growing numbers of rankings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Accuracy as a line in the logarithm of the number of rankings."""

    slope: float
    """Accuracy per doubling; NaN where it can't be told."""
    slope_error: float
    """Its standard error."""
    at_largest: float
    """Fitted accuracy at the largest number of rankings."""
    largest: float
    """That number."""
    misfit: float
    """Chi-square per degree of freedom; well above 1 where the points lie on no line."""

    def rankings_needed(
        self, gain: float = 0.01, *, z: float = 1.96
    ) -> tuple[float, float, float] | None:
        """Further rankings for a gain in accuracy over the fitted one at the largest number.

        The line knows nothing of a ceiling: far beyond the largest number it promises too much.

        Args:
            gain: In accuracy; 0.01 is one point.
            z: Standard errors to either side.

        Returns:
            ``(needed, low, high)`` from the slope and the ends of its interval, infinity where
            a float is too small; None where the interval of the slope reaches 0.
        """
        steep, flat = self.slope + z * self.slope_error, self.slope - z * self.slope_error
        if not flat > 0:
            return None
        return (
            self._further(gain / self.slope),
            self._further(gain / steep),
            self._further(gain / flat),
        )

    def _further(self, doublings: float) -> float:
        return self.largest * math.expm1(doublings * math.log(2.0)) if doublings < 900 else math.inf


def fit_learning_curve(
    sizes: Sequence[float], accuracies: Sequence[float], errors: Sequence[float]
) -> LearningCurve:
    """Fit ``accuracy = a + slope * log2(size)`` by least squares, weighted by known errors.

    The slope's error is that of independent points with the given errors, and larger by the root
    of the misfit where the points scatter more than that. Points measured on the same held-out
    prompts share part of their error, which moves the line more than it tilts it.

    Args:
        sizes: Numbers of rankings, more than 0.
        accuracies: One per size.
        errors: Their standard errors, more than 0.

    Returns:
        The line; all but ``largest`` NaN for fewer than three different sizes, whose scatter
        can't be seen.

    Source: Press et al., Numerical Recipes, 3rd ed., section 15.2.
    """
    if len(set(sizes)) < 3:
        nan = math.nan
        return LearningCurve(nan, nan, nan, max(sizes, default=nan), nan)
    x = [math.log2(size) for size in sizes]
    weights = [1.0 / error**2 for error in errors]
    points = list(zip(x, accuracies, weights, strict=True))
    total = sum(weights)
    mean_x = sum(u * w for u, _, w in points) / total
    mean_y = sum(v * w for _, v, w in points) / total
    spread = sum(w * (u - mean_x) ** 2 for u, _, w in points)
    slope = sum(w * (u - mean_x) * (v - mean_y) for u, v, w in points) / spread
    residuals = sum(w * (v - mean_y - slope * (u - mean_x)) ** 2 for u, v, w in points)
    misfit = residuals / (len(points) - 2)
    return LearningCurve(
        slope=slope,
        slope_error=math.sqrt(max(1.0, misfit) / spread),
        at_largest=mean_y + slope * (max(x) - mean_x),
        largest=max(sizes),
        misfit=misfit,
    )
