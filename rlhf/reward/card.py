"""The reward card: what a reward model is worth on rankings that it never saw.

Axes: N rankings, K candidates, P strict pairs, U prompts, F figures.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.data.agreement import asked_first
from rlhf.ops.calibration import (
    best_temperature,
    expected_calibration_error,
    pair_confidence,
    reliability_curve,
    tie_auc,
)
from rlhf.ops.metrics import (
    annotator_agreement,
    bootstrap_ratio_intervals,
    correlation,
    kendall_tau_b,
)
from rlhf.ops.ranking import strict_pairs, tied_pairs
from rlhf.records import Demonstration, Prompt, Ranking
from rlhf.reward.probes import VARIANTS, Probe, build_probes

ScoreTexts = Callable[[Sequence[tuple[Prompt, str]]], Tensor]
"""Normalised scores of completions, float32 (B,)."""

Interval = dict[str, float | None]
"""``value``, the ends ``low`` and ``high`` of its 95 % interval, ``count`` of what is behind it."""

_Scores = Mapping[tuple[Prompt, str], float]

_NOBODY = "(none)"
_NO_POOL = "(none)"


def build_card(
    score_texts: ScoreTexts,
    count_tokens: Callable[[str], int],
    rankings: Sequence[Ranking],
    *,
    std: float,
    demonstrations: Sequence[Demonstration] = (),
    rankings_for_agreement: Sequence[Ranking] = (),
) -> dict[str, Any]:
    """Held-out figures as JSON values; what has no value is None, never NaN or infinite.

    Intervals come from resampled prompts and have no ends where a single prompt is behind them.

    Args:
        score_texts: Called once, or not at all without completions; each distinct completion is
            scored once, next to the others of its prompt.
        count_tokens: Length of a completion.
        rankings: Held out from training.
        std: The constant that scores were divided by. A difference of scores times ``std`` is
            the model's own logit of a preference, which calibration and temperature are about.
        demonstrations: Scored beside the completions, and the references of the probes.
        rankings_for_agreement: Everything that annotators ranked.
    """
    probes = build_probes(rankings, demonstrations)
    sampled = list(dict.fromkeys((r.prompt, text) for r in rankings for text in r.completions))
    written = [(item.prompt, item.completion) for item in demonstrations]
    scores = _score(score_texts, [*sampled, *written, *_probe_texts(probes)])
    lengths = {text: count_tokens(text) for text in dict.fromkeys(text for _, text in sampled)}
    table = _Table.of(rankings, scores, lengths)
    pairs = table.pairs()
    tied = table.tied_margins()
    return {
        "held_out_prompts": pairs.prompts,
        "held_out_rankings": len(rankings),
        "held_out_pairs": len(pairs.right),
        "held_out_ties": len(tied),
        **_accuracy(pairs),
        "by_candidates": _accuracy_by_number(pairs, pairs.candidates),
        "by_rank_distance": _accuracy_by_number(pairs, pairs.distance),
        "by_annotator": _accuracy_by_name(pairs, [r.annotator or _NOBODY for r in rankings]),
        "by_pool": _accuracy_by_name(pairs, [str(r.meta.get("pool", _NO_POOL)) for r in rankings]),
        "by_length": _accuracy_by_length(pairs),
        "kendall_tau_b": table.kendall_tau_b(rankings),
        "calibration": _calibration(std * pairs.margin),
        "tie_auc": _number(tie_auc(tied, pairs.margin)),
        "score_length_correlation": _score_length_correlation(sampled, scores, lengths),
        "scores": {
            "demonstrations": _spread([scores[row] for row in written]) if written else None,
            "completions": _spread([scores[row] for row in sampled]),
        },
        "probes": _probe_figures(probes, scores),
        "agreement": _agreement(rankings_for_agreement),
    }


def pair_accuracy(score_texts: ScoreTexts, rankings: Sequence[Ranking]) -> Interval:
    """Accuracy on the strict pairs of rankings, as in the card, and nothing else."""
    asked = list(dict.fromkeys((r.prompt, text) for r in rankings for text in r.completions))
    scores = _score(score_texts, asked)
    pairs = _Table.of(rankings, scores, {text: 0 for _, text in asked}).pairs()
    return _ratio(
        [str(place) for place in pairs.prompt.tolist()],
        [(1.0, right) for right in pairs.right.tolist()],
    )


# -- rankings as tensors


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Strict pairs: of a better and a worse candidate of one ranking."""

    prompts: int
    """U."""
    prompt: Tensor
    """Place of the prompt, integer (P,)."""
    ranking: Tensor
    """Place of the ranking, integer (P,)."""
    margin: Tensor
    """Score of the better less that of the worse, float64 (P,)."""
    right: Tensor
    """1 where the better scores higher, 0.5 where both score the same, else 0, float64 (P,)."""
    longer: Tensor
    """1 where the better is longer, 0.5 where both are as long, else 0, float64 (P,)."""
    length_difference: Tensor
    """Tokens between the two, integer (P,), 0 or more."""
    distance: Tensor
    """Tiers between the two, integer (P,), 1 for neighbours."""
    candidates: Tensor
    """Ranked completions of the ranking, integer (P,)."""

    def sums(self, values: Tensor) -> Tensor:
        """Sum of float64 (P,) over each prompt, (U,)."""
        return torch.zeros(self.prompts, dtype=torch.float64).index_add(0, self.prompt, values)


