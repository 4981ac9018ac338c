"""Losses on rankings: how well scores explain the orders that people gave.

Every loss takes padded scores and ranks and gives one number per prompt with what it counted;
``mean_over_rankings`` makes one number of a batch. Ranks: 1 is best, equal ranks are a tie, 0 is
unranked or padding; gaps are allowed. Scores where the rank is 0 may hold anything. A lead is a
score less another one. Axes: N rankings, K candidates, T tiers, A annotators.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_LATTICE = 16
"""Most candidates for ``plackett_luce_loss``, which visits each of their 2^K subsets."""


class OutcomeLogProbs(NamedTuple):
    """What a comparison can end in; the three probabilities sum to 1."""

    win: Tensor
    tie: Tensor
    lose: Tensor


# -- what a ranking says


def place_unranked(
    ranks: Tensor, candidates: Tensor, others_worse: Tensor
) -> tuple[Tensor, Tensor]:
    """Put unranked candidates last where the annotator called all others worse.

    Args:
        ranks: integer (N, K).
        candidates: True at candidates, ranked or not, and False at padding, bool (N, K).
        others_worse: Whether the annotator said so, bool (N,).

    Returns:
        ``(ranks, unordered)``: the ranks with those candidates one tier below the last; True at
        those candidates, which nobody compared with one another, bool (N, K).
    """
    unordered = candidates & (ranks <= 0) & others_worse[:, None]
    last = ranks.amax(dim=1, keepdim=True).clamp(min=0) + 1
    return torch.where(unordered, last, ranks), unordered


def strict_pairs(ranks: Tensor) -> Tensor:
    """True at [n, i, j] where candidate i was put above candidate j, (N, K) to bool (N, K, K)."""
    ranked = ranks > 0
    above = ranks[:, :, None] < ranks[:, None, :]
    return above & ranked[:, :, None] & ranked[:, None, :]


def tied_pairs(ranks: Tensor, unordered: Tensor | None = None) -> Tensor:
    """True at [n, i, j], i < j, where two candidates were called equally good.

    Args:
        ranks: integer (N, K).
        unordered: Candidates that share a rank without having been compared, bool (N, K).

    Returns:
        bool (N, K, K), every tie once.
    """
    ranked = ranks > 0
    equal = ranks[:, :, None] == ranks[:, None, :]
    equal = (equal & ranked[:, :, None] & ranked[:, None, :]).triu(diagonal=1)
    if unordered is None:
        return equal
    return equal & ~(unordered[:, :, None] & unordered[:, None, :])


def strength_margins(ranks: Tensor, strengths: Tensor) -> Tensor:
    """Leads that scores should have, from how much better each tier is than the next.

    Strengths add up over the tiers between two candidates.

    Args:
        ranks: integer (N, K).
        strengths: Of tier t over tier t + 1, best tier first, in units of score, float (N, T);
            0 for tiers without one. Tiers that T does not reach count 0.

    Returns:
        float (N, K, K): at [n, i, j] the lead of i over j where i was put above j, else 0.

    Source: the margin of Touvron et al. 2023 (arXiv:2307.09288), which compares two
    completions; the sum over tiers is ours.
    """
    better = strict_pairs(ranks)
    equal = ranks[:, :, None] == ranks[:, None, :]
    # A tier's number is that of the better candidates which come first in their own tier.
    first = ~equal.tril(diagonal=-1).any(dim=2) & (ranks > 0)
    tier = (better & first[:, :, None]).sum(dim=1)
    missing = ranks.shape[1] - 1 - strengths.shape[1]
    depth = F.pad(strengths, (1, max(0, missing))).cumsum(dim=1).gather(1, tier)
    return torch.where(better, depth[:, None, :] - depth[:, :, None], 0.0)


# -- Bradley-Terry


def bradley_terry_loss(
    scores: Tensor,
    ranks: Tensor,
    *,
    label_smoothing: float = 0.0,
    margins: Tensor | None = None,
    soft_ties: bool = False,
    unordered: Tensor | None = None,
    pair_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Grouped Bradley-Terry: per prompt, the mean loss over its pairs.

    A ranking counts once however many pairs it holds. Unranked candidates make no pair.

    Args:
        scores: Of the K candidates of each prompt, float (N, K); padding may hold anything.
        ranks: 1 is best, equal ranks are ties, 0 is unranked or padding, integer (N, K).
        label_smoothing: Assumed share of pairs ordered by mistake.
        margins: Lead of i over j that is asked for at [n, i, j], float (N, K, K); read at strict
            pairs only. It moves the logit of both labels.
        soft_ties: A tie is a pair that either side wins with probability 1/2; else it is dropped.
        unordered: See ``tied_pairs``.
        pair_weights: At least 0, float (N, K, K); read at [n, better, worse], and at [n, i, j],
            i < j, for ties.

    Returns:
        ``(loss, counts)``: the mean over pairs of ``-log sigmoid(better - worse)`` in nats,
        float (N,), log 2 for an undecided model and 0 for a prompt without pairs; the number of
        pairs, integer (N,).

    Source: Ouyang et al. 2022 (arXiv:2203.02155), eq. 1; smoothing as in cDPO.
    """
    better = strict_pairs(ranks)
    lead = _leads(scores, ranks)
    if margins is not None:
        lead = lead - torch.where(better, margins, 0.0)
    # logsigmoid, not log(sigmoid): at a margin of -100 the latter is -inf in float32.
    right, wrong = -F.logsigmoid(lead), -F.logsigmoid(-lead)
    losses = (1.0 - label_smoothing) * right + label_smoothing * wrong
    if not soft_ties:
        return _mean_over_pairs(losses, better, pair_weights)
    tied = tied_pairs(ranks, unordered)
    losses = torch.where(tied, 0.5 * (right + wrong), losses)
    return _mean_over_pairs(losses, better | tied, pair_weights)


