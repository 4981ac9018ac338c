import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.returns import gae, shape_rewards

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


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    gamma=st.floats(0, 1),
    lam=st.floats(0, 1),
)
def test_gae_equals_the_double_sum(seed, lengths, gamma, lam):
    rng = torch.Generator().manual_seed(seed)
    shape = (len(lengths), 11)
    rewards = torch.randn(shape, generator=rng, dtype=torch.float64)
    values = torch.randn(shape, generator=rng, dtype=torch.float64)
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    advantages, _ = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row, length in enumerate(lengths):
        expected = reference.gae(
            rewards[row, :length].tolist(), values[row, :length].tolist(), gamma, lam
        )
        assert advantages[row, :length].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_gae_ignores_what_padding_holds():
    junk = VALUES.clone()
    junk[~MASK] = float("nan")
    clean = gae(REWARDS, VALUES, MASK, gamma=0.9, lam=0.8)
    dirty = gae(REWARDS, junk, MASK, gamma=0.9, lam=0.8)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


def test_score_lands_on_the_last_real_token_and_kl_on_every_one():
    log_ratio = torch.tensor([[0.1, -0.2, 0.3], [0.5, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    rewards = shape_rewards(torch.tensor([1.0, 2.0]), log_ratio, mask, kl_coef=0.5)
    # -0.5 * log ratio; the scores 1 and 2 on tokens 2 and 0.
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1, 0.85], [1.75, 0.0, 0.0]]))
