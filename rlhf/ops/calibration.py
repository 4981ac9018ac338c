"""How far the probabilities that scores imply can be believed. Axes: P pairs, B bins.

A margin is the score of the completion that people put above less that of the other; its
probability is ``sigmoid(margin)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pair_confidence(margins: Tensor) -> tuple[Tensor, Tensor]:
    """What strict pairs give a reliability curve.

    Margins always point at what people preferred, so the probability of that can't be compared
    with how often it happened; that of the model's own favourite can.

    Args:
        margins: float (P,).

    Returns:
        ``(confidence, right)``, float64 (P,): ``sigmoid(|margin|)``, 0.5 or more; 1 where people
        agree with the favourite, 0 where not, 0.5 for a margin of 0.
    """
    margins = margins.double()
    right = (margins > 0).double() + 0.5 * (margins == 0).double()
    return torch.sigmoid(margins.abs()), right


def reliability_curve(probabilities: Tensor, outcomes: Tensor, *, bins: int = 10) -> Tensor:
    """Mean probability and mean outcome in bins that hold equally many.

    Equal probabilities share their mean outcome before they are cut into bins, so that the order
    of the pairs does not matter.

    Args:
        probabilities: float (P,).
        outcomes: What happened, in [0, 1], float (P,).
        bins: Number of bins; fewer where there are fewer pairs.

    Returns:
        float64 (B, 3), from the lowest probability to the highest: mean probability, mean
        outcome, count. Counts differ by at most 1; (0, 3) without pairs.
    """
    values, group, counts = probabilities.double().unique(  # type: ignore[no-untyped-call]
        return_inverse=True, return_counts=True
    )
    means = torch.zeros_like(values).index_add(0, group, outcomes.double()) / counts
    table = torch.stack((values, means), dim=1).repeat_interleave(counts, dim=0)
    parts = table.tensor_split(min(bins, len(table))) if len(table) else ()
    rows = [(*part.mean(dim=0).tolist(), len(part)) for part in parts]
    return torch.tensor(rows, dtype=torch.float64).view(-1, 3)


def expected_calibration_error(curve: Tensor) -> float:
    """Mean distance of outcome and probability over a reliability curve, weighted by count.

    It is above 0 even for exact probabilities, since outcomes scatter: with n pairs in a bin by
    about ``sqrt(p (1 - p) / n)``. NaN for an empty curve.

    Args:
        curve: See ``reliability_curve``, float (B, 3).

    Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning";
    bins of equal mass after Nguyen and O'Connor 2015 (arXiv:1508.05154).
    """
    mean, outcome, count = curve.unbind(dim=1)
    total = float(count.sum())
    return float(((mean - outcome).abs() * count).sum()) / total if total else math.nan


def best_temperature(margins: Tensor, *, iterations: int = 100) -> float:
    """Temperature T that minimises the mean of ``-log sigmoid(margin / T)``.

    More than 1 where scores are too sure of themselves. The loss is convex in 1 / T, so its
    derivative is bisected.

    Args:
        margins: float (P,).
        iterations: Halvings of the bracket of 1 / T.

    Returns:
        T; 0 where every pair is ordered rightly or tied, so that no finite 1 / T is best;
        infinity where the margins are 0 or less on average, so that scores are best ignored; NaN
        without pairs.

    Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2.
    """
    margins = margins.double()
    if not len(margins):
        return math.nan
    if margins.mean() <= 0:
        return math.inf
    if margins.min() >= 0:
        return 0.0

    def falls(inverse: float) -> bool:
        return float((margins * torch.sigmoid(-inverse * margins)).sum()) > 0

    # In units of the largest margin, so that neither end depends on the scale of the scores.
    low, high = 0.0, 1.0 / float(margins.abs().max())
    while falls(high):
        low, high = high, 2.0 * high
    for _ in range(iterations):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if falls(middle) else (low, middle)
    return 2.0 / (low + high)


def tie_auc(tied_margins: Tensor, strict_margins: Tensor) -> float:
    """Chance that a pair called equal has a smaller margin than one that was ordered.

    0.5 where the size of a margin says nothing about ties, 1 where a threshold finds them all.
    Signs don't matter; equal sizes count half.

    Args:
        tied_margins: float (P,).
        strict_margins: float (P',).

    Returns:
        The area under the ROC curve of ``-|margin|``; NaN where one kind is missing.
    """
    tied, strict = tied_margins.double().abs(), strict_margins.double().abs().sort().values
    if not len(tied) or not len(strict):
        return math.nan
    below = torch.searchsorted(strict, tied)
    not_above = torch.searchsorted(strict, tied, right=True)
    larger = len(strict) - 0.5 * (below + not_above).double()
    return float(larger.mean()) / len(strict)
