"""How many people rank a task: more than were wanted where the first ones disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa

from rlhf.store.checks import effective_ranks, pair_orders
from rlhf.store.schema import assignments, is_current, rankings, tasks

Ranks = Sequence[int | None]


def wanted_people(rankings_of_task: Sequence[Ranks], overlap: int, max_overlap: int) -> int:
    """Give how many people are to rank a task.

    Two people who ordered more pairs oppositely than alike bring a third one. From three on, when
    all who were wanted have ranked, one more is asked while most of the compared pairs are
    undecided: as many people order them one way as the other, and some do.

    Args:
        rankings_of_task: Effective ranks of each person, in one order of candidates.
        overlap: How many are wanted now.
        max_overlap: How many there may be at most, unless more are wanted already.
    """
    people = len(rankings_of_task)
    orders = [pair_orders(ranks) for ranks in rankings_of_task]
    if people == 2:
        first, second = orders
        alike = sum(order * second.get(pair, 0) for pair, order in first.items())
        return max(overlap, min(max_overlap, 3)) if alike < 0 else overlap
    if people < 3 or people < overlap:
        return overlap
    votes: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for theirs in orders:
        for pair, order in theirs.items():
            votes[pair].append(order)
    undecided = sum(any(cast) and sum(cast) == 0 for cast in votes.values())
    return max(overlap, min(max_overlap, people + 1)) if 2 * undecided > len(votes) else overlap


def raise_overlap(conn: sa.Connection, task_id: int, overlap: int, max_overlap: int) -> None:
    """Ask more people about a task if those who ranked it disagree."""
    rows = conn.execute(_CURRENT, {"task": task_id})
    said = [effective_ranks(row.ranks, row.others_worse) for row in rows]
    wanted = wanted_people(said, overlap, max_overlap)
    if wanted > overlap:
        conn.execute(tasks.update().where(tasks.c.id == task_id).values(overlap=wanted))


_CURRENT = sa.select(rankings.c.ranks, rankings.c.others_worse).where(
    rankings.c.assignment_id.in_(
        sa.select(assignments.c.id).where(
            assignments.c.task_id == sa.bindparam("task"), assignments.c.state == "done"
        )
    ),
    rankings.c.action.in_(["rank", "all_bad"]),
    is_current(),
)
