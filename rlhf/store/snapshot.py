"""One moment of a store, for figures: what was ranked, who holds what, how far the tasks are.

Texts are not kept, but for prompts: thousands of rankings take little memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rlhf.records import Prompt
from rlhf.store.schema import (
    accounts,
    annotators,
    assignments,
    is_counted,
    is_current,
    rankings,
    reviews,
    tasks,
)

Ranks = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class RankedTask:
    """A task that somebody has ranked."""

    prompt: Prompt
    length: int
    """Characters of the prompt and of all candidates."""
    pool: str
    gold: Ranks | None
    """The known answer, in the order of the candidates."""
    planned: int
    """People wanted from the start; later ones were asked for what these said."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A current ranking, in the order of its task's candidates."""

    ranking_id: int
    task_id: int
    annotator: str
    """Pseudonym."""
    action: str
    ranks: Ranks
    others_worse: bool
    flags: tuple[str, ...]
    """Every flag raised, on whichever candidate."""
    reason: str
    active_ms: int | None
    """Spent on it, corrections included."""
    simulated: bool
    submitted_ms: int
    """When it was first made; a correction does not move it."""
    shown_order: tuple[int, ...] | None
    """Which candidate stood at each place of the screen; None where that is not known."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A task on somebody's screen."""

    pseudonym: str
    task: int
    since_ms: int
    """When it was first given to them."""
    until_ms: int


@dataclass(frozen=True, slots=True)
class Covered:
    """Tasks that are equally far; those of the pools ``gold`` and ``training`` are not counted."""

    wanted: int
    """People who should rank each."""
    done: int
    """People who have."""
    paused: bool
    tasks: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a store held at one moment."""

    covered: tuple[Covered, ...]
    leases: tuple[Lease, ...]
    ranked_tasks: Mapping[int, RankedTask]
    """By task id."""
    rankings: tuple[Ranked, ...]
    """By task, and of each by person."""
    people: tuple[str, ...]
    """Pseudonyms of all who have an account or a ranking, oldest first."""
    decided: frozenset[int]
    """Tasks that a reviewer has decided."""


def read_snapshot(conn: sa.Connection, now_ms: int) -> Snapshot:
    """Read a store inside a transaction of the caller."""
    verdicts = {row.task_id: row.verdict for row in conn.execute(_VERDICTS)}
    return Snapshot(
        covered=tuple(
            Covered(row.overlap, row.n_done, row.paused, row.number)
            for row in conn.execute(_COVERED)
        ),
        leases=tuple(
            Lease(row.pseudonym, row.task_id, row.created_ms, row.lease_until_ms)
            for row in conn.execute(_LEASES, {"now": now_ms})
        ),
        ranked_tasks={row.id: _ranked_task(row) for row in conn.execute(_TASKS)},
        rankings=tuple(map(_ranked, conn.execute(_RANKINGS))),
        people=tuple(conn.scalars(_PEOPLE)),
        decided=frozenset(task for task, verdict in verdicts.items() if verdict != "send_back"),
    )


def _ranked_task(row: sa.Row[Any]) -> RankedTask:
    prompt = Prompt.parse(row.prompt)
    length = len(prompt.text) + sum(len(candidate["text"]) for candidate in row.candidates)
    gold = tuple(row.gold["ranks"]) if row.gold else None
    return RankedTask(prompt, length, row.pool, gold, row.planned)


def _ranked(row: sa.Row[Any]) -> Ranked:
    return Ranked(
        ranking_id=row.id,
        task_id=row.task_id,
        annotator=row.pseudonym,
        action=row.action,
        ranks=tuple(row.ranks),
        others_worse=row.others_worse,
        flags=tuple(flag for raised in row.flags or () for flag in raised),
        reason=row.reason,
        active_ms=row.active_ms,
        simulated=row.simulated,
        submitted_ms=row.submitted_ms,
        shown_order=tuple(row.shown_order) if row.shown_order else None,
    )


# -- statements, built once ------------------------------------------------------------------------

_COVERED = (
    sa.select(tasks.c.overlap, tasks.c.n_done, tasks.c.paused, sa.func.count().label("number"))
    .where(is_counted)
    .group_by(tasks.c.overlap, tasks.c.n_done, tasks.c.paused)
    .order_by(tasks.c.overlap, tasks.c.n_done, tasks.c.paused)
)
_LEASES = (
    sa.select(
        annotators.c.pseudonym,
        assignments.c.task_id,
        assignments.c.created_ms,
        assignments.c.lease_until_ms,
    )
    .join(annotators, annotators.c.id == assignments.c.annotator_id)
    .where(assignments.c.state == "leased", assignments.c.lease_until_ms > sa.bindparam("now"))
    .order_by(assignments.c.lease_until_ms, assignments.c.id)
)
_TASKS: sa.Select[Any] = (
    sa.select(
        tasks.c.id,
        tasks.c.prompt,
        tasks.c.candidates,
        tasks.c.pool,
        tasks.c.gold,
        tasks.c.planned,
    )
    .where(tasks.c.id.in_(sa.select(rankings.c.task_id)))
    .order_by(tasks.c.id)
)
_all = rankings.alias("all_revisions")
_RANKINGS: sa.Select[Any] = (
    sa.select(
        rankings.c.id,
        rankings.c.task_id,
        rankings.c.action,
        rankings.c.ranks,
        rankings.c.others_worse,
        rankings.c.flags,
        rankings.c.reason,
        sa.select(sa.cast(sa.func.sum(_all.c.active_ms), sa.BigInteger))
        .where(_all.c.assignment_id == rankings.c.assignment_id)
        .scalar_subquery()
        .label("active_ms"),
        rankings.c.simulated,
        sa.func.coalesce(
            sa.select(sa.func.min(_all.c.submitted_ms))
            .where(_all.c.assignment_id == rankings.c.assignment_id, _all.c.action != "skip")
            .scalar_subquery(),
            rankings.c.submitted_ms,
        ).label("submitted_ms"),
        annotators.c.pseudonym,
        assignments.c.shown_order,
    )
    .join(assignments, assignments.c.id == rankings.c.assignment_id)
    .join(annotators, annotators.c.id == rankings.c.annotator_id)
    .where(is_current())
    .order_by(rankings.c.task_id, rankings.c.annotator_id)
)
_PEOPLE = (
    sa.select(annotators.c.pseudonym)
    .where(
        annotators.c.id.in_(sa.select(accounts.c.annotator_id))
        | annotators.c.id.in_(sa.select(rankings.c.annotator_id))
    )
    .order_by(annotators.c.id)
)
_VERDICTS = sa.select(reviews.c.task_id, reviews.c.verdict).order_by(reviews.c.id)
