"""From the scores of rewards to what PPO trains on. Axes: B completions, M ensemble members."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

EnsembleRule = Literal["mean", "min", "mean_minus_std"]


def shape_scores(
    scores: Tensor,
    lengths: Tensor,
    ended: Tensor,
    *,
    clip: float,
    length_penalty: float,
    missing_eos_penalty: float,
) -> Tensor:
    """Clip scores, then take off the penalties, which are not clipped.

    Args:
        scores: One per completion, float (B,).
        lengths: Tokens of each completion, its end token included, integer (B,).
        ended: True where a completion ended by itself, bool (B,).
        clip: Scores stay within plus or minus this; more than 0.
        length_penalty: Taken off for each token.
        missing_eos_penalty: Taken off where ``ended`` is False.

    Returns:
        float (B,).

    Source: the penalty for a missing end token is that of trl's ``PPOConfig``, where it is taken
    off the score too.
    """
    penalty = length_penalty * lengths.to(scores.dtype)
    penalty = penalty + missing_eos_penalty * (~ended).to(scores.dtype)
    return scores.clamp(-clip, clip) - penalty


def ensemble_score(member_scores: Tensor, how: EnsembleRule, coef: float = 1.0) -> Tensor:
    """Make one score of what several reward models give.

    Args:
        member_scores: float (M, B).
        how: ``mean``; ``min``, the most pessimistic member, completion by completion; or
            ``mean_minus_std``.
        coef: Standard deviations that ``mean_minus_std`` takes off.

    Returns:
        float (B,).

    Source: Coste et al. 2024 (arXiv:2310.02743), section 3: mean, worst case and uncertainty
    weighting. Theirs takes off the variance; the standard deviation here has the unit of a score.
    """
    if how == "min":
        return member_scores.min(dim=0).values
    mean = member_scores.mean(dim=0)
    return mean if how == "mean" else mean - coef * ensemble_disagreement(member_scores)


def ensemble_disagreement(member_scores: Tensor) -> Tensor:
    """Population standard deviation over the members, (M, B) to float (B,); 0 for one member."""
    return torch.std(member_scores, dim=0, correction=0)
