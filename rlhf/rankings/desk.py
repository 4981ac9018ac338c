"""Figures of a whole store: what is done, who is at it, how fast and how far people agree.

The admin's screen shows them and ``rlhf rankings report`` prints them. Skips are no rankings
here, and gold and training tasks are left out of everything but the figures of people.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from rlhf.data.agreement import Agreement, Ranks, agreement_of, kendall_tau_b, places
from rlhf.data.chance import chi_square, chi_square_p
from rlhf.rankings.raters import (
    FastRanking,
    Person,
    find_fast,
    first_slots,
    is_counted,
    measure_people,
    median_seconds,
    planned_rankings,
    ties_share,
)
from rlhf.records import Prompt
from rlhf.store import Covered, Lease, Ranked, RankingStore, Snapshot

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
HOURS, DAYS = 24, 14
_PAUSE_MS = HOUR_MS // 2
"""Nobody is at work any more when this long nothing has been ranked."""
_EXPECTED = 5
"""Fewer expected counts than this make the chi-square test unreliable."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many tasks have been ranked by how many of the people wanted."""

    wanted: int
    done: int
    tasks: int


@dataclass(frozen=True, slots=True)
class PoolAgreement:
    """Agreement over the tasks chosen by chance, and over all, of the people planned."""

    random: Agreement
    all: Agreement


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How often the answer at each place of the screen was the single best, of k answers."""

    k: int
    counts: tuple[int, ...]
    chi_square: float
    df: int
    p: float
    """Probability of differences as large by chance alone; NaN where too few rankings tell."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What people did instead of ranking, as shares of all that they were shown, and why."""

    rankings: int
    """All that they did, skips included."""
    skip: float
    cannot_judge: float
    all_bad: float
    ties: float
    """Share of the compared pairs that were called equally good."""
    reasons: dict[str, int]
    flags: dict[str, int]


@dataclass(frozen=True, slots=True)
class Desk:
    """The figures of a store at one moment."""

    now_ms: int
    coverage: tuple[Coverage, ...]
    tasks: int
    open: int
    """Tasks that still need people and are not paused."""
    done: int
    paused: int
    """Tasks that still need people and are paused."""
    surplus: int
    """Rankings beyond the wanted ones."""
    leases: tuple[Lease, ...]
    per_hour: tuple[int, ...]
    """Rankings in each of 24 hours of the clock, the present one last."""
    per_day: tuple[int, ...]
    """Rankings on each of 14 days (UTC), today last."""
    median_active_s: float
    agreement: PoolAgreement
    people: tuple[Person, ...]
    position_bias: tuple[PositionBias, ...]
    rates: Rates
    eta_hours: float
    """Free places of open tasks over the rankings per hour of work in the last 24 hours. Work
    goes on from one ranking to the next, for half an hour at most. NaN before two rankings."""
    too_fast: tuple[FastRanking, ...]

    def to_json(self) -> dict[str, Any]:
        """Give the figures as JSON values; what is not defined, or has no bound, is null."""
        figures: dict[str, Any] = _plain(asdict(self))
        return figures


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """A task that several people ranked."""

    task_id: int
    prompt: Prompt
    people: int
    agreement: float
    """Mean tau-b of two people's rankings."""
    reviewed: bool
    """True when a reviewer has decided it."""


def measure_desk(store: RankingStore, now_ms: int, *, resamples: int = 200, seed: int = 0) -> Desk:
    """Measure a store.

    Args:
        store: What to measure.
        now_ms: The present time.
        resamples: How often prompts are drawn for the intervals of agreement.
        seed: Seed of the draws.
    """
    snapshot = store.snapshot(now_ms)
    counted = [
        ranking
        for ranking in snapshot.rankings
        if is_counted(snapshot.ranked_tasks[ranking.task_id])
    ]
    done = [ranking for ranking in counted if ranking.action != "skip"]
    per_hour = _per(HOUR_MS, HOURS, done, now_ms)
    fast = find_fast(snapshot)
    training_pass = store.settings().training_pass
    return Desk(
        now_ms=now_ms,
        coverage=_coverage(snapshot.covered),
        **_task_counts(snapshot.covered),
        leases=snapshot.leases,
        per_hour=per_hour,
        per_day=_per(DAY_MS, DAYS, done, now_ms),
        median_active_s=median_seconds(counted),
        agreement=measure_pools(snapshot, resamples, seed),
        people=measure_people(snapshot, fast, training_pass, resamples, seed),
        position_bias=_position_bias(one for one in counted if not one.simulated),
        rates=_rates(counted),
        eta_hours=_eta(snapshot.covered, [one.submitted_ms for one in done], now_ms),
        too_fast=fast,
    )


