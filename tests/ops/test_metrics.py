import math
import statistics

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.metrics import (
    clustered_ratio_interval,
    correlation,
    distinct_pairs,
    explained_variance,
    mean_interval,
    pair_outcomes,
)


def test_pair_outcomes_count_ties_in_score_half():
    # Ranks 1 2 3 and one unranked: pairs (0,1) right, (0,2) tied score, (1,2) wrong.
    scores = torch.tensor([2.0, 1.0, 2.0, 9.0])
    assert pair_outcomes(scores, torch.tensor([1, 2, 3, 0])) == (3, 1.5)


def test_mean_interval_by_hand():
    # 0, 1, 1, 1: mean .75, sample variance .25, half width 1.96 * sqrt(.25 / 4) = .49.
    assert mean_interval([0.0, 1.0, 1.0, 1.0]) == pytest.approx((0.75, 0.26, 1.24))
    assert all(math.isnan(x) for x in mean_interval([]))


def test_ratio_interval_takes_prompts_as_units():
    # Two prompts, 3 of 4 and 1 of 4 right: ratio .5, residuals +-1, variance
    # (1 + 1) * 2 / 1 = 4, half width 1.96 * 2 / 8.
    assert clustered_ratio_interval([3.0, 1.0], [4.0, 4.0]) == pytest.approx((0.5, 0.01, 0.99))


def test_explained_variance():
    mask = torch.tensor([[True, True, False]])
    returns = torch.tensor([[1.0, 3.0, 99.0]])
    assert explained_variance(returns, returns, mask).item() == 1
    # Values off by +1 and -1: residual variance 1 of 1.
    values = torch.tensor([[2.0, 2.0, -5.0]])
    assert explained_variance(values, returns, mask).item() == 0


def test_explained_variance_of_constant_returns_is_0():
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert explained_variance(torch.randn(1, 3), torch.ones(1, 3), mask).item() == 0


def test_correlation_by_hand():
    # Deviations -1 0 1 and -1 1 0: 1 / (sqrt 2 * sqrt 2).
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4, 6, 5])
    assert correlation(x, y) == pytest.approx(0.5, rel=1e-12)
    assert correlation(x, -2 * x + 5) == pytest.approx(-1.0, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 9999), size=st.integers(2, 20), scale=st.floats(1e-3, 1e3))
def test_correlation_equals_that_of_the_standard_library(seed, size, scale):
    rng = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(size, generator=rng, dtype=torch.float64) for _ in range(2))
    expected = statistics.correlation(x.tolist(), y.tolist())
    assert correlation(scale * x, y) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(value=st.floats(-1e4, 1e4, width=32), size=st.integers(1, 9))
def test_correlation_with_a_constant_is_0(value, size):
    assert correlation(torch.full((size,), value), torch.arange(size)) == 0
    assert correlation(torch.arange(size), torch.full((size,), value)) == 0


def test_distinct_pairs_by_hand():
    # Pairs (1,2) (2,1) (1,2) and (1,2) (2,3): 3 distinct of 5; none across rows.
    assert distinct_pairs([[1, 2, 1, 2], [1, 2, 3]]) == pytest.approx(3 / 5)
    assert distinct_pairs([[7, 7, 7, 7, 7]]) == pytest.approx(1 / 4)
    assert distinct_pairs([[1, 2, 3]]) == 1
    assert distinct_pairs([[4], []]) == 1
    assert distinct_pairs([]) == 1


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=8), min_size=1, max_size=4))
def test_distinct_pairs_equal_the_slow_count(rows):
    assert distinct_pairs(rows) == reference.distinct_pairs(rows)
