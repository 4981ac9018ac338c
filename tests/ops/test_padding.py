"""What stands at padding, and how much of it, changes nothing: every op that takes a mask."""

import math

import pytest
import torch
from torch.nn import functional as F

from rlhf.ops.losses import clipped_policy_loss, clipped_value_loss
from rlhf.ops.losses import truncated_importance_weights as importance_weights
from rlhf.ops.masking import length_mask, masked_mean, masked_sum, masked_variance, whiten
from rlhf.ops.metrics import explained_variance
from rlhf.ops.ranking import bradley_terry_loss
from rlhf.ops.returns import gae, shape_rewards

MASK = length_mask(torch.tensor([5, 1, 3, 4]), 5)
SCORES = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)


def policy_loss(a, b, c, mask):
    """The masked sum as a micro-batch takes it, with its gradient."""
    a = a.clone().requires_grad_()
    weights = importance_weights(b, c, cap=2.0)
    loss = clipped_policy_loss(a, b, c, cliprange=0.2, cliprange_high=0.3, dual_clip=3.0)
    total = masked_sum(loss * weights, mask).sum()
    total.backward()
    return total.detach(), a.grad


def value_loss(a, b, c, mask):
    a = a.clone().requires_grad_()
    total = masked_sum(clipped_value_loss(a, b, c, cliprange_value=0.2), mask).sum()
    total.backward()
    return total.detach(), a.grad


OPS = {
    "masked_mean": lambda a, b, c, mask: (masked_mean(a, mask),),
    "masked_sum": lambda a, b, c, mask: (masked_sum(a, mask),),
    "masked_variance": lambda a, b, c, mask: (masked_variance(a, mask),),
    "whiten": lambda a, b, c, mask: (whiten(a, mask),),
    "explained_variance": lambda a, b, c, mask: (explained_variance(a, b, mask),),
    "shape_rewards": lambda a, b, c, mask: (shape_rewards(SCORES, a, mask, kl_coef=0.1),),
    "gae": lambda a, b, c, mask: gae(a, b, mask, gamma=0.9, lam=0.8),
    "gae_two_lambdas": lambda a, b, c, mask: gae(a, b, mask, gamma=0.9, lam=0.8, lam_value=1.0),
    "policy_loss": policy_loss,
    "value_loss": value_loss,
}
LOSSES = ("policy_loss", "value_loss")
"""Token by token; their caller masks them, so padding must be finite."""


def inputs():
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(4, 5, generator=rng, dtype=torch.float64) for _ in range(3)]


FINITE = [(name, junk) for name in OPS for junk in (7.0, -1e6)]
WILD = [(name, junk) for name in OPS if name not in LOSSES for junk in (math.inf, math.nan)]


@pytest.mark.parametrize(("name", "junk"), FINITE + WILD)
def test_what_padding_holds_changes_not_a_bit(name, junk):
    clean = inputs()
    dirty = [x.masked_fill(~MASK, junk) for x in clean]
    for one, other in zip(OPS[name](*clean, MASK), OPS[name](*dirty, MASK), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", OPS)
def test_more_padding_changes_nothing(name):
    clean = inputs()
    wide = [F.pad(x, (0, 3), value=9.0) for x in clean]
    short, long = OPS[name](*clean, MASK), OPS[name](*wide, F.pad(MASK, (0, 3)))
    for one, other in zip(short, long, strict=True):
        if one.dim() == 2:
            assert (other[:, 5:] == 0).all()
            other = other[:, :5]
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-14)


def test_unranked_columns_change_no_ranking():
    scores, ranks = inputs()[0], torch.tensor([[1, 2, 3, 4, 5]] * 3 + [[1, 1, 2, 0, 0]])
    loss, counts = bradley_terry_loss(scores, ranks)
    wide, same = bradley_terry_loss(F.pad(scores, (0, 2), value=float("nan")), F.pad(ranks, (0, 2)))
    torch.testing.assert_close(wide, loss, rtol=1e-12, atol=0)
    assert torch.equal(counts, same)