def annotator_error_loss(
    scores: Tensor,
    ranks: Tensor,
    error_logits: Tensor,
    annotators: Tensor,
    *,
    pair_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Grouped Bradley-Terry in which an annotator answers by a coin in a share of the pairs.

    ``P(i above j) = (1 - e) sigmoid(score_i - score_j) + e / 2`` with the annotator's
    ``e = sigmoid(error_logit)``. Ties are dropped. Careless annotators and scores too close
    together look much alike, so few rankings of an annotator say little of ``e``: shrink it.

    Args:
        scores: float (N, K).
        ranks: integer (N, K).
        error_logits: One per annotator, learnable, float (A,).
        annotators: Who made each ranking, integer (N,).
        pair_weights: See ``bradley_terry_loss``.

    Returns:
        ``(loss, counts)`` as in ``bradley_terry_loss``.

    Source: Chen et al. 2013, "Pairwise ranking aggregation in a crowdsourced setting", whose
    annotator quality is ``1 - e / 2``.
    """
    logits = error_logits[annotators][:, None, None]
    careful = F.logsigmoid(-logits) + F.logsigmoid(_leads(scores, ranks))
    coin = F.logsigmoid(logits) - math.log(2.0)
    return _mean_over_pairs(-torch.logaddexp(careful, coin), strict_pairs(ranks), pair_weights)


def error_shrinkage(error_logits: Tensor, *, center: float, std: float) -> Tensor:
    """Pull annotators' error logits towards a common one: a normal prior, up to its constant.

    Args:
        error_logits: float (A,).
        center: Logit of the error expected of an unknown annotator.
        std: How far annotators are expected to differ, in logits.

    Returns:
        Sum over annotators of ``(logit - center)^2 / (2 std^2)``, in nats, a scalar. It stands
        beside a sum of log-likelihoods: with a mean over n pairs, divide it by n.
    """
    return ((error_logits - center) / std).square().sum() / 2.0


# -- ties as outcomes


def rao_kupper_log_probs(lead: Tensor, eta: Tensor) -> OutcomeLogProbs:
    """Win, tie, lose where a lead below a threshold goes unnoticed.

    Args:
        lead: Score less the other's score, float (...).
        eta: Log of the paper's theta, at least 0, float, a scalar; 0 is Bradley-Terry.

    Returns:
        Log-probabilities in nats, float (...): ``sigmoid(lead - eta)``, the rest,
        ``sigmoid(-lead - eta)``. At ``eta`` 0 a tie has -inf and passes no gradient to ``eta``.

    Source: Rao and Kupper 1967, "Ties in paired-comparison experiments: a generalization of the
    Bradley-Terry model".
    """
    win, lose = F.logsigmoid(lead - eta), F.logsigmoid(-lead - eta)
    # P(tie) = (theta^2 - 1) P(win) P(lose): no difference of nearly equal numbers.
    positive = eta > 0
    twice = 2.0 * torch.where(positive, eta, 1.0)
    factor = torch.where(positive, twice + torch.log(-torch.expm1(-twice)), -math.inf)
    return OutcomeLogProbs(win, factor + win + lose, lose)


def davidson_log_probs(lead: Tensor, log_nu: Tensor) -> OutcomeLogProbs:
    """Win, tie, lose in the ratio ``e^(lead/2) : nu : e^(-lead/2)``.

    Args:
        lead: Score less the other's score, float (...).
        log_nu: Log of the odds of a tie between equals, float, a scalar; -inf is Bradley-Terry.

    Returns:
        Log-probabilities in nats, float (...).

    Source: Davidson 1970, "On extending the Bradley-Terry model to accommodate ties in paired
    comparison experiments".
    """
    tie = log_nu.expand_as(lead)
    logits = torch.stack((0.5 * lead, tie, -0.5 * lead), dim=-1)
    return OutcomeLogProbs(*F.log_softmax(logits, dim=-1).unbind(dim=-1))


def rao_kupper_loss(
    scores: Tensor,
    ranks: Tensor,
    eta: Tensor,
    *,
    unordered: Tensor | None = None,
    pair_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per prompt, the mean loss over its pairs, ties included, after Rao and Kupper.

    Args:
        scores: float (N, K).
        ranks: integer (N, K).
        eta: See ``rao_kupper_log_probs``; learn it through softplus, which keeps it above 0.
        unordered: See ``tied_pairs``.
        pair_weights: See ``bradley_terry_loss``.

    Returns:
        ``(loss, counts)``: nats per pair, float (N,), 0 for a prompt without pairs; the number of
        pairs, each tie once, integer (N,).
    """
    outcomes = rao_kupper_log_probs(_leads(scores, ranks), eta)
    return _outcome_loss(outcomes, ranks, unordered, pair_weights)


def davidson_loss(
    scores: Tensor,
    ranks: Tensor,
    log_nu: Tensor,
    *,
    unordered: Tensor | None = None,
    pair_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per prompt, the mean loss over its pairs, ties included, after Davidson.

    Args:
        scores: float (N, K).
        ranks: integer (N, K).
        log_nu: See ``davidson_log_probs``; unbounded, so it can be learnt as it is.
        unordered: See ``tied_pairs``.
        pair_weights: See ``bradley_terry_loss``.

    Returns:
        ``(loss, counts)``: nats per pair, float (N,), 0 for a prompt without pairs; the number of
        pairs, each tie once, integer (N,).
    """
    outcomes = davidson_log_probs(_leads(scores, ranks), log_nu)
    return _outcome_loss(outcomes, ranks, unordered, pair_weights)


# -- Plackett-Luce


def plackett_luce_loss(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of whole rankings: the best is drawn first, then the next, ...

    A tie says nothing about the order of its members: its probability is the sum over their
    orders, computed exactly for groups of any size by a recursion over subsets. So are the
    candidates below the ranked ones where all others were called worse. The probabilities of all
    ways to fill tiers of given sizes sum to 1; ties themselves are no outcome here.

    Args:
        scores: float (N, K), K at most 16.
        ranks: integer (N, K).

    Returns:
        ``(loss, counts)``: nats per ranking, a sum and not a mean over its choices, float (N,), 0
        for a prompt without strict pairs; the choices made, that is the candidates put above
        some other, integer (N,). Divide the one by the other for nats per choice.

    Raises:
        ValueError: If K is more than 16.

    Source: Plackett 1975, "The analysis of permutations"; ties as the exact marginal likelihood
    of Kalbfleisch and Prentice 1973, "Marginal likelihoods based on Cox's regression and life
    model", which the formulas of Breslow and Efron approximate.
    """
    size = scores.shape[1]
    if size > MAX_LATTICE:
        raise ValueError(f"plackett_luce_loss takes at most {MAX_LATTICE} candidates, got {size}")
    ranked = ranks > 0
    safe = scores.masked_fill(~ranked, 0.0)
    better = strict_pairs(ranks)
    # Of every subset, the log-probability that its members come in an allowed order.
    logs = safe.new_zeros(len(safe), 1)
    layers = [logs]
    for members, rest in _subset_layers(size):
        ids, below = members.to(ranks.device), rest.to(ranks.device)
        beaten = better[:, ids[:, :, None], ids[:, None, :]].any(dim=2)
        drawn = safe[:, ids]
        # Some member is never beaten, so no sum is empty.
        ways = (drawn + logs[:, below]).masked_fill(beaten, -math.inf)
        logs = ways.logsumexp(dim=2) - drawn.logsumexp(dim=2)
        layers.append(logs)
    subset = (ranked.long() << torch.arange(size, device=ranks.device)).sum(dim=1)
    place = _subset_places(size).to(ranks.device)[subset]
    loss = -torch.cat(layers, dim=1).gather(1, place[:, None])[:, 0]
    counts = better.any(dim=2).sum(dim=1)
    return torch.where(counts > 0, loss, 0.0), counts


# -- where scores lie


def centering_penalty(scores: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Per prompt, the mean over its pairs of candidates of ``(score_i + score_j)^2``.

    It says where scores lie, which no order does.

    Args:
        scores: float (N, K); where ``candidates`` is False they may hold anything.
        candidates: bool (N, K).

    Returns:
        ``(penalty, counts)``: float (N,), 0 for fewer than two candidates; the number of pairs,
        integer (N,).

    Source: Eisenstein et al. 2023 (arXiv:2312.09244), for one pair; the mean over pairs keeps
    its scale for any K.
    """
    safe = scores.masked_fill(~candidates, 0.0)
    pairs = (candidates[:, :, None] & candidates[:, None, :]).triu(diagonal=1)
    return _mean_over_pairs((safe[:, :, None] + safe[:, None, :]).square(), pairs, None)


def all_bad_loss(scores: Tensor, bad: Tensor, *, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    """Per prompt, the mean of ``-log sigmoid(threshold - score)`` over completions called bad.

    Args:
        scores: float (N, K); where ``bad`` is False they may hold anything.
        bad: bool (N, K).
        threshold: What a bad completion should stay below, in units of score.

    Returns:
        ``(loss, counts)``: nats, float (N,), 0 where none is bad; the bad ones, integer (N,).
    """
    losses = -F.logsigmoid(threshold - scores.masked_fill(~bad, 0.0))
    counts = bad.sum(dim=1)
    return torch.where(bad, losses, 0.0).sum(dim=1) / counts.clamp(min=1), counts


def mean_over_rankings(loss: Tensor, counts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean over the rankings that count something; 0 when there are none.

    Args:
        loss: float (N,).
        counts: What each loss counted; rankings with 0 are left out, integer (N,).
        weights: Of rankings, or of their annotators, at least 0, float (N,).

    Returns:
        A scalar.
    """
    kept = (counts > 0).to(loss.dtype)
    if weights is not None:
        kept = kept * weights
    total = kept.sum()
    return (loss * kept).sum() / torch.where(total > 0, total, 1.0)


# -- private


def _leads(scores: Tensor, ranks: Tensor) -> Tensor:
    """Score of i less that of j at [n, i, j], (N, K) to (N, K, K); unranked scores count as 0."""
    safe = scores.masked_fill(ranks <= 0, 0.0)
    return safe[:, :, None] - safe[:, None, :]


def _mean_over_pairs(
    losses: Tensor, pairs: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Weighted mean of (N, K, K) where ``pairs``, giving (N,), and the number of pairs."""
    counts = pairs.sum(dim=(1, 2))
    total = torch.where(pairs, losses, 0.0)
    if weights is None:
        return total.sum(dim=(1, 2)) / counts.clamp(min=1), counts
    kept = torch.where(pairs, weights, 0.0)
    mass = kept.sum(dim=(1, 2))
    return (total * kept).sum(dim=(1, 2)) / torch.where(mass > 0, mass, 1.0), counts


def _outcome_loss(
    outcomes: OutcomeLogProbs,
    ranks: Tensor,
    unordered: Tensor | None,
    pair_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    tied, better = tied_pairs(ranks, unordered), strict_pairs(ranks)
    losses = -torch.where(tied, outcomes.tie, outcomes.win)
    return _mean_over_pairs(losses, better | tied, pair_weights)


@lru_cache(maxsize=MAX_LATTICE + 1)
def _subset_layers(size: int) -> list[tuple[Tensor, Tensor]]:
    """For subsets of 1, 2, ... of ``size`` things: their members, and where one leads if drawn.

    The second tensor holds, for every member, the place in the layer before of the subset
    without it. Both are integer (subsets of the layer, members).
    """
    subsets = torch.arange(2**size)
    held = ((subsets[:, None] >> torch.arange(size)) & 1).bool()
    counts = held.sum(dim=1)
    place = torch.zeros_like(subsets)
    layers = []
    for count in range(1, size + 1):
        layer = subsets[counts == count]
        members = held[layer].nonzero()[:, 1].view(-1, count)
        layers.append((members, place[layer[:, None] ^ (1 << members)]))
        place[layer] = torch.arange(len(layer))
    return layers


@lru_cache(maxsize=MAX_LATTICE + 1)
def _subset_places(size: int) -> Tensor:
    """Where each subset stands when subsets are sorted by their count, integer (2^size,)."""
    subsets = torch.arange(2**size)
    counts = ((subsets[:, None] >> torch.arange(size)) & 1).sum(dim=1)
    return counts.argsort(stable=True).argsort()
