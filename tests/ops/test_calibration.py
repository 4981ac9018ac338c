import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from rlhf.ops.calibration import (
    best_temperature,
    expected_calibration_error,
    pair_confidence,
    reliability_curve,
    tie_auc,
)


def planted_margins(count, temperature, seed=0):
    """Better less worse, of pairs whose true margin is that over ``temperature``."""
    rng = torch.Generator().manual_seed(seed)
    true = 2 * torch.randn(count, generator=rng, dtype=torch.float64)
    won = torch.rand(count, generator=rng, dtype=torch.float64) < torch.sigmoid(true)
    return temperature * torch.where(won, true, -true)


def test_confidence_is_that_of_the_favourite():
    confidence, right = pair_confidence(torch.tensor([math.log(3.0), -math.log(4.0), 0.0]))
    assert confidence.tolist() == pytest.approx([0.75, 0.8, 0.5])
    assert right.tolist() == [1, 0, 0.5]


def test_reliability_curve_by_hand():
    # Sorted: .1 .2 | .4 .6 | .9, with outcomes 0 1 | 0 1 | 1.
    probabilities = torch.tensor([0.9, 0.1, 0.4, 0.2, 0.6])
    outcomes = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    curve = reliability_curve(probabilities, outcomes, bins=3)
    assert curve.flatten().tolist() == pytest.approx([0.15, 0.5, 2, 0.5, 0.5, 2, 0.9, 1, 1])
    # Distances .35, 0 and .1 of 2, 2 and 1 pairs.
    assert expected_calibration_error(curve) == pytest.approx(0.16)


def test_too_high_and_too_low_do_not_cancel():
    curve = torch.tensor([[0.2, 0.5, 2.0], [0.9, 0.7, 6.0]])
    # Distances .3 and .2 of 2 and 6 pairs.
    assert expected_calibration_error(curve) == pytest.approx(1.8 / 8)


def test_equal_probabilities_share_their_outcomes():
    probabilities = torch.full((4,), 0.5)
    for outcomes in ([1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]):
        curve = reliability_curve(probabilities, torch.tensor(outcomes), bins=2)
        assert curve.tolist() == [[0.5, 0.5, 2], [0.5, 0.5, 2]]


def test_a_curve_of_few_or_no_pairs():
    assert len(reliability_curve(torch.tensor([0.5, 0.7]), torch.ones(2))) == 2
    empty = reliability_curve(torch.zeros(0), torch.zeros(0))
    assert empty.shape == (0, 3)
    assert math.isnan(expected_calibration_error(empty))


def test_calibration_error_sees_what_is_too_sure():
    errors = []
    for temperature in (1.0, 3.0):
        curve = reliability_curve(*pair_confidence(planted_margins(20000, temperature)))
        assert curve[:, 2].tolist() == [2000.0] * 10
        errors.append(expected_calibration_error(curve))
    assert errors[0] < 0.01
    assert errors[1] > 0.1


@pytest.mark.parametrize("temperature", [0.25, 1.0, 5.0])
def test_a_planted_temperature_comes_back(temperature):
    found = best_temperature(planted_margins(20000, temperature))
    assert found == pytest.approx(temperature, rel=0.03)


def test_the_temperature_of_three_margins_by_hand():
    # Margins 1, 1, -1: the best sigmoid(1 / T) is 2/3, so 1 / T = log 2.
    found = best_temperature(torch.tensor([1.0, 1.0, -1.0]))
    assert found == pytest.approx(1 / math.log(2), rel=1e-12)
    # Ties of the scores change nothing.
    assert best_temperature(torch.tensor([1.0, 0.0, 1.0, -1.0])) == pytest.approx(found, rel=1e-12)


@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
def test_no_other_temperature_does_better(scale, seed):
    margins = scale * planted_margins(200, 1.0, seed)
    found = best_temperature(margins)
    losses = [
        F.softplus(-margins / t).mean().item() for t in (found, 0.99 * found, 1.01 * found, scale)
    ]
    assert losses[0] == min(losses)


def test_temperatures_at_the_ends():
    assert best_temperature(torch.tensor([1.0, 2.0, 0.0])) == 0
    assert best_temperature(torch.tensor([1.0, -2.0])) == math.inf
    assert best_temperature(torch.zeros(3)) == math.inf
    assert math.isnan(best_temperature(torch.zeros(0)))


def test_tie_auc_by_hand():
    # |tied| 1 and 3 against |strict| 2, 3, 4: 3 of 3 larger, then 1 larger and 1 equal.
    auc = tie_auc(torch.tensor([-1.0, 3.0]), torch.tensor([4.0, -2.0, 3.0]))
    assert auc == pytest.approx((3 + 1.5) / 6)


def test_tie_auc_at_the_ends():
    small, large = torch.tensor([0.1, -0.2]), torch.tensor([3.0, -2.0, 1.0])
    assert tie_auc(small, large) == 1
    assert tie_auc(large, small) == 0
    assert tie_auc(torch.ones(3), -torch.ones(2)) == 0.5
    assert math.isnan(tie_auc(torch.zeros(0), large))
    assert math.isnan(tie_auc(small, torch.zeros(0)))


@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=9),
    st.lists(st.integers(-4, 4), min_size=1, max_size=9),
)
def test_tie_auc_equals_the_slow_count(tied, strict):
    points = [(abs(t) < abs(s)) + 0.5 * (abs(t) == abs(s)) for t in tied for s in strict]
    found = tie_auc(torch.tensor(tied), torch.tensor(strict))
    assert found == pytest.approx(sum(points) / len(points), rel=1e-12)
