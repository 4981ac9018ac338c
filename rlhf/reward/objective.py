"""What reward training minimises: losses on rankings, and the few parameters they learn.

Axes: N rankings, K candidates, A annotators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlhf.config import TIE_LOSSES, RewardConfig, as_tuple
from rlhf.errors import ConfigError, DataError
from rlhf.ops.ranking import (
    all_bad_loss,
    annotator_error_loss,
    bradley_terry_loss,
    centering_penalty,
    davidson_loss,
    error_shrinkage,
    place_unranked,
    plackett_luce_loss,
    rao_kupper_loss,
    strength_margins,
    strict_pairs,
    tied_pairs,
)
from rlhf.records import Ranking

_TIE_SHARES = (0.01, 0.9)
"""Bounds of the share of ties that a tie parameter starts from."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What people said of a batch of completions."""

    ranks: Tensor
    """1 is best, equal ranks are ties, 0 is unranked or padding, integer (N, K)."""
    unordered: Tensor
    """Candidates that share the last rank without having been compared, bool (N, K)."""
    candidates: Tensor
    """False at padding, bool (N, K)."""
    bad: Tensor
    """Candidates of rankings in which all were called bad, bool (N, K)."""
    strengths: Tensor
    """How much better each tier is than the next, float (N, K)."""
    annotators: Tensor
    """Who made each ranking, integer (N,)."""

    def to(self, device: torch.device) -> Targets:
        """Give the same on a device."""
        return Targets(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class RankingObjective:
    """The loss of a config, with its tie parameter and the annotators' errors where it has them.

    Args:
        config: Which loss, and what it does with ties, strengths, errors and "all bad".
        rankings: Those to train on; the annotators among them get a number each.
    """

    def __init__(self, config: RewardConfig, rankings: Sequence[Ranking]) -> None:
        self.config = config
        names = sorted({ranking.annotator or "" for ranking in rankings})
        self._numbers = {name: number for number, name in enumerate(names)}
        self._weights = annotator_weights(config)
        self._pairs = 0
        self.parameters: dict[str, nn.Parameter] = {}
        used = [ranking for ranking in rankings if self.uses(ranking)]
        if used:
            self._start(self.targets(used))

    def uses(self, ranking: Ranking) -> bool:
        """Tell whether a ranking teaches anything here."""
        if ranking.action not in ("rank", "all_bad") or self.weight(ranking) == 0:
            return False
        if ranking.action == "all_bad":
            return self.config.all_bad != "skip"
        targets = self.targets([ranking])
        ordered = strict_pairs(targets.ranks).any()
        return bool(ordered or (self._uses_ties and self._ties(targets).any()))

    def weight(self, ranking: Ranking) -> float:
        """What a ranking counts: its own ``weight`` times that of its annotator.

        Raises:
            DataError: If its own is no number of 0 or more.
        """
        own = ranking.meta.get("weight", 1.0)
        if isinstance(own, bool) or not isinstance(own, int | float) or not 0 <= own < math.inf:
            raise DataError(f"meta 'weight' is {own!r}; give a number from 0")
        return float(own) * self._weights.get(ranking.annotator or "(none)", 1.0)

    def targets(self, rankings: Sequence[Ranking]) -> Targets:
        """Put rankings into one batch of targets, padded to the largest K."""
        size = max(len(ranking.completions) for ranking in rankings)

        def table(rows: Sequence[Sequence[float]]) -> Tensor:
            return torch.tensor([[*row, *[0] * (size - len(row))] for row in rows])

        candidates = table([[1] * len(r.completions) for r in rankings]).bool()
        all_bad = torch.tensor([ranking.action == "all_bad" for ranking in rankings])
        bad = candidates & all_bad[:, None]
        given = table([[rank or 0 for rank in ranking.ranks] for ranking in rankings]).long()
        if self.config.all_bad == "ties":
            given = torch.where(bad, 1, given)
        others_worse = torch.tensor([ranking.others_worse for ranking in rankings])
        ranks, unordered = place_unranked(given, candidates, others_worse)
        return Targets(
            ranks=ranks,
            unordered=unordered,
            candidates=candidates,
            bad=bad,
            strengths=table([(ranking.strengths or ())[:size] for ranking in rankings]).float(),
            annotators=torch.tensor([self._numbers[r.annotator or ""] for r in rankings]),
        )

    def loss(self, scores: Tensor, targets: Targets) -> Tensor:
        """Loss of each ranking in nats, float (N,).

        Args:
            scores: Raw, float (N, K); padding may hold anything.
            targets: On the same device.
        """
        config = self.config
        loss = self._order_loss(scores, targets)
        if config.center_rewards_coefficient > 0:
            penalty, _ = centering_penalty(scores, targets.candidates)
            loss = loss + config.center_rewards_coefficient * penalty
        if config.all_bad == "below_zero":
            loss = loss + config.all_bad_coef * all_bad_loss(scores, targets.bad)[0]
        return loss

    def prior(self) -> Tensor:
        """What stands beside the mean loss whatever the batch: nats per pair, a scalar."""
        errors = self.parameters.get("annotator_errors")
        if errors is None:
            return torch.zeros(())
        spread = self.config.annotator_error_std
        return error_shrinkage(errors, center=self._error_logit, std=spread) / self._pairs

    def figures(self) -> dict[str, float]:
        """What was learnt beside the scores: the tie parameter, each annotator's error."""
        found = {}
        if "tie" in self.parameters:
            tie = self.parameters["tie"].detach()
            is_threshold = self.config.loss == "rao_kupper"
            found["tie_threshold" if is_threshold else "tie_odds"] = float(
                F.softplus(tie) if is_threshold else tie.exp()
            )
        if "annotator_errors" in self.parameters:
            errors = torch.sigmoid(self.parameters["annotator_errors"].detach()).tolist()
            names = (name or "(none)" for name in self._numbers)
            found |= {f"annotator_error/{n}": e for n, e in zip(names, errors, strict=True)}
        return found

    @property
    def _error_logit(self) -> float:
        """What an annotator's error is drawn towards."""
        return math.log(self.config.annotator_error / (1.0 - self.config.annotator_error))

    @property
    def _uses_ties(self) -> bool:
        return self.config.ties == "half" or self.config.loss in TIE_LOSSES

    def _ties(self, targets: Targets) -> Tensor:
        return tied_pairs(targets.ranks, targets.unordered)

    def _start(self, targets: Targets) -> None:
        """Make the parameters; a tie parameter explains the share of ties among equals."""
        pairs = int(strict_pairs(targets.ranks).sum())
        self._pairs = max(1, pairs)
        if self.config.loss in TIE_LOSSES:
            low, high = _TIE_SHARES
            ties = int(self._ties(targets).sum())
            share = min(high, max(low, ties / max(1, ties + pairs)))
            if self.config.loss == "rao_kupper":
                eta = math.log((1.0 + share) / (1.0 - share))
                start = math.log(math.expm1(eta))
            else:
                start = math.log(2.0 * share / (1.0 - share))
            self.parameters["tie"] = nn.Parameter(torch.tensor(start))
        if self.config.learn_annotator_errors:
            errors = torch.full((len(self._numbers),), self._error_logit)
            self.parameters["annotator_errors"] = nn.Parameter(errors)

    def _order_loss(self, scores: Tensor, targets: Targets) -> Tensor:
        config, ranks, unordered = self.config, targets.ranks, targets.unordered
        if config.loss == "plackett_luce":
            loss, choices = plackett_luce_loss(scores, ranks)
            return loss / choices.clamp(min=1)
        if config.loss == "rao_kupper":
            eta = F.softplus(self.parameters["tie"])
            return rao_kupper_loss(scores, ranks, eta, unordered=unordered)[0]
        if config.loss == "davidson":
            log_nu = self.parameters["tie"]
            return davidson_loss(scores, ranks, log_nu, unordered=unordered)[0]
        if config.learn_annotator_errors:
            errors = self.parameters["annotator_errors"]
            return annotator_error_loss(scores, ranks, errors, targets.annotators)[0]
        margins = None
        if config.strength_margin > 0:
            margins = strength_margins(ranks, config.strength_margin * targets.strengths)
        return bradley_terry_loss(
            scores,
            ranks,
            label_smoothing=config.label_smoothing,
            margins=margins,
            soft_ties=config.ties == "half",
            unordered=unordered,
        )[0]


def annotator_weights(config: RewardConfig) -> dict[str, float]:
    """What a person's rankings count, by name, for those whom the config names.

    Raises:
        ConfigError: Where an entry is not NAME=WEIGHT.
    """
    weights = {}
    for text in as_tuple(config.annotator_weights):
        name, _, weight = text.rpartition("=")
        try:
            value = float(weight)
        except ValueError:
            value = -1.0
        if not name or not 0 <= value < math.inf:
            raise ConfigError(f"annotator_weights: {text!r} is not NAME=WEIGHT, a weight from 0")
        weights[name] = value
    return weights


def check_annotators(config: RewardConfig, rankings: Sequence[Ranking]) -> None:
    """Refuse a weight for somebody who ranked nothing.

    Raises:
        ConfigError: Naming who did.
    """
    names = {ranking.annotator or "(none)" for ranking in rankings}
    for name in annotator_weights(config):
        if name not in names:
            known = ", ".join(sorted(names)[:8])
            raise ConfigError(f"annotator_weights: nobody is called {name!r}; there are {known}")
