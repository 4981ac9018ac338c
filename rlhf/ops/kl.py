"""Estimates of the KL divergence from sampled tokens.

``log_ratio_ref`` is log policy - log reference at the sampled token. What each estimator may be
used for (gradients by exact enumeration; see also arXiv:2510.01555):

=========  ========================  ============================
estimator  in the reward, detached   as a loss, on-policy
=========  ========================  ============================
k1         gradient of KL(pi||ref)   expected gradient 0
k2         wrong                     gradient of KL(pi||ref)
k3         wrong                     gradient of KL(ref||pi)
=========  ========================  ============================

As a loss each token stands alone: what it does to the KL of the tokens after it is left out.

Source: Schulman 2020, http://joschu.net/blog/kl-approx.html.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_k1(log_ratio_ref: Tensor) -> Tensor:
    """Estimate KL(policy || reference) without bias; single values may be negative."""
    return log_ratio_ref


def kl_k2(log_ratio_ref: Tensor) -> Tensor:
    """Estimate the KL by half the squared log ratio: biased, low variance, never negative."""
    return 0.5 * log_ratio_ref**2


def kl_k3(log_ratio_ref: Tensor) -> Tensor:
    """Estimate the KL without bias and never negative: exp(-d) - 1 + d. For logging only."""
    return torch.expm1(-log_ratio_ref) + log_ratio_ref


def exact_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """KL between two distributions given as full log-probabilities (..., V), shape (...,)."""
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(dim=-1)


def adapted_kl_coef(
    kl_coef: float, kl: float, *, target: float, horizon: int, episodes: int
) -> float:
    """Move the weight of the KL penalty towards a target KL.

    Args:
        kl_coef: Weight so far.
        kl: KL of the last batch, nats per completion.
        target: KL to hold, nats per completion.
        horizon: Completions over which the weight adapts.
        episodes: Completions in the batch.

    Returns:
        ``kl_coef * (1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon)``.

    Source: Ziegler et al. 2019 (arXiv:1909.08593), section 2.2.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * episodes / horizon)
