"""What one annotator sees of their own work: standing, past rankings, a task opened again.

Functions here run inside a transaction of the caller.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import sqlalchemy as sa

from rlhf.records import Prompt
from rlhf.store.claims import ONE_OF_ANNOTATOR, decision_of, read_assignment
from rlhf.store.contracts import Assignment, OwnRanking, Standing
from rlhf.store.drafts import not_yours
from rlhf.store.schema import (
    assignments,
    in_queue,
    is_counted,
    is_current,
    rankings,
    reviews,
    tasks,
)

PACE_OVER = 50
"""How many of the newest rankings the median time is taken over."""
MANY = 5_000
KEPT_SECONDS = 2.0


def reopen(conn: sa.Connection, assignment_id: int, annotator: int) -> Assignment:
    """Show an assignment of an annotator with what is stored of it."""
    values = {"number": assignment_id, "me": annotator}
    row = conn.execute(ONE_OF_ANNOTATOR, values).first()
    if row is None or row.shown_order is None:
        raise not_yours(assignment_id)
    current = conn.execute(_NEWEST, values).first()
    return read_assignment(row, row.lease_until_ms, current=current)


def own_rankings(
    conn: sa.Connection, annotator: int, before: int | None, limit: int
) -> tuple[OwnRanking, ...]:
    """Give the current rankings of an annotator, newest first."""
    query = _OWN.where(rankings.c.annotator_id == annotator).limit(limit)
    if before is not None:
        query = query.where(rankings.c.id < before)
    rows = conn.execute(query).all()
    notes = _notes(conn, [row.task_id for row in rows])
    return tuple(_own_ranking(row, notes) for row in rows)


@dataclass(frozen=True, slots=True)
class _Note:
    task: int
    assignment: int | None
    text: str


def _notes(conn: sa.Connection, of_tasks: Iterable[int]) -> list[_Note]:
    query = (
        sa.select(reviews.c.task_id, rankings.c.assignment_id, reviews.c.note)
        .outerjoin(rankings, rankings.c.id == reviews.c.ranking_id)
        .where(reviews.c.task_id.in_(list(of_tasks)), reviews.c.note != "")
        .order_by(reviews.c.id)
    )
    return [_Note(row.task_id, row.assignment_id, row.note) for row in conn.execute(query)]


def _own_ranking(row: sa.Row[Any], notes: Iterable[_Note]) -> OwnRanking:
    return OwnRanking(
        assignment_id=row.assignment_id,
        ranking_id=row.id,
        prompt=Prompt.parse(row.prompt),
        completions=tuple(row.candidates[place]["text"] for place in row.shown_order),
        decision=decision_of(row, row.shown_order),
        revision=row.revision,
        submitted_ms=row.submitted_ms,
        late=row.late,
        kind="training" if row.pool == "training" else "ranking",
        notes=tuple(
            note.text
            for note in notes
            if note.task == row.task_id and note.assignment in (None, row.assignment_id)
        ),
    )


def standing(
    conn: sa.Connection, person: sa.Row[Any] | None, counts: tuple[int, int], now_ms: int
) -> Standing:
    """Tell one annotator what they may know; ``counts`` are those of ``count_tasks``."""
    tasks_, open_ = counts
    if person is None:
        return Standing(tasks_, open_, mine=0)
    values = {"me": person.id, "day": _midnight_ms(now_ms), "hour": now_ms - 3600 * 1000}
    lately = conn.execute(_LATELY, values).one()
    times = conn.scalars(_TIMES, values).all()
    return Standing(
        tasks=tasks_,
        open=open_,
        mine=int(conn.scalar(_MINE, values) or 0),
        today=lately.today,
        paused=person.state in ("paused", "disabled"),
        median_active_ms=round(median(times)) if times else None,
        last_hour=lately.last_hour,
    )


class TaskCounts:
    """How many tasks there are and how many are open, counted when asked.

    Many tasks take milliseconds to count, and every page asks: from ``MANY`` on, a count serves
    for ``KEPT_SECONDS``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept = (0, 0)
        self._until = 0.0

    def of(self, conn: sa.Connection) -> tuple[int, int]:
        """Give (tasks, open), gold and training tasks left out."""
        with self._lock:
            if time.monotonic() < self._until:
                return self._kept
            # Others go on with the last count while this thread counts afresh.
            if self._kept[0] >= MANY:
                self._until = time.monotonic() + KEPT_SECONDS
        row = conn.execute(_COUNTS).one()
        with self._lock:
            self._kept = (int(row.tasks), int(row.open))
            many = self._kept[0] >= MANY
            self._until = time.monotonic() + KEPT_SECONDS if many else 0.0
            return self._kept


def _midnight_ms(now_ms: int) -> int:
    """Give when the day began by the clock on the wall of this machine."""
    now = time.localtime(now_ms / 1000)
    day = (now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, now.tm_wday, now.tm_yday, -1)
    return round(time.mktime(day)) * 1000


# -- statements, built once ------------------------------------------------------------------------

_me = sa.bindparam("me", type_=sa.Integer)
_NEWEST = (
    sa.select(rankings)
    .where(rankings.c.assignment_id == sa.bindparam("number", type_=sa.Integer))
    .order_by(rankings.c.revision.desc())
    .limit(1)
)
_OWN = (
    sa.select(rankings, assignments.c.shown_order, tasks.c.prompt, tasks.c.candidates, tasks.c.pool)
    .join(assignments, assignments.c.id == rankings.c.assignment_id)
    .join(tasks, tasks.c.id == rankings.c.task_id)
    .where(
        assignments.c.shown_order.is_not(None),
        is_current(),
    )
    .order_by(rankings.c.id.desc())
)

_COUNTS = sa.select(
    sa.func.count().label("tasks"),
    sa.func.coalesce(sa.func.sum(sa.case((in_queue, 1), else_=0)), 0).label("open"),
).where(is_counted)
_MINE = (
    sa.select(sa.func.count())
    .select_from(assignments)
    .where(assignments.c.annotator_id == _me, assignments.c.state == "done")
)

_submitted = rankings.c.submitted_ms
_day, _hour = sa.bindparam("day", type_=sa.BigInteger), sa.bindparam("hour", type_=sa.BigInteger)
_LATELY = sa.select(
    sa.func.coalesce(sa.func.sum(sa.case((_submitted >= _day, 1), else_=0)), 0).label("today"),
    sa.func.coalesce(sa.func.sum(sa.case((_submitted > _hour, 1), else_=0)), 0).label("last_hour"),
).where(
    rankings.c.annotator_id == _me,
    _submitted >= sa.case((_day < _hour, _day), else_=_hour),
    rankings.c.revision == 1,
    rankings.c.action != "skip",
)
_TIMES = (
    sa.select(rankings.c.active_ms)
    .where(
        rankings.c.annotator_id == _me,
        rankings.c.active_ms.is_not(None),
        rankings.c.revision == 1,
        rankings.c.action != "skip",
    )
    .order_by(rankings.c.id.desc())
    .limit(PACE_OVER)
)
