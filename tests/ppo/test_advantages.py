"""Rollout in, advantages and value targets out; the numbers by hand.

Two completions of 3 and 2 tokens with scores 1 and 2. Log ratios to the reference are .2 -.4 .6
and .2 0, so that a KL weight of .5 makes the rewards -.1 .2 .7 and -.1 2.
"""

import pytest
import torch

from rlhf.config import PPOConfig
from rlhf.ops.masking import length_mask
from rlhf.ppo.advantages import estimate
from rlhf.ppo.rollout import Rollout

MASK = length_mask(torch.tensor([3, 2]), 3)
SCORES = torch.tensor([1.0, 2.0], dtype=torch.float64)


def config(**overrides):
    settings = {
        "model_name_or_path": "m",
        "output_dir": "o",
        "train_file": "t",
        "reward_function": "f.py:f",
        "rollout_batch_size": 2,
        "num_mini_batches": 1,
        "num_generations": 2,
        "lam": 1.0,
    }
    if overrides.get("advantage") == "rloo":
        del settings["lam"]
    return PPOConfig(**settings | overrides)


def rollout(junk=0.0):
    """The hand-made rollout, with anything at the padded token."""

    def padded(*rows):
        return torch.tensor([[*row, junk][:3] for row in rows], dtype=torch.float64)

    ref = padded([-1.0, -2.0, -3.0], [-1.0, -2.0])
    return Rollout(
        prompts=[],
        prompt_ids=[[5], [5]],
        completion_ids=[[1, 2, 0], [3, 0]],
        ended=torch.tensor([True, True]),
        mask=MASK,
        sampler_logprobs=torch.full_like(ref, junk),
        logprobs=padded([-0.8, -2.4, -2.4], [-0.8, -2.0]),
        ref_logprobs=ref,
        base_logprobs=torch.full_like(ref, junk),
        values=padded([0.5, 0.5, 0.5], [1.0, 1.0]),
        scores=torch.tensor([-7.0, -7.0], dtype=torch.float64),
        scores_by_source={},
        disagreement=None,
        sampling_s=0.0,
        scoring_s=0.0,
    )


def assert_targets(found, raw, returns, mean, variance):
    """Compare with advantages by hand, whitened over the five real tokens."""
    raw = torch.tensor(raw, dtype=torch.float64)
    white = ((raw - mean) / (variance + 1e-8) ** 0.5).masked_fill(~MASK, 0.0)
    torch.testing.assert_close(found.advantages, white, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        found.returns, torch.tensor(returns, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    assert found.spread.item() == pytest.approx(variance**0.5, rel=1e-12)


def test_gae_with_the_kl_in_the_reward():
    # Rewards to go .8 .9 .7 and 1.9 2, less the values; mean 2.8 / 5, squares .532 / 5.
    found = estimate(rollout(), SCORES, config(), kl_coef=0.5)
    returns = [[0.8, 0.9, 0.7], [1.9, 2.0, 0.0]]
    assert_targets(found, [[0.3, 0.4, 0.2], [0.9, 1.0, 0.0]], returns, mean=0.56, variance=0.1064)


def test_gae_with_the_kl_in_the_loss_charges_nothing_here():
    # Rewards 0 0 1 and 0 2: advantages .5 and 1; mean 3.5 / 5, squares (3 * .04 + 2 * .09) / 5.
    found = estimate(rollout(), SCORES, config(kl_in="loss"), kl_coef=0.5)
    returns = [[1.0, 1.0, 1.0], [2.0, 2.0, 0.0]]
    assert_targets(found, [[0.5, 0.5, 0.5], [1.0, 1.0, 0.0]], returns, mean=0.7, variance=0.06)


def test_gae_takes_the_discount_and_both_lambdas():
    # Rewards 0 0 1 and 0 2, discount .5. Lambda 0: one-step errors .5 * .5 - .5, again, 1 - .5;
    # .5 * 1 - 1, 2 - 1; mean .5 / 5, variance 1.625 / 5 - .1 ** 2. Lambda 1: discounted sums.
    settings = config(kl_in="loss", gamma=0.5, lam=0.0, lam_value=1.0)
    found = estimate(rollout(), SCORES, settings, kl_coef=0.5)
    raw = [[-0.25, -0.25, 0.5], [-0.5, 1.0, 0.0]]
    returns = [[0.25, 0.5, 1.0], [1.0, 2.0, 0.0]]
    assert_targets(found, raw, returns, mean=0.1, variance=0.315)


def test_rloo_compares_totals_after_the_kl():
    # Totals .8 and 1.9, so -1.1 and 1.1 at every token; mean -1.1 / 5, variance 1.21 - .22 ** 2.
    found = estimate(rollout(), SCORES, config(advantage="rloo"), kl_coef=0.5)
    raw = [[-1.1, -1.1, -1.1], [1.1, 1.1, 0.0]]
    assert_targets(found, raw, [[0.0] * 3] * 2, mean=-0.22, variance=1.1616)


def test_rloo_with_the_kl_in_the_loss_compares_scores():
    # Scores 1 and 2, so -1 and 1; mean -1 / 5, variance 1 - .2 ** 2.
    found = estimate(rollout(), SCORES, config(advantage="rloo", kl_in="loss"), kl_coef=0.5)
    raw = [[-1.0, -1.0, -1.0], [1.0, 1.0, 0.0]]
    assert_targets(found, raw, [[0.0] * 3] * 2, mean=-0.2, variance=0.96)


@pytest.mark.parametrize("junk", [9.0, float("inf"), float("nan")])
@pytest.mark.parametrize("advantage", ["gae", "rloo"])
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_padding_may_hold_anything(advantage, kl_in, junk):
    own = {"lam": 0.9} if advantage == "gae" else {}
    settings = config(advantage=advantage, kl_in=kl_in, **own)
    clean = estimate(rollout(), SCORES, settings, kl_coef=0.5)
    dirty = estimate(rollout(junk), SCORES, settings, kl_coef=0.5)
    for name in ("advantages", "returns", "spread"):
        assert torch.equal(getattr(clean, name), getattr(dirty, name))


@pytest.mark.parametrize("advantage", ["gae", "rloo"])
def test_equal_completions_teach_nothing(advantage):
    even = torch.zeros_like(SCORES)
    discounts = {"gamma": 0.0, "lam": 0.0} if advantage == "gae" else {}
    settings = config(advantage=advantage, kl_in="loss", **discounts)
    hand_made = rollout()
    hand_made.values.zero_()
    found = estimate(hand_made, even, settings, kl_coef=0.5)
    assert not found.advantages.any()
    assert found.spread.item() == 0
