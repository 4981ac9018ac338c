import math

import pytest
import torch

from rlhf.ops.metrics import (
    clustered_ratio_interval,
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
