import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    truncated_importance_weights,
)
from rlhf.ops.masking import length_mask, masked_mean, masked_sum

OLD = torch.tensor([-1.0, -2.0, -0.5, -1.5], dtype=torch.float64)
NEW = torch.tensor([-0.7, -2.5, -0.5, -3.0], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)


def test_policy_loss_golden():
    loss = clipped_policy_loss(NEW, OLD, ADVANTAGES, cliprange=0.2)
    # Ratios e^.3 (clipped to 1.2), e^-.5 (clipped to .8), 1, e^-1.5.
    expected = [-1.2, 0.8, -0.5, -2 * math.exp(-1.5)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_clip_higher_golden():
    # As above, the first ratio e^.3 clipped to 1.28.
    loss = clipped_policy_loss(NEW, OLD, ADVANTAGES, cliprange=0.2, cliprange_high=0.28)
    expected = [-1.28, 0.8, -0.5, -2 * math.exp(-1.5)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_dual_clip_golden():
    # Log ratio 2 and advantage -2: 2 e^2 = 14.78, at most 3 * 2. At log ratio 1 it is 2 e = 5.44.
    new, old, advantages = (
        torch.tensor(row, dtype=torch.float64)
        for row in ([0.5, 0.5, 0.5], [-1.5, -0.5, -1.5], [-2.0, -2.0, 2.0])
    )
    without = clipped_policy_loss(new, old, advantages, cliprange=0.2)
    found = clipped_policy_loss(new, old, advantages, cliprange=0.2, dual_clip=3.0)
    assert without.tolist() == pytest.approx([2 * math.exp(2), 2 * math.e, -2.4], rel=1e-12)
    assert found.tolist() == pytest.approx([6.0, 2 * math.e, -2.4], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    eps=st.floats(0.05, 0.5),
    high=st.none() | st.floats(0.05, 0.9),
    dual=st.none() | st.floats(1.1, 5),
)
def test_policy_loss_and_its_gradient_equal_the_scalar_formula(seed, eps, high, dual):
    rng = torch.Generator().manual_seed(seed)
    new, old, advantages = (torch.randn(20, generator=rng, dtype=torch.float64) for _ in range(3))
    new.requires_grad_()
    loss = clipped_policy_loss(
        new, old, advantages, cliprange=eps, cliprange_high=high, dual_clip=dual
    )
    loss.sum().backward()
    triples = list(zip(new.tolist(), old.tolist(), advantages.tolist(), strict=True))
    expected = [reference.policy_loss(*triple, eps, high, dual) for triple in triples]
    slopes = [reference.policy_gradient(*triple, eps, high, dual) for triple in triples]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)
    assert new.grad.tolist() == pytest.approx(slopes, rel=1e-12)
    assert [x == 0 for x in new.grad.tolist()] == [x == 0 for x in slopes]


def test_policy_gradient_vanishes_where_clipped():
    new = NEW.clone().requires_grad_()
    clipped_policy_loss(new, OLD, ADVANTAGES, cliprange=0.2).sum().backward()
    # d/dnew of -A * ratio is -A * ratio; the first two tokens are clipped.
    assert new.grad.tolist() == pytest.approx([0, 0, -0.5, -2 * math.exp(-1.5)], rel=1e-12)


def test_policy_loss_at_ratio_one_is_minus_the_advantage():
    loss = clipped_policy_loss(OLD, OLD, ADVANTAGES, cliprange=0.2)
    assert torch.equal(loss, -ADVANTAGES)


def test_policy_loss_survives_a_runaway_token():
    loss = clipped_policy_loss(
        torch.tensor([0.0]), torch.tensor([-1000.0]), torch.tensor([-1.0]), cliprange=0.2
    )
    assert loss.isfinite().all()


def test_value_loss_golden():
    # Clipped to .5 + .2 = .7: half of .3 squared, not of .1 squared.
    value, old, target = (torch.tensor([x], dtype=torch.float64) for x in (0.9, 0.5, 1.0))
    loss = clipped_value_loss(value, old, target, cliprange_value=0.2)
    assert loss.item() == pytest.approx(0.045, rel=1e-12)
    assert clipped_value_loss(value, old, target, cliprange_value=9.0).item() == pytest.approx(
        0.005
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), clip=st.floats(0.05, 2))
def test_value_loss_and_its_gradient_equal_the_scalar_formula(seed, clip):
    rng = torch.Generator().manual_seed(seed)
    value, old, target = (torch.randn(20, generator=rng, dtype=torch.float64) for _ in range(3))
    value.requires_grad_()
    loss = clipped_value_loss(value, old, target, cliprange_value=clip)
    loss.sum().backward()
    triples = list(zip(value.tolist(), old.tolist(), target.tolist(), strict=True))
    expected = [reference.value_loss(*triple, clip) for triple in triples]
    slopes = [reference.value_gradient(*triple, clip) for triple in triples]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert value.grad.tolist() == pytest.approx(slopes, rel=1e-12, abs=1e-14)
    assert [x == 0 for x in value.grad.tolist()] == [x == 0 for x in slopes]


