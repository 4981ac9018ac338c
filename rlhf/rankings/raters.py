"""Figures of each person: what they ranked, how fast, and how far others and gold agree."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from rlhf.data.agreement import Figure, Sums, bootstrap, order_of, places
from rlhf.store import Ranked, RankedTask, Snapshot, gold_share
from rlhf.store.checks import effective_ranks
from rlhf.store.contracts import UNCOUNTED

SHORTEST_S = 3.0
"""Nobody reads several answers faster than this."""
FAST_SHARE = 0.25
"""Share of the usual time below which a ranking is too fast."""
_ENOUGH = 20
_UNKNOWN = re.compile(r"unknown-\d+")


@dataclass(frozen=True, slots=True)
class GoldCount:
    """How many gold tasks somebody ranked, and how many of them well enough."""

    passed: int
    seen: int


@dataclass(frozen=True, slots=True)
class Person:
    """Figures of one person; those whom an import could not name are one.

    Rankings of gold and training tasks count in ``gold`` and in the times alone.
    """

    pseudonym: str
    simulated: bool
    """True for a program."""
    rankings: int
    """Those that order answers; the next three are counted apart."""
    skips: int
    cannot_judge: int
    all_bad: int
    flags: int
    ties_share: float
    """Share of the compared pairs that were called equally good."""
    median_active_s: float
    too_fast: int
    agreement_with_others: Figure
    """Of the strict pairs that others ordered too, the mean share of others who did so alike."""
    gold: GoldCount
    rank_first_share: tuple[float, ...]
    """How often the answer at each place of the screen was the best, of the number of answers
    that the person ranked most often."""


@dataclass(frozen=True, slots=True)
class FastRanking:
    """A ranking made in less time than reading takes."""

    ranking: int
    pseudonym: str
    seconds: float


def measure_people(
    snapshot: Snapshot, fast: Iterable[FastRanking], training_pass: float, resamples: int, seed: int
) -> tuple[Person, ...]:
    """Measure everybody, those with an account and no ranking included.

    Args:
        snapshot: What the store holds.
        fast: What ``find_fast`` found.
        training_pass: Share of a gold task's pairs from which it is passed.
        resamples: How often prompts are drawn for the intervals.
        seed: Seed of the draws.
    """
    theirs: dict[str, list[Ranked]] = {shown_name(name): [] for name in snapshot.people}
    for ranking in snapshot.rankings:
        theirs.setdefault(shown_name(ranking.annotator), []).append(ranking)
    too_fast = Counter(shown_name(ranking.pseudonym) for ranking in fast)
    agreement = _agreement_with_others(snapshot)
    people = []
    for name, made in theirs.items():
        counted = [one for one in made if is_counted(snapshot.ranked_tasks[one.task_id])]
        actions = Counter(ranking.action for ranking in counted)
        sums = list(agreement.get(name, {}).values())
        people.append(
            Person(
                pseudonym=name,
                simulated=any(ranking.simulated for ranking in made),
                rankings=actions["rank"],
                skips=actions["skip"],
                cannot_judge=actions["cannot_judge"],
                all_bad=actions["all_bad"],
                flags=sum(len(ranking.flags) for ranking in counted),
                ties_share=ties_share(counted),
                median_active_s=median_seconds(made),
                too_fast=too_fast[name],
                agreement_with_others=bootstrap(sums, _share, resamples, seed),
                gold=_gold(snapshot, made, training_pass),
                rank_first_share=_first_shares(counted),
            )
        )
    return tuple(people)


def shown_name(pseudonym: str) -> str:
    """Give one name to all whom an import could not name."""
    return "unknown" if _UNKNOWN.fullmatch(pseudonym) else pseudonym


def is_counted(task: RankedTask) -> bool:
    """Say whether rankings of a task tell of answers, not of people."""
    return task.pool not in UNCOUNTED


def planned_rankings(snapshot: Snapshot) -> list[Ranked]:
    """Give the orders that say how far people agree: by those wanted from the start, no program.

    Others are asked where the first ones disagree; with them, such tasks would weigh more than
    the rest, and a person who guesses would seem to agree.
    """
    tasks = snapshot.ranked_tasks
    made: dict[int, list[Ranked]] = defaultdict(list)
    for ranking in snapshot.rankings:
        task = tasks[ranking.task_id]
        if is_counted(task) and not ranking.simulated and ranking.action != "skip":
            made[ranking.task_id].append(ranking)
    first = [
        ranking
        for number, theirs in made.items()
        for ranking in sorted(theirs, key=_arrival)[: tasks[number].planned]
    ]
    return [ranking for ranking in first if ranking.action == "rank"]


def _arrival(ranking: Ranked) -> tuple[int, int]:
    return ranking.submitted_ms, ranking.ranking_id


def ties_share(rankings: Iterable[Ranked]) -> float:
    """Share of compared pairs that were called equally good; NaN where none was compared."""
    orders: Counter[int | None] = Counter()
    for ranking in rankings:
        if ranking.action == "rank":
            row = places(ranking.ranks, ranking.others_worse)
            orders.update(order_of(one, other) for one, other in combinations(row, 2))
    compared = orders[-1] + orders[0] + orders[1]
    return orders[0] / compared if compared else math.nan


def first_slots(rankings: Iterable[Ranked]) -> Iterator[tuple[int, int]]:
    """Yield, of each ranking with a single best answer, the number of answers and its place.

    A shared first rank says nothing of places, and where the order on the screen is not known
    (rankings made elsewhere) nothing can be said.
    """
    for ranking in rankings:
        ranks, shown = ranking.ranks, ranking.shown_order
        if ranking.action == "rank" and shown is not None and ranks.count(1) == 1:
            yield len(ranks), shown.index(ranks.index(1))


def median_seconds(rankings: Iterable[Ranked]) -> float:
    """Median of the times that people spent on what they did not skip; NaN where none is known."""
    times = [time for _, time in _timed(rankings)]
    return median(times) if times else math.nan


def find_fast(snapshot: Snapshot) -> tuple[FastRanking, ...]:
    """Find rankings that took less than 3 s or than a quarter of the usual time, fastest first.

    The usual time is the median over tasks whose texts are about as long (within a factor of
    two), or over all tasks where fewer than 20 rankings tell.
    """
    tasks = snapshot.ranked_tasks
    timed = [
        (ranking, time)
        for ranking, time in _timed(snapshot.rankings)
        if ranking.action in ("rank", "all_bad")
    ]
    times: dict[int, list[float]] = defaultdict(list)
    for ranking, time in timed:
        times[tasks[ranking.task_id].length.bit_length()].append(time)
    overall = median([time for _, time in timed]) if timed else 0.0
    usual = {
        size: median(known) if len(known) >= _ENOUGH else overall for size, known in times.items()
    }
    found = [
        FastRanking(ranking.ranking_id, ranking.annotator, time)
        for ranking, time in timed
        if time < max(SHORTEST_S, FAST_SHARE * usual[tasks[ranking.task_id].length.bit_length()])
    ]
    return tuple(sorted(found, key=lambda fast: (fast.seconds, fast.ranking)))


def _timed(rankings: Iterable[Ranked]) -> Iterator[tuple[Ranked, float]]:
    """Yield rankings of people whose time is known, skips left out, with it in seconds."""
    for ranking in rankings:
        if ranking.active_ms is not None and not ranking.simulated and ranking.action != "skip":
            yield ranking, ranking.active_ms / 1000


def _agreement_with_others(snapshot: Snapshot) -> dict[str, dict[str, Sums]]:
    """Sum up, per person and prompt, agreement over pairs and the number of pairs."""
    tasks: dict[int, list[Ranked]] = defaultdict(list)
    for ranking in planned_rankings(snapshot):
        tasks[ranking.task_id].append(ranking)
    sums: dict[str, dict[str, Sums]] = defaultdict(dict)
    for number, rankings in tasks.items():
        prompt = snapshot.ranked_tasks[number].prompt.sha256 if len(rankings) > 1 else ""
        for ranking, (alike, pairs) in zip(rankings, _alike(rankings), strict=True):
            if pairs:
                theirs = sums[shown_name(ranking.annotator)]
                before = theirs.get(prompt, (0.0, 0.0))
                theirs[prompt] = (before[0] + alike, before[1] + pairs)
    return sums


def _alike(rankings: Sequence[Ranked]) -> list[Sums]:
    """Give, for each ranking of a task, how far the others agree over its strict pairs."""
    rows = [places(ranking.ranks, ranking.others_worse) for ranking in rankings]
    sums = [[0.0, 0.0] for _ in rows]
    for i, j in combinations(range(len(rows[0])), 2):
        orders = [order_of(row[i], row[j]) for row in rows]
        votes = Counter(orders)
        others = votes[-1] + votes[1] - 1
        for own, order in zip(sums, orders, strict=True):
            if order and others > 0:
                own[0] += (votes[order] - 1) / others
                own[1] += 1.0
    return [(alike, pairs) for alike, pairs in sums]


def _gold(snapshot: Snapshot, made: Iterable[Ranked], training_pass: float) -> GoldCount:
    passed = seen = 0
    for ranking in made:
        task = snapshot.ranked_tasks[ranking.task_id]
        if task.pool == "gold" and task.gold is not None and ranking.action != "skip":
            share = gold_share(task.gold, effective_ranks(ranking.ranks, ranking.others_worse))
            seen += 1
            passed += share is not None and share >= training_pass
    return GoldCount(passed, seen)


def _first_shares(rankings: Iterable[Ranked]) -> tuple[float, ...]:
    found = list(first_slots(rankings))
    if not found:
        return ()
    count = Counter(k for k, _ in found).most_common(1)[0][0]
    slots = Counter(slot for k, slot in found if k == count)
    return tuple(slots[slot] / slots.total() for slot in range(count))


def _share(sums: Sums) -> float:
    return sums[0] / sums[1] if sums[1] else math.nan