@dataclass(frozen=True, slots=True)
class _Table:
    """Rankings padded to K candidates."""

    prompts: int
    """U."""
    prompt: Tensor
    """Place of each ranking's prompt, integer (N,)."""
    ranks: Tensor
    """Tiers from 1, without gaps; 0 is unranked or padding, integer (N, K)."""
    unordered: Tensor
    """Candidates called worse than the ranked but compared with nobody else, bool (N, K)."""
    scores: Tensor
    """float64 (N, K)."""
    lengths: Tensor
    """Tokens, integer (N, K)."""

    @classmethod
    def of(cls, rankings: Sequence[Ranking], scores: _Scores, lengths: Mapping[str, int]) -> _Table:
        places: dict[str, int] = {}
        for ranking in rankings:
            places.setdefault(ranking.prompt.sha256, len(places))
        ranks = [_tiers(r.effective_ranks) for r in rankings]
        unordered = [[r.others_worse and rank is None for rank in r.ranks] for r in rankings]
        own = [[scores[r.prompt, text] for text in r.completions] for r in rankings]
        sizes = [[lengths[text] for text in r.completions] for r in rankings]
        return cls(
            prompts=len(places),
            prompt=torch.tensor([places[r.prompt.sha256] for r in rankings], dtype=torch.long),
            ranks=_padded(ranks).long(),
            unordered=_padded(unordered).bool(),
            scores=_padded(own),
            lengths=_padded(sizes).long(),
        )

    def pairs(self) -> _Pairs:
        """All strict pairs, ranking by ranking."""
        row, better, worse = strict_pairs(self.ranks).nonzero(as_tuple=True)
        margin = self.scores[row, better] - self.scores[row, worse]
        longer = self.lengths[row, better] - self.lengths[row, worse]
        return _Pairs(
            prompts=self.prompts,
            prompt=self.prompt[row],
            ranking=row,
            margin=margin,
            right=_wins(margin),
            longer=_wins(longer),
            length_difference=longer.abs(),
            distance=self.ranks[row, worse] - self.ranks[row, better],
            candidates=(self.ranks > 0).sum(dim=1)[row],
        )

    def tied_margins(self) -> Tensor:
        """Differences of score of candidates that were called equal, float64 (ties,)."""
        row, one, other = tied_pairs(self.ranks, self.unordered).nonzero(as_tuple=True)
        return self.scores[row, one] - self.scores[row, other]

    def kendall_tau_b(self, rankings: Sequence[Ranking]) -> Interval:
        """Mean over the rankings that have one; it has none where all scores are equal."""
        found = [
            kendall_tau_b(scores, ranks)
            for scores, ranks in zip(self.scores, self.ranks, strict=True)
        ]
        return _ratio(
            [ranking.prompt.sha256 for ranking in rankings],
            [(0.0, 0.0) if math.isnan(tau) else (1.0, tau) for tau in found],
        )


