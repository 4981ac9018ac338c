"""Losses of the PPO stage, per token; the caller normalises.

Axes: B rows, C completion tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    cliprange: float,
    cliprange_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's pessimistic clipped surrogate, token by token.

    Args:
        logprobs: Of the policy being trained, float (B, C).
        old_logprobs: Of the policy that sampled, detached, float (B, C).
        advantages: Detached, float (B, C).
        cliprange: Epsilon; the ratio is clipped to [1 - eps, 1 + eps].
        cliprange_high: Epsilon above 1, where it differs (DAPO's clip-higher).
        dual_clip: Where the advantage is negative, the loss is at most ``dual_clip * -A``.

    Returns:
        ``max(-A * ratio, -A * clip(ratio))``, float (B, C). The log ratio is clamped to +-20
        before the exponential, so that a runaway token can't overflow.

    Source: Schulman et al. 2017 (arXiv:1707.06347), eq. 7; clip-higher: Yu et al. 2025
    (arXiv:2503.14476), eq. 10; dual clip: Ye et al. 2020 (arXiv:1912.09729), eq. 5.
    """
    log_ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    high = cliprange if cliprange_high is None else cliprange_high
    clipped = ratio.clamp(1.0 - cliprange, 1.0 + high)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def truncated_importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, *, cap: float
) -> Tensor:
    """Weigh tokens by how likely the scored policy finds them against the one that sampled.

    Args:
        old_logprobs: Of the policy as the training path sees it, float (B, C).
        sampler_logprobs: Of the distribution that the tokens were drawn from, float (B, C).
        cap: Upper bound of a weight.

    Returns:
        ``min(exp(old - sampler), cap)`` without gradient, float (B, C).

    Source: Ionides 2008, "Truncated importance sampling"; for a sampler that differs from the
    trainer: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training".
    """
    return (old_logprobs - sampler_logprobs).detach().exp().clamp(max=cap)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, cliprange_value: float
) -> Tensor:
    """Half the squared error of the value, pessimistic about leaving the old value, per token.

    Args:
        values: Of the value model being trained, float (B, C).
        old_values: At rollout, detached, float (B, C).
        returns: Targets, detached, float (B, C).
        cliprange_value: How far a value may move from its old value before its error is frozen.

    Returns:
        float (B, C).

    Source: openai/baselines ppo2 model.py; openai/lm-human-preferences@cbfd210.
    """
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
