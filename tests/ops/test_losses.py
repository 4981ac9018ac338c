import math

import pytest
import reference
import torch

from rlhf.ops.losses import clipped_policy_loss, clipped_value_loss, ranking_loss

OLD = torch.tensor([-1.0, -2.0, -0.5, -1.5], dtype=torch.float64)
NEW = torch.tensor([-0.7, -2.5, -0.5, -3.0], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)


def test_policy_loss_golden():
    loss = clipped_policy_loss(NEW, OLD, ADVANTAGES, cliprange=0.2)
    # Ratios e^.3 (clipped to 1.2), e^-.5 (clipped to .8), 1, e^-1.5.
    expected = [-1.2, 0.8, -0.5, -2 * math.exp(-1.5)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_policy_loss_equals_the_scalar_formula():
    rng = torch.Generator().manual_seed(1)
    new, old, advantages = (torch.randn(50, generator=rng, dtype=torch.float64) for _ in range(3))
    loss = clipped_policy_loss(new, old, advantages, cliprange=0.2)
    triples = zip(new.tolist(), old.tolist(), advantages.tolist(), strict=True)
    expected = [reference.policy_loss(n, o, a, 0.2) for n, o, a in triples]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


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


def test_value_loss_equals_the_scalar_formula():
    rng = torch.Generator().manual_seed(2)
    value, old, target = (torch.randn(50, generator=rng, dtype=torch.float64) for _ in range(3))
    loss = clipped_value_loss(value, old, target, cliprange_value=0.3)
    triples = zip(value.tolist(), old.tolist(), target.tolist(), strict=True)
    expected = [reference.value_loss(v, o, t, 0.3) for v, o, t in triples]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


SCORES = torch.tensor([[2.0, 0.5, 1.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ranks", "smoothing", "expected", "pairs"),
    [
        ([1, 2, 3, 4], 0.0, 0.3109467650, 6),
        ([1, 2, 2, 3], 0.0, 0.1783207212, 5),
        ([1, 2, 3, 4], 0.1, 0.4526134317, 6),
        ([1, 0, 2, 0], 0.0, math.log1p(math.exp(-1.0)), 1),
        ([1, 1, 1, 1], 0.0, 0.0, 0),
    ],
)
def test_ranking_loss_golden(ranks, smoothing, expected, pairs):
    loss, counts = ranking_loss(SCORES, torch.tensor([ranks]), label_smoothing=smoothing)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert counts.item() == pairs


def test_ranking_loss_equals_the_pairs_one_by_one():
    rng = torch.Generator().manual_seed(3)
    scores = torch.randn(20, 5, generator=rng, dtype=torch.float64)
    ranks = torch.randint(0, 5, (20, 5), generator=rng)
    loss, counts = ranking_loss(scores, ranks, label_smoothing=0.05)
    for row in range(20):
        pairs = reference.pair_losses(scores[row].tolist(), ranks[row].tolist(), 0.05)
        assert counts[row].item() == len(pairs)
        assert loss[row].item() == pytest.approx(sum(pairs) / max(1, len(pairs)), rel=1e-12)


def test_ranking_loss_ignores_shift_order_and_padding():
    ranks = torch.tensor([[1, 2, 3, 0]])
    loss, _ = ranking_loss(SCORES, ranks)
    moved, _ = ranking_loss(SCORES + 3.0, ranks)
    swapped, _ = ranking_loss(SCORES[:, [2, 0, 3, 1]], ranks[:, [2, 0, 3, 1]])
    junk = SCORES.clone()
    junk[0, 3] = float("nan")
    padded, _ = ranking_loss(junk, ranks)
    assert moved.item() == pytest.approx(loss.item(), rel=1e-12)
    assert swapped.item() == pytest.approx(loss.item(), rel=1e-12)
    assert torch.equal(padded, loss)


def test_ranking_loss_gradient_is_finite_with_padding_and_without_pairs():
    scores = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    loss, _ = ranking_loss(scores, torch.tensor([[1, 0], [1, 2]]))
    loss.sum().backward()
    # One pair at margin 0: gradient -+ sigmoid(0) = -+ 1/2.
    assert scores.grad.tolist() == [[0, 0], [-0.5, 0.5]]