def _padded(rows: Sequence[Sequence[float]]) -> Tensor:
    """Rows of unequal length filled up with 0, float64 (N, K)."""
    size = max(map(len, rows), default=0)
    filled = [[*row, *[0] * (size - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.float64).view(len(rows), size)


def _tiers(ranks: Sequence[int | None]) -> list[int]:
    order = sorted({rank for rank in ranks if rank is not None})
    return [0 if rank is None else 1 + order.index(rank) for rank in ranks]


def _wins(differences: Tensor) -> Tensor:
    return (differences > 0).double() + 0.5 * (differences == 0).double()


# -- accuracy


def _accuracy(pairs: _Pairs) -> dict[str, Any]:
    """Accuracy beside that of the rule on length that does better on the same pairs."""
    total = len(pairs.right)
    longer = float(pairs.longer.mean()) if total else None
    shorter = None if longer is None else 1.0 - longer
    ruled, best = pairs.longer, longer
    if longer is not None and longer < 0.5:
        ruled, best = 1.0 - pairs.longer, shorter
    accuracy, lead = _intervals(
        torch.stack((pairs.sums(pairs.right), pairs.sums(pairs.right - ruled))),
        pairs.sums(torch.ones_like(pairs.right)).expand(2, -1),
    )
    return {
        "pair_accuracy": accuracy,
        "over_length_rule": lead,
        "longer_wins": longer,
        "shorter_wins": shorter,
        "best_length_rule": {
            "rule": "longer wins" if best == longer else "shorter wins",
            "value": best,
        },
    }


def _accuracy_by_number(pairs: _Pairs, numbers: Tensor) -> dict[str, Interval]:
    names = [str(number) for number in range(int(numbers.max()) + 1 if len(numbers) else 0)]
    return _accuracy_by(pairs, numbers, names)


def _accuracy_by_name(pairs: _Pairs, of_rankings: Sequence[str]) -> dict[str, Interval]:
    names = sorted(set(of_rankings))
    places = {name: place for place, name in enumerate(names)}
    of_ranking = torch.tensor([places[name] for name in of_rankings], dtype=torch.long)
    return _accuracy_by(pairs, of_ranking[pairs.ranking], names)


def _accuracy_by_length(pairs: _Pairs) -> dict[str, Interval]:
    """Accuracy by quartiles of the difference in tokens, pairs of one length apart."""
    unlike = pairs.length_difference[pairs.length_difference > 0].sort().values
    quartiles = {int(unlike[(len(unlike) * q - 1) // 4]) for q in (1, 2, 3) if len(unlike)}
    ends = sorted(quartiles - {int(unlike[-1])} if len(unlike) else quartiles)
    starts = [1, *(end + 1 for end in ends)]
    names = ["same length", *map(_length_name, starts, [*ends, None])]
    bucket = torch.bucketize(pairs.length_difference, torch.tensor([0, *ends]))
    return _accuracy_by(pairs, bucket, names)


def _length_name(start: int, end: int | None) -> str:
    unit = "token" if (end or start) == 1 else "tokens"
    if end is None:
        return f"{start} {unit} and more"
    return f"{start} {unit}" if start == end else f"{start} to {end} {unit}"


def _accuracy_by(pairs: _Pairs, labels: Tensor, names: Sequence[str]) -> dict[str, Interval]:
    """Accuracy of the pairs of each label that has any; ``labels`` are places in ``names``."""
    shape = len(names), pairs.prompts
    cells = labels * pairs.prompts + pairs.prompt
    counts = cells.bincount(minlength=math.prod(shape)).double()
    right = torch.zeros_like(counts).index_add(0, cells, pairs.right)
    found = _intervals(right.view(shape), counts.view(shape))
    return {name: item for name, item in zip(names, found, strict=True) if item["count"]}


# -- other figures


def _calibration(margins: Tensor) -> dict[str, Any]:
    """Reliability of the probabilities ``sigmoid(margin)``; no temperature where 0 or infinite."""
    curve = reliability_curve(*pair_confidence(margins))
    return {
        "curve": [[_number(mean), _number(right), int(count)] for mean, right, count in curve],
        "ece": _number(expected_calibration_error(curve)),
        "temperature": _number(best_temperature(margins)) or None,
    }


def _score_length_correlation(
    rows: Sequence[tuple[Prompt, str]], scores: _Scores, lengths: Mapping[str, int]
) -> float | None:
    """Pearson correlation of score and length, each less its mean over the prompt's completions.

    Distinct completions count once. What a prompt does to all of its completions is taken out.
    """
    by_prompt: dict[Prompt, list[list[float]]] = defaultdict(list)
    for prompt, text in rows:
        by_prompt[prompt].append([scores[prompt, text], float(lengths[text])])
    centered = [own - own.mean(dim=0) for own in map(_padded, by_prompt.values())]
    if not centered:
        return None
    return _number(correlation(*torch.cat(centered).unbind(dim=1)))


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (of n, not n - 1) of scores."""
    scores = torch.tensor(values, dtype=torch.float64)
    return {
        "mean": _number(float(scores.mean())),
        "std": _number(float(scores.std(correction=0))) if len(scores) else None,
        "count": len(scores),
    }


def _probe_texts(probes: Sequence[Probe]) -> list[tuple[Prompt, str]]:
    return [
        (probe.prompt, text)
        for probe in probes
        for text in (probe.reference, *probe.variants.values())
    ]


def _probe_figures(probes: Sequence[Probe], scores: _Scores) -> dict[str, dict[str, Any]]:
    """Mean scores, and for each variant the mean margin of the reference over it."""
    references = [scores[probe.prompt, probe.reference] for probe in probes]
    figures: dict[str, dict[str, Any]] = {"reference": _mean(references)}
    for name in VARIANTS:
        kept = [probe for probe in probes if name in probe.variants]
        own = [scores[probe.prompt, probe.variants[name]] for probe in kept]
        margins = [
            (1.0, scores[probe.prompt, probe.reference] - score)
            for probe, score in zip(kept, own, strict=True)
        ]
        margin = _ratio([probe.prompt.sha256 for probe in kept], margins)
        figures[name] = _mean(own) | {"margin": margin}
    return figures


def _mean(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": _number(sum(values) / len(values)) if values else None,
        "count": len(values),
    }


def _agreement(rankings: Sequence[Ranking]) -> Interval:
    """How often two annotators of a prompt agree on which of two completions is better.

    Of an annotator's rankings of the same completions the last one counts. Rankings without an
    annotator's name are taken to be by different people. Who was asked for a disagreement of
    others is left out.
    """
    by_prompt: dict[str, dict[object, Ranking]] = defaultdict(dict)
    for place, ranking in enumerate(asked_first(rankings)):
        if ranking.action == "rank":
            named = ranking.annotator, tuple(sorted(ranking.completions))
            who = place if ranking.annotator is None else named
            by_prompt[ranking.prompt.sha256][who] = ranking
    shared = {prompt: own for prompt, own in by_prompt.items() if len(own) > 1}
    outcomes = [annotator_agreement(_aligned(own.values())) for own in shared.values()]
    return _ratio(list(shared), outcomes)


def _aligned(rankings: Iterable[Ranking]) -> Tensor:
    """Ranks with a column for each distinct text, in whatever order it was shown, (A, K)."""
    columns: dict[str, int] = {}
    rows: list[dict[int, int]] = []
    for ranking in rankings:
        row: dict[int, int] = {}
        for text, rank in zip(ranking.completions, ranking.effective_ranks, strict=True):
            row.setdefault(columns.setdefault(text, len(columns)), rank or 0)
        rows.append(row)
    return torch.tensor([[row.get(column, 0) for column in columns.values()] for row in rows])


# -- scores and intervals


def _score(
    score_texts: ScoreTexts, rows: Iterable[tuple[Prompt, str]]
) -> dict[tuple[Prompt, str], float]:
    """Scores of distinct completions, asked for with those of a prompt side by side."""
    by_prompt: dict[Prompt, dict[str, None]] = defaultdict(dict)
    for prompt, text in rows:
        by_prompt[prompt][text] = None
    asked = [(prompt, text) for prompt, texts in by_prompt.items() for text in texts]
    if not asked:
        return {}
    return dict(zip(asked, score_texts(asked).double().tolist(), strict=True))


def _ratio(prompts: Sequence[str], outcomes: Sequence[tuple[float, float]]) -> Interval:
    """Ratio of the sums of ``(count, points)``, resampled by prompt and not by outcome."""
    count: dict[str, float] = defaultdict(float)
    points: dict[str, float] = defaultdict(float)
    for prompt, (weight, value) in zip(prompts, outcomes, strict=True):
        count[prompt] += weight
        points[prompt] += value
    top, bottom = (
        torch.tensor([list(part.values())], dtype=torch.float64) for part in (points, count)
    )
    return _intervals(top, bottom)[0]


def _intervals(points: Tensor, counts: Tensor) -> list[Interval]:
    """Ratios of points to counts, summed over prompts, (F, U) each; one interval per figure."""
    found = bootstrap_ratio_intervals(points, counts).tolist()
    totals = counts.sum(dim=1).tolist()
    return [
        {
            "value": _number(value),
            "low": _number(low),
            "high": _number(high),
            "count": round(total),
        }
        for (value, low, high), total in zip(found, totals, strict=True)
    ]


def _number(value: float | Tensor) -> float | None:
    return float(value) if math.isfinite(value) else None