def test_importance_weights_golden_and_capped():
    # Ratios 1, 3/2, 3 and 1/2; a runaway token gets the cap too.
    ratios = torch.tensor([1.0, 1.5, 3.0, 0.5], dtype=torch.float64)
    sampler = torch.tensor([-2.0, -1.0, -3.0, -0.5], dtype=torch.float64)
    found = truncated_importance_weights(sampler + ratios.log(), sampler, cap=2.0)
    assert found.tolist() == pytest.approx([1.0, 1.5, 2.0, 0.5], rel=1e-12)
    runaway = truncated_importance_weights(torch.zeros(1), torch.tensor([-1000.0]), cap=2.0)
    assert runaway.tolist() == [2.0]


def test_importance_weights_turn_the_samplers_mean_into_the_policys():
    """sum_a mu(a) * w(a) * f(a) = sum_a pi(a) * f(a), by enumeration, where the cap is far."""
    rng = torch.Generator().manual_seed(4)
    policy, sampler = (
        torch.randn(6, generator=rng, dtype=torch.float64).log_softmax(-1) for _ in range(2)
    )
    figure = torch.randn(6, generator=rng, dtype=torch.float64)
    weights = truncated_importance_weights(policy, sampler, cap=1e9)
    found, expected = (sampler.exp() * weights * figure).sum(), (policy.exp() * figure).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_importance_weights_carry_no_gradient():
    new, old, sampler = (x.clone().requires_grad_() for x in (OLD, OLD, NEW))
    weights = truncated_importance_weights(old, sampler, cap=2.0)
    assert not weights.requires_grad
    loss = clipped_policy_loss(new, OLD, ADVANTAGES, cliprange=0.2)
    (loss * weights).sum().backward()
    assert old.grad is None
    assert sampler.grad is None
    # Ratio 1: the gradient is -A times the weight.
    expected = [
        -a * min(math.exp(o - m), 2.0)
        for a, o, m in zip(ADVANTAGES.tolist(), OLD.tolist(), NEW.tolist(), strict=True)
    ]
    assert new.grad.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("split", [[8], [4, 4], [1, 2, 5], [1] * 8])
def test_micro_batches_add_up_to_the_whole_batch(split):
    """Sums over the batch's token count, not means of means: rows have 1 to 8 tokens."""
    rng = torch.Generator().manual_seed(5)
    new, old, advantages = (torch.randn(8, 8, generator=rng, dtype=torch.float64) for _ in range(3))
    mask = length_mask(torch.arange(1, 9), 8)

    def losses(logprobs, rows=slice(None)):
        return clipped_policy_loss(logprobs[rows], old[rows], advantages[rows], cliprange=0.2)

    whole, parts = new.clone().requires_grad_(), new.clone().requires_grad_()
    loss = masked_mean(losses(whole), mask)
    loss.backward()
    total, start = 0.0, 0
    for size in split:
        rows = slice(start, start + size)
        share = masked_sum(losses(parts, rows), mask[rows]).sum() / mask.sum()
        share.backward()
        total, start = total + share.item(), start + size
    assert total == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(parts.grad, whole.grad, rtol=1e-12, atol=0)
