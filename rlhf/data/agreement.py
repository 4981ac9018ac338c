"""How far people agree in their rankings: alpha over pairs, strict pairs, Kendall's tau-b.

Pure Python, for reports that need no tensors. A vote is one person's order of two candidates of a
task. Whatever several people say of one prompt hangs together, so intervals come from resampled
prompts. Figures are NaN where nobody could have disagreed.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rlhf.records import Prompt, Ranking

Ranks = Sequence[int | None]
Sums = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of several people over the tasks that they share."""

    prompts: int
    """Prompts with a pair of candidates that two people or more compared."""
    alpha: Figure
    """Krippendorff's alpha; ties are an outcome of their own."""
    strict: Figure
    """Share of strict pairs that two people ordered alike; guessing gives 1/2."""
    tau: Figure
    """Mean tau-b of two people's rankings of one task."""


def asked_first(rankings: Iterable[Ranking]) -> list[Ranking]:
    """Leave out people who were asked because the first ones had disagreed.

    With theirs, prompts on which people disagree would weigh more than others, and agreement would
    not be that of prompts chosen by chance. A ranking store notes in ``meta`` how many people were
    ``planned`` and when each ``submitted_at``; rankings without such notes are all kept.
    """
    kept: list[tuple[int, Ranking]] = []
    tasks: dict[tuple[Prompt, frozenset[str]], list[tuple[int, Ranking]]] = defaultdict(list)
    for place, ranking in enumerate(rankings):
        if ranking.action == "skip" or _planned(ranking) is None:
            kept.append((place, ranking))
        else:
            tasks[ranking.prompt, frozenset(ranking.completions)].append((place, ranking))
    for made in tasks.values():
        made.sort(key=lambda one: str(one[1].meta.get("submitted_at", "")))
        kept += made[: max(_planned(one) or 0 for _, one in made)]
    return [ranking for _, ranking in sorted(kept, key=lambda one: one[0])]


def _planned(ranking: Ranking) -> int | None:
    planned = ranking.meta.get("planned")
    return planned if type(planned) is int and planned > 0 else None


def measure_agreement(
    rankings: Iterable[Ranking], *, resamples: int = 1000, seed: int = 0
) -> Agreement:
    """Measure agreement; only rankings with the action ``rank`` count, one per person and task."""
    tasks: dict[tuple[Prompt, frozenset[str]], list[dict[str, int | None]]] = defaultdict(list)
    for ranking in rankings:
        if ranking.action == "rank":
            texts = ranking.completions
            votes = dict(zip(texts, places(ranking.ranks, ranking.others_worse), strict=True))
            tasks[ranking.prompt, frozenset(texts)].append(votes)
    rows = [
        (prompt, [[votes[text] for text in sorted(shown)] for votes in votes_of])
        for (prompt, shown), votes_of in tasks.items()
    ]
    return agreement_of(rows, resamples=resamples, seed=seed)


def agreement_of(
    tasks: Iterable[tuple[Hashable, Sequence[Ranks]]], *, resamples: int, seed: int
) -> Agreement:
    """Measure agreement over tasks: of each its prompt and the ``places`` that each person gave.

    Prompts are what is resampled; they may be given by anything that tells them apart.
    """
    sums: dict[Hashable, list[float]] = defaultdict(lambda: [0.0] * 7)
    for prompt, rows in tasks:
        if len(rows) > 1:
            for place, value in enumerate(_sums_of_task(rows)):
                sums[prompt][place] += value
    clusters = [tuple(value) for value in sums.values() if value[1] + value[2]]
    figures = bootstrap_all(clusters, (_alpha, _strict, _tau), resamples, seed)
    return Agreement(len(clusters), *figures)


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float:
    """Krippendorff's alpha for nominal values; units with fewer than two values don't count.

    Args:
        units: Per unit, the values that people gave it, missing ones left out.

    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C.
    """
    agreeing, counts = 0.0, Counter[Hashable]()
    for unit in units:
        if len(unit) > 1:
            agreeing += _agreeing(Counter(unit).values())
            counts.update(unit)
    return _nominal_alpha(agreeing, list(counts.values()))


