import math
import statistics

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.metrics import (
    annotator_agreement,
    bootstrap_ratio_interval,
    bootstrap_ratio_intervals,
    clustered_ratio_interval,
    correlation,
    distinct_pairs,
    explained_variance,
    kendall_tau_b,
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


def test_bootstrap_of_a_known_distribution():
    # One of two prompts right: resamples have ratio 0, .5, 1 with chances 1/4, 1/2, 1/4.
    assert bootstrap_ratio_interval([0.0, 1.0], [1.0, 1.0]) == (0.5, 0.0, 1.0)
    assert bootstrap_ratio_interval([0.0, 1.0], [1.0, 1.0], level=0.4) == (0.5, 0.5, 0.5)


def test_bootstrap_agrees_with_the_linearised_interval_for_many_prompts():
    rng = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 10, (400,), generator=rng).double()
    right = (counts * torch.rand(400, generator=rng)).round()
    data = right.tolist(), counts.tolist()
    found, expected = bootstrap_ratio_interval(*data), clustered_ratio_interval(*data)
    assert found[0] == expected[0]
    width = expected[2] - expected[1]
    assert found[1:] == pytest.approx(expected[1:], abs=0.04 * width)
    assert found == bootstrap_ratio_interval(*data)
    assert found != bootstrap_ratio_interval(*data, seed=1)


def test_bootstrap_without_spread_or_data():
    assert all(math.isnan(x) for x in bootstrap_ratio_interval([], []))
    assert all(math.isnan(x) for x in bootstrap_ratio_interval([0.0], [0.0]))
    assert bootstrap_ratio_interval([1.0], [2.0]) == (0.5, -math.inf, math.inf)
    # Prompts without pairs do no harm.
    assert bootstrap_ratio_interval([1.0, 0.0], [1.0, 0.0]) == (1.0, 1.0, 1.0)


def test_kendall_tau_b_golden():
    # The example of scipy.stats.kendalltau, x as ranks: -0.47140452079103173, so its negative.
    scores = torch.tensor([1.0, 4.0, 7.0, 1.0, 0.0])
    ranks = torch.tensor([12, 2, 1, 12, 2])
    assert kendall_tau_b(scores, ranks) == pytest.approx(0.47140452079103173, rel=1e-12)


def test_kendall_tau_b_of_order_reverse_and_no_order():
    scores = torch.tensor([3.0, 2.0, 1.0, math.nan])
    assert kendall_tau_b(scores, torch.tensor([1, 2, 3, 0])) == pytest.approx(1)
    assert kendall_tau_b(scores, torch.tensor([5, 4, 2, 0])) == pytest.approx(-1)
    assert math.isnan(kendall_tau_b(scores, torch.tensor([1, 1, 1, 0])))
    assert math.isnan(kendall_tau_b(torch.zeros(3), torch.tensor([1, 2, 3])))
    assert math.isnan(kendall_tau_b(scores, torch.tensor([0, 0, 1, 0])))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), min_size=1, max_size=9))
def test_kendall_tau_b_equals_the_slow_count(rows):
    scores, ranks = (torch.tensor(column) for column in zip(*rows, strict=True))
    kept = [(score, -rank) for score, rank in rows if rank]
    expected = reference.kendall_tau_b([x for x, _ in kept], [y for _, y in kept])
    assert kendall_tau_b(scores.float(), ranks) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_annotator_agreement_by_hand():
    # Pair (0,1): 2 against 1 of m = 3, one of three comparisons agrees: 1.5 and .5.
    # Pairs (0,2) and (1,2): one annotator has a tie, the other two agree: 1 and 1 each.
    ranks = torch.tensor([[1, 2, 3], [1, 2, 2], [2, 1, 2]])
    assert annotator_agreement(ranks) == (3.5, 2.5)
    assert annotator_agreement(ranks[:1]) == (0.0, 0.0)
    assert annotator_agreement(torch.tensor([[1, 2, 0], [2, 0, 1]])) == (0.0, 0.0)


def test_annotator_agreement_of_two_counts_their_pairs():
    ranks = torch.tensor([[1, 2, 3, 4], [1, 2, 4, 3]])
    assert annotator_agreement(ranks) == (6.0, 5.0)
    assert annotator_agreement(ranks[[1, 0]][:, [3, 0, 2, 1]]) == (6.0, 5.0)


def test_annotators_who_guess_agree_in_half_of_the_pairs():
    rng = torch.Generator().manual_seed(0)
    outcomes = [
        annotator_agreement(torch.rand(3, 4, generator=rng).argsort(dim=1) + 1) for _ in range(400)
    ]
    comparisons, agreeing = zip(*outcomes, strict=True)
    agreement, low, high = clustered_ratio_interval(list(agreeing), list(comparisons))
    assert low < 0.5 < high
    assert agreement == pytest.approx(0.5, abs=0.03)


def test_ratios_resampled_together_equal_those_resampled_alone(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 4, (5, 30), generator=rng).double()
    points = (counts * torch.rand(5, 30, generator=rng)).round() - 1
    expected = [
        bootstrap_ratio_interval(top, bottom, resamples=301, level=0.9, seed=4)
        for top, bottom in zip(points.tolist(), counts.tolist(), strict=True)
    ]
    # 30 entries: all resamples at once, then 100 at a time, then one at a time.
    for draws in (1 << 22, 3000, 1):
        monkeypatch.setattr("rlhf.ops.metrics._DRAWS_AT_ONCE", draws)
        found = bootstrap_ratio_intervals(points, counts, resamples=301, level=0.9, seed=4)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_ratios_without_spread_or_data():
    nothing, one = torch.zeros(2, 3), torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    assert bootstrap_ratio_intervals(nothing, nothing).isnan().all()
    assert bootstrap_ratio_intervals(torch.zeros(2, 0), torch.zeros(2, 0)).isnan().all()
    assert bootstrap_ratio_intervals(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)
    first, second = bootstrap_ratio_intervals(0.5 * one, one)
    assert first.tolist() == [0.5, -math.inf, math.inf]
    assert second.isnan().all()
    # Entries without pairs do no harm.
    both = torch.tensor([[1.0, 0.0, 3.0]])
    assert bootstrap_ratio_intervals(both, both).tolist() == [[1.0, 1.0, 1.0]]
