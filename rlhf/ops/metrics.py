"""Figures computed from tensors: ratios, intervals, explained variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over real tokens; 0 when returns are constant."""
    residual = (returns - values)[mask]
    spread = returns[mask].var(correction=0)
    if spread < 1e-12:
        return torch.zeros_like(spread)
    return 1.0 - residual.var(correction=0) / spread


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson correlation of two (B,) tensors; 0 when one of them is constant."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    spread = float(x.norm() * y.norm())
    return float((x * y).sum()) / spread if spread > 1e-12 else 0.0


def distinct_pairs(rows: Sequence[Sequence[int]]) -> float:
    """Share of distinct pairs of neighbouring tokens among all pairs (distinct-2).

    Source: Li et al. 2016 (arXiv:1510.03055), section 5.2.
    """
    pairs = [pair for row in rows for pair in pairwise(row)]
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def pair_outcomes(scores: Tensor, ranks: Tensor) -> tuple[int, float]:
    """Count the strict pairs of one ranking and how many of them the scores order rightly.

    Args:
        scores: float (K,).
        ranks: 1 is best, 0 is unranked, integer (K,).

    Returns:
        ``(pairs, right)``; a pair with equal scores counts half.
    """
    ranked = ranks > 0
    better = (ranks[:, None] < ranks[None, :]) & ranked[:, None] & ranked[None, :]
    margin = scores[:, None] - scores[None, :]
    right = (margin > 0).double() + 0.5 * (margin == 0).double()
    return int(better.sum()), float(right[better].sum())


def mean_interval(outcomes: list[float], *, z: float = 1.96) -> tuple[float, float, float]:
    """Mean of independent outcomes with a normal 95 % interval.

    Returns:
        ``(mean, low, high)``; NaN for an empty list, and an interval as wide as the data allow
        (mean +- infinity) for a single outcome.
    """
    n = len(outcomes)
    if n == 0:
        return math.nan, math.nan, math.nan
    mean = sum(outcomes) / n
    if n == 1:
        return mean, -math.inf, math.inf
    variance = sum((x - mean) ** 2 for x in outcomes) / (n - 1)
    half = z * math.sqrt(variance / n)
    return mean, mean - half, mean + half


def clustered_ratio_interval(
    numerators: list[float], denominators: list[float], *, z: float = 1.96
) -> tuple[float, float, float]:
    """Ratio of sums with a 95 % interval whose independent units are the list entries.

    Pairs of one prompt are not independent, so an accuracy over pairs takes its spread from the
    prompts (the linearised variance of a ratio estimator).

    Source: Cochran, Sampling Techniques, 3rd ed., eq. 6.13.
    """
    n, total = len(numerators), sum(denominators)
    if total == 0:
        return math.nan, math.nan, math.nan
    ratio = sum(numerators) / total
    if n == 1:
        return ratio, -math.inf, math.inf
    pairs = zip(numerators, denominators, strict=True)
    squares = sum((right - ratio * count) ** 2 for right, count in pairs)
    half = z * math.sqrt(squares * n / (n - 1)) / total
    return ratio, ratio - half, ratio + half
