"""Who gets which task next.

A person who asks is given, in this order: the task that they hold; one that they let go with a
draft; training tasks; every so often a gold task; and then the random pool or the queue, the one
that a draw says first. Functions here run inside a transaction of the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rlhf.records import Prompt
from rlhf.store.checks import shuffled
from rlhf.store.contracts import UNCOUNTED, Assignment, Decision, Draft, Settings
from rlhf.store.hashes import draw
from rlhf.store.schema import (
    assignments,
    drafts,
    in_gold_pool,
    in_normal_pool,
    in_random_pool,
    in_training_pool,
    needs_people,
    tasks,
)


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody asks for a task."""

    annotator: int
    pseudonym: str
    now_ms: int
    lease_ms: int

    @property
    def until_ms(self) -> int:
        """When a lease taken now runs out."""
        return self.now_ms + self.lease_ms


def claim(conn: sa.Connection, asked: Claim, settings: Settings) -> Assignment | None:
    """Lease the next task to an annotator; a live lease is extended and given again."""
    values = {"me": asked.annotator, "now": asked.now_ms}
    held = conn.execute(_HELD, values).first()
    if held is not None:
        until = max(asked.until_ms, held.lease_until_ms)
        _extend(conn, held.assignment, until)
        return read_assignment(held, until)
    finished = int(conn.scalar(_FINISHED, values) or 0)
    for statement in _order(asked.pseudonym, finished, settings):
        task = conn.execute(statement, values).first()
        if task is not None:
            return _lease(conn, task, asked)
    return None


def _order(pseudonym: str, finished: int, settings: Settings) -> list[sa.Select[Any]]:
    """Say where to look for the next task of somebody who has finished so many."""
    order = [_TRAINING]
    if settings.gold_every and _is_place_of_gold(pseudonym, finished, settings.gold_every):
        order.append(_GOLD)
    if draw("random pool first", pseudonym, str(finished)) < settings.random_share:
        return [*order, _RANDOM, _QUEUE]
    return [*order, _QUEUE, _RANDOM]


def _is_place_of_gold(pseudonym: str, finished: int, every: int) -> bool:
    """Draw one place of each ``every`` tasks of a person, so that nobody can count to it."""
    stretch, place = divmod(finished, every)
    return place == int(draw("place of gold", pseudonym, str(stretch)) * every)


def _lease(conn: sa.Connection, task: sa.Row[Any], asked: Claim) -> Assignment:
    """Give a place in a task; who let it run out before gets the same order again."""
    if task.assignment is not None:
        _extend(conn, task.assignment, asked.until_ms)
        return read_assignment(task, asked.until_ms)
    order = list(shuffled(task.n_candidates, task.sha256, asked.pseudonym))
    new = {
        "task_id": task.task_id,
        "annotator_id": asked.annotator,
        "state": "leased",
        "shown_order": order,
        "lease_until_ms": asked.until_ms,
        "created_ms": asked.now_ms,
    }
    number = int(conn.execute(_TAKE, new).scalar_one())
    return read_assignment(task, asked.until_ms, number, order)


def _extend(conn: sa.Connection, assignment: int, until: int) -> None:
    conn.execute(_EXTEND, {"number": assignment, "until": until})


def read_assignment(
    row: sa.Row[Any],
    until_ms: int,
    number: int | None = None,
    order: list[int] | None = None,
    current: sa.Row[Any] | None = None,
) -> Assignment:
    """Show a task as its annotator sees it; ``row`` has the columns of ``SHOWN``."""
    order = row.shown_order if order is None else order
    return Assignment(
        id=row.assignment if number is None else number,
        task_id=row.task_id,
        prompt=Prompt.parse(row.prompt),
        completions=tuple(row.candidates[position]["text"] for position in order),
        lease_until=until_ms / 1000,
        kind="training" if row.pool == "training" else "ranking",
        revision=0 if current is None else current.revision,
        draft=None if row.draft is None else Draft(row.seq, row.draft),
        current=None if current is None else decision_of(current, order),
    )


def decision_of(row: sa.Row[Any], order: list[int] | None = None) -> Decision:
    """Read a stored decision: in the order shown, or without one in that of the candidates."""
    places = range(len(row.ranks)) if order is None else order
    flags = row.flags
    return Decision(
        action=row.action,
        ranks=tuple(row.ranks[place] for place in places),
        others_worse=row.others_worse,
        flags=None if flags is None else tuple(tuple(flags[place]) for place in places),
        strengths=None if row.strengths is None else tuple(row.strengths),
        reason=row.reason,
        comment=row.comment,
    )


