"""From scores to per-token rewards, advantages and returns.

Axes: B rows, C completion tokens; masks as in ``rlhf.ops.masking``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shape_rewards(scores: Tensor, log_ratio_ref: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """Spread scores and the KL penalty over tokens.

    Every real token is charged ``kl_coef * log_ratio_ref`` (estimator k1, whose expectation has
    the gradient of the reverse KL); the score is added at the last real token, which is the
    end-of-text token of a finished completion, not at the padding after it.

    Args:
        scores: One per completion, float (B,).
        log_ratio_ref: log policy - log reference at the sampled tokens, float (B, C).
        mask: True at real completion tokens, at least one per row, bool (B, C).
        kl_coef: Weight of the penalty.

    Returns:
        float (B, C), 0 at padding.

    Source: Ziegler et al. 2019 (arXiv:1909.08593), section 2.1.
    """
    rewards = -kl_coef * log_ratio_ref.masked_fill(~mask, 0.0)
    last = mask.sum(dim=-1) - 1
    return rewards.scatter_add(-1, last[:, None], scores[:, None].to(rewards.dtype))


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    lam: float,
    lam_value: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate advantages by GAE over right-padded completions.

    The episode ends with the completion: the value after its last real token is 0 (no bootstrap,
    for truncated completions too, whose penalty is terminal), and nothing at a padded position
    reaches a real one. Advantages come back raw, so that returns stay in reward units; whiten
    them afterwards.

    Args:
        rewards: Per-token rewards, float (B, C).
        values: Values of the state before each token, recorded at rollout, float (B, C).
        mask: True at real completion tokens, bool (B, C).
        gamma: Discount in [0, 1]; 1 is usual for completions.
        lam: 0 gives the one-step TD error, 1 the Monte-Carlo advantage.
        lam_value: Lambda of the returns, where it differs; 1 makes them the rewards to go.

    Returns:
        ``(advantages, returns)``, float (B, C) each, 0 at padding; ``returns`` are the
        advantages at ``lam_value`` plus the values.

    Source: Schulman et al. 2016 (arXiv:1506.02438), eq. 16; separate lambdas: Yuan et al. 2025
    (arXiv:2503.01491), section 4.
    """
    values = values.masked_fill(~mask, 0.0)
    rewards = rewards.masked_fill(~mask, 0.0)
    advantages = _discounted_errors(rewards, values, mask, gamma, lam)
    if lam_value is None or lam_value == lam:
        return advantages, advantages + values
    return advantages, _discounted_errors(rewards, values, mask, gamma, lam_value) + values


def _discounted_errors(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> Tensor:
    """Sum TD errors from each token to the end, each step discounted by ``gamma * lam``."""
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(running)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, 0.0)
        advantages[:, t] = running
        next_value = values[:, t]
    return advantages


def rloo(totals: Tensor, *, num_generations: int) -> Tensor:
    """Compare each completion's total reward with the mean of its siblings'.

    Args:
        totals: Sum of the per-token rewards of each completion, float (B,); the completions of
            one prompt are neighbours.
        num_generations: Completions per prompt, at least 2.

    Returns:
        ``total - mean of the other totals of the same prompt``, float (B,).

    Source: Ahmadian et al. 2024 (arXiv:2402.14740), eq. 8.
    """
    groups = totals.view(-1, num_generations)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (num_generations - 1)
    return (groups - others).view(-1)