def kendall_tau_b(one: Ranks, other: Ranks) -> float:
    """Rank correlation of two rankings over what both ranked; NaN where one of them is all ties.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    signs = [(_sign(a - c), _sign(b - d)) for (a, b), (c, d) in combinations(both, 2)]
    untied = sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs)
    return sum(x * y for x, y in signs) / math.sqrt(untied) if untied else math.nan


def bootstrap(
    clusters: Sequence[Sums], figure: Callable[[Sums], float], resamples: int, seed: int
) -> Figure:
    """Give one figure of summed clusters; see ``bootstrap_all``."""
    return bootstrap_all(clusters, (figure,), resamples, seed)[0]


def bootstrap_all(
    clusters: Sequence[Sums],
    figures: Sequence[Callable[[Sums], float]],
    resamples: int,
    seed: int,
) -> list[Figure]:
    """Give figures of summed clusters with percentile intervals from resampled clusters.

    The interval is infinite for a single cluster; resamples that give NaN are left out.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    total = _total(clusters)
    values = [figure(total) for figure in figures]
    drawn: list[Sums] = []
    if len(clusters) > 1 and not all(map(math.isnan, values)):
        rng = random.Random(seed)
        drawn = [_total(rng.choices(clusters, k=len(clusters))) for _ in range(resamples)]
    return [
        _with_interval(value, [figure(sums) for sums in drawn])
        for value, figure in zip(values, figures, strict=True)
    ]


def _with_interval(value: float, drawn: Iterable[float]) -> Figure:
    if math.isnan(value):
        return Figure(value, value, value)
    found = sorted(number for number in drawn if not math.isnan(number))
    if not found:
        return Figure(value, -math.inf, math.inf)
    return Figure(value, _quantile(found, 0.025), _quantile(found, 0.975))


def places(ranks: Ranks, others_worse: bool) -> Ranks:
    """Give ranks in which the unranked share a last place of their own if they were called worse.

    Two candidates there are not compared with each other.
    """
    if not others_worse:
        return ranks
    return tuple(_LAST if rank is None else rank for rank in ranks)


def order_of(one: int | None, other: int | None) -> int | None:
    """Compare two ``places``: -1 for the first better, 1 for the second, None if not compared."""
    if one is None or other is None or one == other == _LAST:
        return None
    return _sign(one - other)


# -- sums over a prompt ---------------------------------------------------------------------------


def _sums_of_task(rows: Sequence[Ranks]) -> Iterator[float]:
    """Give what adds up over tasks: for alpha (3), strict pairs (2) and tau-b (2)."""
    sums = [0.0] * 7
    for i, j in combinations(range(len(rows[0])), 2):
        for place, value in enumerate(_sums_of_pair(_votes(rows, i, j))):
            sums[place] += value
    for one, other in combinations(rows, 2):
        tau = kendall_tau_b(one, other)
        if not math.isnan(tau):
            sums[5] += tau
            sums[6] += 1.0
    yield from sums


def _sums_of_pair(votes: Mapping[int | None, int]) -> Sums:
    """Sum up the votes on two candidates, for alpha in both orientations.

    Otherwise alpha would depend on which of the two is called the first.
    """
    first, second, ties = votes[-1], votes[1], votes[0]
    strict = first + second
    alpha = (0.0, 0.0, 0.0)
    if strict + ties > 1:
        alpha = (2.0 * _agreeing((first, second, ties)), float(strict), 2.0 * ties)
    if strict < 2:
        return (*alpha, 0.0, 0.0)
    return (*alpha, _agreeing((first, second)) / 2.0, strict / 2.0)


def _votes(rows: Sequence[Ranks], i: int, j: int) -> Counter[int | None]:
    """Count who put candidate i above j (-1), below (1) or beside it (0)."""
    return Counter(order_of(row[i], row[j]) for row in rows)


def _agreeing(counts: Iterable[int]) -> float:
    """Pairs of values of one unit that are alike, each value counted once in all."""
    counts = list(counts)
    return sum(count * (count - 1) for count in counts) / (sum(counts) - 1)


# -- figures from sums ----------------------------------------------------------------------------


def _alpha(sums: Sums) -> float:
    agreeing, strict, ties = sums[:3]
    return _nominal_alpha(agreeing, (strict, strict, ties))


def _strict(sums: Sums) -> float:
    return sums[3] / sums[4] if sums[4] else math.nan


def _tau(sums: Sums) -> float:
    return sums[5] / sums[6] if sums[6] else math.nan


def _nominal_alpha(agreeing: float, counts: Sequence[float]) -> float:
    n = sum(counts)
    different = n * n - sum(count * count for count in counts)
    return 1.0 - (n - 1.0) * (n - agreeing) / different if different else math.nan


# -- small things ---------------------------------------------------------------------------------

_LAST = 10**6
"""Place of the candidates that were called worse than all ranked ones, not compared themselves."""


def _sign(difference: int) -> int:
    return (difference > 0) - (difference < 0)


def _total(clusters: Sequence[Sums]) -> Sums:
    return tuple(map(sum, zip(*clusters, strict=True))) if clusters else (0.0,) * 7


def _quantile(values: Sequence[float], share: float) -> float:
    """Interpolate between the two nearest of sorted values."""
    place = share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])
