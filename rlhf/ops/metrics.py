"""Figures computed from tensors: ratios, intervals, explained variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

_DRAWS_AT_ONCE = 1 << 22


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


def bootstrap_ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Ratio of sums with a percentile interval from resampled list entries (prompts).

    It need not be symmetric and stays among ratios that the data can give; for few prompts
    ``clustered_ratio_interval`` is no worse. Resamples whose denominators sum to 0 are left out.

    Returns:
        ``(ratio, low, high)``; NaN where the denominators sum to 0, and plus or minus infinity
        for a single entry. The same seed gives the same interval.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    entries = torch.tensor(
        list(zip(numerators, denominators, strict=True)), dtype=torch.float64
    ).view(-1, 2)
    top, bottom = entries.sum(dim=0).tolist()
    if bottom == 0:
        return math.nan, math.nan, math.nan
    if len(entries) == 1:
        return top / bottom, -math.inf, math.inf
    rng = torch.Generator().manual_seed(seed)
    sums = torch.stack(
        [
            entries[torch.randint(len(entries), (len(entries),), generator=rng)].sum(dim=0)
            for _ in range(resamples)
        ]
    )
    sums = sums[sums[:, 1] != 0]
    tail = (1.0 - level) / 2.0
    ends = torch.tensor([tail, 1.0 - tail], dtype=torch.float64)
    low, high = (sums[:, 0] / sums[:, 1]).quantile(ends).tolist()
    return top / bottom, low, high


def bootstrap_ratio_intervals(
    numerators: Tensor,
    denominators: Tensor,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Tensor:
    """``bootstrap_ratio_interval`` of F ratios over the same N entries, resampled together.

    Args:
        numerators: float (F, N).
        denominators: At least 0, float (F, N). An entry where a ratio has 0 says nothing of it.
        resamples: Number of resamples.
        level: Chance that an interval should cover.
        seed: The same seed gives the same intervals.

    Returns:
        float64 (F, 3): ratio, low, high. NaN where the denominators sum to 0; plus or minus
        infinity for an interval that rests on a single entry.
    """
    top, bottom = numerators.double(), denominators.double()
    if not top.numel():
        return top.new_full((len(top), 3), math.nan)
    above, below = _resampled_sums(torch.stack((top, bottom)), resamples, seed)
    tail = (1.0 - level) / 2.0
    ends = torch.tensor([tail, 1.0 - tail], dtype=torch.float64)
    # A resample without any of a ratio's entries is left out.
    ratios = torch.where(below > 0, above / below, math.nan)
    low, high = ratios.nanquantile(ends, dim=1)
    alone = (bottom > 0).sum(dim=1) == 1
    low, high = low.masked_fill(alone, -math.inf), high.masked_fill(alone, math.inf)
    return torch.stack((top.sum(dim=1) / bottom.sum(dim=1), low, high), dim=1)


def _resampled_sums(entries: Tensor, resamples: int, seed: int) -> Tensor:
    """Sums over N entries drawn with replacement, (2, F, N) to (2, F, resamples)."""
    size = entries.shape[2]
    rng = torch.Generator().manual_seed(seed)
    one = entries.new_ones(())
    sums = []
    rows = max(1, _DRAWS_AT_ONCE // size)
    for start in range(0, resamples, rows):
        draws = torch.randint(size, (min(rows, resamples - start), size), generator=rng)
        times = entries.new_zeros(draws.shape).scatter_add_(1, draws, one.expand_as(draws))
        sums.append(entries @ times.T)
    return torch.cat(sums, dim=2)


def kendall_tau_b(scores: Tensor, ranks: Tensor) -> float:
    """Rank correlation of scores with one ranking, ties on either side allowed for.

    Args:
        scores: float (K,); where ``ranks`` is 0 they may hold anything.
        ranks: 1 is best, 0 is unranked, integer (K,).

    Returns:
        1 where scores order the ranked candidates as people did, -1 for the reverse; NaN where
        all scores or all ranks are equal.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    ranked = ranks > 0
    x, y = scores[ranked].double(), -ranks[ranked].double()
    a, b = (torch.sign(v[:, None] - v[None, :]) for v in (x, y))
    untied = math.sqrt(float(a.abs().sum()) * float(b.abs().sum()))
    return float((a * b).sum()) / untied if untied else math.nan


def annotator_agreement(ranks: Tensor) -> tuple[float, float]:
    """How often annotators of one prompt put the same one of two candidates above.

    Every two candidates that m >= 2 annotators ordered strictly make m (m - 1) / 2 comparisons
    of 1 / (m - 1) each, so that a pair seen by many does not outweigh the others. Ties and
    unranked candidates make none.

    Args:
        ranks: One row per annotator, 1 is best, 0 is unranked, integer (A, K).

    Returns:
        ``(comparisons, agreeing)``, weighted. Their ratio over prompts, with an interval from
        ``clustered_ratio_interval``, is the agreement r; guessing gives 1/2, so that the share
        beyond chance is 2 r - 1.

    Source: the weights are those of Krippendorff's alpha (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability").
    """
    ranked = ranks > 0
    above = (ranks[:, :, None] < ranks[:, None, :]) & ranked[:, :, None] & ranked[:, None, :]
    votes = above.sum(dim=0).double()
    one, other = votes.triu(diagonal=1), votes.T.triu(diagonal=1)
    total = one + other
    seen = total >= 2
    agreeing = (one * (one - 1.0) + other * (other - 1.0)) / (2.0 * (total - 1.0))
    return float(total[seen].sum()) / 2.0, float(agreeing[seen].sum())
