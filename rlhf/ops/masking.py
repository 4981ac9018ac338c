"""Masks and masked statistics.

One convention everywhere: completions are padded on the right, a mask is True at real tokens
(the end-of-text token that ends a completion included), and masks come from lengths, never from
token ids, so that a pad token equal to the end-of-text token is harmless. Axes: B rows, C
completion tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Mark the first ``lengths[b]`` of ``size`` positions.

    Args:
        lengths: Number of real tokens per row, integer (B,).
        size: Padded length.

    Returns:
        bool (B, size).
    """
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average over the real tokens of all rows; 0 when there are none.

    Padding may hold anything, infinities and NaN included.
    """
    total = values.masked_fill(~mask, 0.0).sum()
    return total / mask.sum().clamp(min=1)


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum each row over its real tokens, giving (B,)."""
    return values.masked_fill(~mask, 0.0).sum(dim=-1)


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Mean squared deviation (the biased variance) over the real tokens of all rows."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def whiten(values: Tensor, mask: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over all real tokens.

    The variance is the biased one, as in lm-human-preferences (tf.moments). A constant input
    becomes 0. Padding comes back as 0.

    Args:
        values: float (B, C).
        mask: True at real tokens, bool (B, C).
        eps: Added to the variance.

    Returns:
        float (B, C).

    Source: openai/lm-human-preferences@cbfd210, lm_human_preferences/utils/core.py, whiten.
    """
    scale = torch.rsqrt(masked_variance(values, mask) + eps)
    return ((values - masked_mean(values, mask)) * scale).masked_fill(~mask, 0.0)
