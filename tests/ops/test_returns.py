import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.returns import gae, rloo, shape_rewards

# Two rows; the second has two real tokens and junk after them.
REWARDS = torch.tensor([[-0.01, 0.02, -0.03, 0.995], [0.0, 0.5, 7.0, 7.0]], dtype=torch.float64)
VALUES = torch.tensor([[0.5, 0.4, 0.6, 0.2], [0.1, -0.2, 7.0, 7.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        # By hand: deltas are -.11 .22 -.43 .795 in the first row.
        (0.0, [[-0.11, 0.22, -0.43, 0.795], [-0.3, 0.7, 0, 0]]),
        (0.95, [[0.392538125, 0.5289875, 0.32525, 0.795], [0.365, 0.7, 0, 0]]),
        # lambda 1: reward-to-go minus value.
        (1.0, [[0.475, 0.585, 0.365, 0.795], [0.4, 0.7, 0, 0]]),
    ],
)
def test_gae_golden(lam, expected):
    advantages, returns = gae(REWARDS, VALUES, MASK, gamma=1.0, lam=lam)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(advantages, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(returns[MASK], (expected + VALUES)[MASK], rtol=1e-12, atol=1e-12)
    assert (returns[~MASK] == 0).all()


@pytest.mark.parametrize(
    ("lam_value", "expected"),
    [
        # The one-step errors above plus the values.
        (0.0, [[0.39, 0.62, 0.17, 0.995], [-0.2, 0.5, 0, 0]]),
        # The sums of the rewards still to come.
        (1.0, [[0.975, 0.985, 0.965, 0.995], [0.5, 0.5, 0, 0]]),
    ],
)
def test_value_targets_take_their_own_lambda(lam_value, expected):
    advantages, returns = gae(REWARDS, VALUES, MASK, gamma=1.0, lam=0.95, lam_value=lam_value)
    same, _ = gae(REWARDS, VALUES, MASK, gamma=1.0, lam=0.95)
    assert torch.equal(advantages, same)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(returns, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
    lam_value=st.none() | st.floats(0, 1),
)
def test_gae_equals_the_double_sum(seed, lengths, gamma, lam, lam_value):
    rng = torch.Generator().manual_seed(seed)
    shape = (len(lengths), 11)
    rewards = torch.randn(shape, generator=rng, dtype=torch.float64)
    values = torch.randn(shape, generator=rng, dtype=torch.float64)
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam, lam_value=lam_value)
    for row, length in enumerate(lengths):
        real = rewards[row, :length].tolist(), values[row, :length].tolist()
        expected = reference.gae(*real, gamma, lam)
        again = reference.gae(*real, gamma, lam if lam_value is None else lam_value)
        targets = [a + v for a, v in zip(again, real[1], strict=True)]
        assert advantages[row, :length].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert returns[row, :length].tolist() == pytest.approx(targets, rel=1e-12, abs=1e-12)
    assert (advantages[~mask] == 0).all()
    assert (returns[~mask] == 0).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), gamma=st.floats(0, 1))
def test_lambda_1_makes_returns_the_discounted_rewards_to_go(seed, gamma):
    rng = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(1, 7, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.arange(7)[None] < 5
    _, returns = gae(rewards, values, mask, gamma=gamma, lam=1.0)
    found = rewards[0, :5].tolist()
    expected = [sum(gamma ** (k - t) * found[k] for k in range(t, 5)) for t in range(5)]
    assert returns[0, :5].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_rloo_golden():
    # 1 less 11/3, 2 less 10/3, 3 less 9/3, 6 less 6/3.
    found = rloo(torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64), num_generations=4)
    assert found.tolist() == pytest.approx([-8 / 3, -4 / 3, 0.0, 4.0], rel=1e-12, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(2, 5), groups=st.integers(1, 4))
def test_rloo_compares_within_a_prompt_only(seed, size, groups):
    rng = torch.Generator().manual_seed(seed)
    totals = torch.randn(groups * size, generator=rng, dtype=torch.float64)
    found = rloo(totals, num_generations=size)
    expected = reference.rloo(totals.tolist(), size)
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert found.view(groups, size).sum(dim=1).abs().max() < 1e-12


def test_score_lands_on_the_last_real_token_and_kl_on_every_one():
    log_ratio = torch.tensor([[0.1, -0.2, 0.3], [0.5, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    rewards = shape_rewards(torch.tensor([1.0, 2.0]), log_ratio, mask, kl_coef=0.5)
    # -0.5 * log ratio; the scores 1 and 2 on tokens 2 and 0.
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1, 0.85], [1.75, 0.0, 0.0]]))