# -- statements, built once ------------------------------------------------------------------------

_me = sa.bindparam("me", type_=sa.Integer)
_now = sa.bindparam("now", type_=sa.BigInteger)
_mine = assignments.alias("mine")
_others = assignments.alias("others")

SHOWN = (
    tasks.c.id.label("task_id"),
    tasks.c.sha256,
    tasks.c.prompt,
    tasks.c.candidates,
    tasks.c.n_candidates,
    tasks.c.pool,
    _mine.c.id.label("assignment"),
    _mine.c.shown_order,
    _mine.c.lease_until_ms,
    _mine.c.state,
    drafts.c.seq,
    drafts.c.body.label("draft"),
)
"""Columns that ``read_assignment`` reads."""

OF_ANNOTATOR: sa.Select[Any] = (
    sa.select(*SHOWN)
    .select_from(_mine)
    .join(tasks, tasks.c.id == _mine.c.task_id)
    .outerjoin(drafts, drafts.c.assignment_id == _mine.c.id)
    .where(_mine.c.annotator_id == _me)
)
"""The assignments of ``me``."""

ONE_OF_ANNOTATOR: sa.Select[Any] = OF_ANNOTATOR.where(
    _mine.c.id == sa.bindparam("number", type_=sa.Integer)
)
"""Assignment ``number`` if it is of ``me``."""

on_other_screens = (
    sa.select(sa.func.count())
    .where(
        _others.c.task_id == tasks.c.id,
        _others.c.state == "leased",
        _others.c.lease_until_ms > _now,
        _others.c.annotator_id != _me,
    )
    .scalar_subquery()
)
"""How many places of a task others hold ``now``."""

_is_live = _mine.c.lease_until_ms > _now
has_place = sa.or_(
    tasks.c.pool.in_([sa.literal_column(f"'{pool}'") for pool in UNCOUNTED]),
    tasks.c.n_done + on_other_screens < tasks.c.overlap,
)
"""Whether a task can take ``me`` in, done and skipped ones of others aside."""

_drafted = sa.func.coalesce(drafts.c.updated_ms, 0)
_HELD: sa.Select[Any] = (
    OF_ANNOTATOR.where(
        _mine.c.state == "leased",
        ~tasks.c.paused,
        sa.or_(_is_live, sa.and_(drafts.c.seq.is_not(None), has_place)),
    )
    .order_by(sa.case((_is_live, 0), else_=1), _drafted.desc(), _mine.c.id)
    .limit(1)
)

_FINISHED = (
    sa.select(sa.func.count())
    .select_from(assignments)
    .where(assignments.c.annotator_id == _me, assignments.c.state.in_(["done", "skipped"]))
)
_TAKE = assignments.insert().returning(assignments.c.id)
_EXTEND = (
    assignments.update()
    .where(assignments.c.id == sa.bindparam("number"))
    .values(lease_until_ms=sa.bindparam("until"))
)


_finished_by_me = (
    sa.select(assignments.c.id)
    .where(
        assignments.c.task_id == tasks.c.id,
        assignments.c.annotator_id == _me,
        assignments.c.state != "leased",
    )
    .exists()
)


def _next(*conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select from tasks that go on and that ``me`` has not finished; conditions last."""
    return (
        sa.select(*SHOWN)
        .select_from(tasks)
        .outerjoin(_mine, sa.and_(_mine.c.task_id == tasks.c.id, _mine.c.annotator_id == _me))
        .outerjoin(drafts, drafts.c.assignment_id == _mine.c.id)
        # In this order SQLite tries them, and the last one costs most.
        .where(~tasks.c.paused, ~_finished_by_me, *conditions)
        .limit(1)
    )


_free = (needs_people, tasks.c.n_done + on_other_screens < tasks.c.overlap)
_TRAINING = _next(in_training_pool).order_by(tasks.c.id)
_GOLD = _next(in_gold_pool).order_by(tasks.c.id)
_RANDOM = _next(in_random_pool, *_free).order_by(tasks.c.lottery, tasks.c.id)
_QUEUE = _next(in_normal_pool, *_free).order_by(
    tasks.c.priority.desc(), tasks.c.n_done.desc(), tasks.c.id
)