def review_list(store: RankingStore) -> tuple[ReviewItem, ...]:
    """Give the tasks that several people ranked, lowest agreement first.

    Tasks of which nobody could have disagreed (all answers tied, none in common) are left out.
    """
    snapshot = store.snapshot()
    items = []
    made = [one for one in snapshot.rankings if is_counted(snapshot.ranked_tasks[one.task_id])]
    for number, rows in _rows_by_task(made).items():
        taus = [
            kendall_tau_b(one, other) for place, one in enumerate(rows) for other in rows[:place]
        ]
        known = [tau for tau in taus if not math.isnan(tau)]
        if known:
            prompt, agreement = snapshot.ranked_tasks[number].prompt, sum(known) / len(known)
            reviewed = number in snapshot.decided
            items.append(ReviewItem(number, prompt, len(rows), agreement, reviewed))
    return tuple(sorted(items, key=lambda item: (item.agreement, item.task_id)))


def measure_pools(snapshot: Snapshot, resamples: int, seed: int) -> PoolAgreement:
    """Measure agreement of the people planned, over the random pool and all counted tasks."""
    by_task = _rows_by_task(planned_rankings(snapshot))
    tasks = snapshot.ranked_tasks
    everything = [(tasks[number].prompt, rows) for number, rows in by_task.items()]
    by_chance = [
        (tasks[number].prompt, rows)
        for number, rows in by_task.items()
        if tasks[number].pool == "random"
    ]
    return PoolAgreement(
        random=agreement_of(by_chance, resamples=resamples, seed=seed),
        all=agreement_of(everything, resamples=resamples, seed=seed),
    )


def _rows_by_task(rankings: Iterable[Ranked]) -> dict[int, list[Ranks]]:
    """Give the orders of each task that several people ranked."""
    rows: dict[int, list[Ranks]] = defaultdict(list)
    for ranking in rankings:
        if ranking.action == "rank":
            rows[ranking.task_id].append(places(ranking.ranks, ranking.others_worse))
    return {number: given for number, given in rows.items() if len(given) > 1}


def _coverage(covered: Iterable[Covered]) -> tuple[Coverage, ...]:
    tasks: Counter[tuple[int, int]] = Counter()
    for row in covered:
        tasks[row.wanted, row.done] += row.tasks
    return tuple(Coverage(wanted, done, count) for (wanted, done), count in sorted(tasks.items()))


def _task_counts(covered: Sequence[Covered]) -> dict[str, int]:
    waiting = [row for row in covered if row.done < row.wanted]
    paused = sum(row.tasks for row in waiting if row.paused)
    tasks, needy = (sum(row.tasks for row in rows) for rows in (covered, waiting))
    surplus = sum(row.tasks * max(0, row.done - row.wanted) for row in covered)
    return {
        "tasks": tasks,
        "open": needy - paused,
        "done": tasks - needy,
        "paused": paused,
        "surplus": surplus,
    }


def _per(length_ms: int, count: int, rankings: Iterable[Ranked], now_ms: int) -> tuple[int, ...]:
    """Count rankings in each of the last hours or days."""
    last = now_ms // length_ms
    numbers = Counter(last - ranking.submitted_ms // length_ms for ranking in rankings)
    return tuple(numbers[age] for age in reversed(range(count)))


def _position_bias(rankings: Iterable[Ranked]) -> tuple[PositionBias, ...]:
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for k, slot in first_slots(rankings):
        found[k][slot] += 1
    rows = []
    for k, slots in sorted(found.items()):
        counts = tuple(slots[slot] for slot in range(k))
        statistic = chi_square(counts)
        enough = sum(counts) >= _EXPECTED * k
        p = chi_square_p(statistic, k - 1) if enough else math.nan
        rows.append(PositionBias(k, counts, statistic, k - 1, p))
    return tuple(rows)


def _rates(rankings: Sequence[Ranked]) -> Rates:
    actions = Counter(ranking.action for ranking in rankings)
    reasons = Counter(ranking.reason for ranking in rankings if ranking.reason)
    flags = Counter(flag for ranking in rankings for flag in ranking.flags)
    count = len(rankings)

    def share(action: str) -> float:
        return actions[action] / count if count else math.nan

    return Rates(
        rankings=count,
        skip=share("skip"),
        cannot_judge=share("cannot_judge"),
        all_bad=share("all_bad"),
        ties=ties_share(rankings),
        reasons=dict(sorted(reasons.items())),
        flags=dict(sorted(flags.items())),
    )


def _eta(covered: Iterable[Covered], times_ms: Iterable[int], now_ms: int) -> float:
    recent = sorted(time for time in times_ms if now_ms - HOURS * HOUR_MS < time <= now_ms)
    worked = sum(min(after - before, _PAUSE_MS) for before, after in pairwise(recent))
    places_left = sum(
        row.tasks * max(0, row.wanted - row.done) for row in covered if not row.paused
    )
    return places_left * worked / HOUR_MS / (len(recent) - 1) if worked else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
