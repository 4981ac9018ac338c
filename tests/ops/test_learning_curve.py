import math
import random

import pytest

from rlhf.ops.learning_curve import LearningCurve, fit_learning_curve

SIZES = [100, 200, 400, 800]


def test_an_exact_line_by_hand():
    # .02 per doubling; weights 1e4 at x = 0 1 2 3 less their mean: spread 1e4 * 5.
    curve = fit_learning_curve(SIZES, [0.60, 0.62, 0.64, 0.66], [0.01] * 4)
    assert curve.slope == pytest.approx(0.02)
    assert curve.slope_error == pytest.approx(0.01 / math.sqrt(5))
    assert curve.at_largest == pytest.approx(0.66)
    assert curve.largest == 800
    assert curve.misfit == pytest.approx(0.0, abs=1e-12)


def test_rankings_needed_by_hand():
    # .01 is half a doubling of 800: 800 (sqrt 2 - 1). Slope .02 +- .01: 1/3 and 1 doubling.
    curve = LearningCurve(slope=0.02, slope_error=0.005, at_largest=0.66, largest=800, misfit=1.0)
    needed = curve.rankings_needed(z=2.0)
    expected = (800 * (2**0.5 - 1), 800 * (2 ** (1 / 3) - 1), 800.0)
    assert needed == pytest.approx(expected)
    assert curve.rankings_needed(0.02, z=2.0) == pytest.approx(
        (800, 800 * (2 ** (2 / 3) - 1), 2400)
    )


@pytest.mark.parametrize(("slope", "error"), [(0.02, 0.011), (0.0, 0.0), (-0.1, 0.01)])
def test_no_forecast_from_a_slope_that_is_not_clearly_positive(slope, error):
    curve = LearningCurve(slope, error, at_largest=0.6, largest=800, misfit=1.0)
    assert curve.rankings_needed() is None


def test_a_slope_of_almost_nothing_needs_more_than_floats_hold():
    curve = LearningCurve(1e-9, 1e-10, at_largest=0.6, largest=800, misfit=1.0)
    assert curve.rankings_needed() == (math.inf, math.inf, math.inf)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_sizes_give_no_slope(count):
    curve = fit_learning_curve(SIZES[:count], [0.6, 0.7][:count], [0.01] * count)
    assert math.isnan(curve.slope)
    assert curve.rankings_needed() is None
    # Repeats of two sizes say no more about the shape.
    again = fit_learning_curve([100, 100, 200], [0.6, 0.6, 0.7], [0.01] * 3)
    assert again.rankings_needed() is None


def test_points_off_the_line_widen_the_error():
    # Residuals of .6 .66 .6 .66 about the line .612 + .012 x: squares sum to .00288.
    curve = fit_learning_curve(SIZES, [0.60, 0.66, 0.60, 0.66], [0.001] * 4)
    assert curve.misfit == pytest.approx(0.00288 / 0.001**2 / 2)
    assert curve.slope_error == pytest.approx(math.sqrt(0.00144 / 5))
    assert curve.rankings_needed() is None


def test_precise_points_count_for_more():
    # The first point is worth nothing: the line through the other three.
    curve = fit_learning_curve(SIZES, [0.9, 0.62, 0.64, 0.66], [100.0, 0.01, 0.01, 0.01])
    assert curve.slope == pytest.approx(0.02, rel=1e-4)


def test_the_interval_holds_the_planted_slope_19_times_in_20():
    rng, inside = random.Random(0), 0
    for _ in range(400):
        accuracies = [0.6 + 0.015 * k + rng.gauss(0, 0.01) for k in range(6)]
        curve = fit_learning_curve([100 * 2**k for k in range(6)], accuracies, [0.01] * 6)
        inside += abs(curve.slope - 0.015) < 1.96 * curve.slope_error
    # Inflation can only widen: at least 95 % less two standard errors of 400 trials.
    assert inside / 400 > 0.93
