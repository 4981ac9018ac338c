"""From a rollout to what its tokens are trained towards: advantages and value targets."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.ops.masking import masked_sum, masked_variance, whiten
from rlhf.ops.returns import gae, rloo, shape_rewards
from rlhf.ppo.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Targets:
    """Axes: B completions, C tokens."""

    advantages: Tensor
    """Whitened over all real tokens of the rollout, float32 (B, C)."""
    returns: Tensor
    """Value targets in reward units, float32 (B, C); 0 without a value model."""
    spread: Tensor
    """Standard deviation of the raw advantages, which whitening divided by, ()."""


def estimate(rollout: Rollout, scores: Tensor, config: PPOConfig, *, kl_coef: float) -> Targets:
    """Charge the KL, spread the scores over tokens and estimate advantages.

    Args:
        rollout: What was sampled and recorded.
        scores: Shaped scores, float (B,).
        config: ``advantage``, ``kl_in``, ``gamma`` and the lambdas.
        kl_coef: Weight of the KL where it acts in the reward.
    """
    mask = rollout.mask
    charged = kl_coef if config.kl_in == "reward" else 0.0
    rewards = shape_rewards(scores, rollout.log_ratio_ref, mask, kl_coef=charged)
    if config.advantage == "rloo":
        compared = rloo(masked_sum(rewards, mask), num_generations=config.num_generations)
        advantages = compared[:, None].expand_as(rewards).masked_fill(~mask, 0.0)
        returns = rewards.new_zeros(rewards.shape)
    else:
        advantages, returns = gae(
            rewards,
            rollout.values,
            mask,
            gamma=config.gamma,
            lam=config.lam,
            lam_value=config.lam_value,
        )
    return Targets(
        advantages=whiten(advantages, mask),
        returns=returns,
        spread=masked_variance(advantages, mask).sqrt(),
    )
