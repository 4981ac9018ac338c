"""The queue: adding tasks, and giving each annotator the next one.

Functions here run inside a transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from rlhf.errors import StoreError
from rlhf.records import Candidate, Prompt
from rlhf.store.checks import annotator_key, check_task, merge_candidates, shuffled, task_sha256
from rlhf.store.contracts import Assignment, NewTask, Standing, Task
from rlhf.store.schema import annotators, assignments, tasks


def inserted_id(conn: sa.Connection, statement: sa.Insert) -> int:
    """Insert a row and give its number."""
    return int(conn.execute(statement.returning(statement.table.c.id)).scalar_one())


def add_task(conn: sa.Connection, task: NewTask, now_ms: int) -> tuple[int, bool]:
    """Store a task unless it is known; give its id and whether it is new.

    A known task takes over a larger overlap and is otherwise left alone.
    """
    candidates = merge_candidates(task.candidates)
    check_task(task, candidates)
    sha256 = task_sha256(task.prompt, [candidate.text for candidate in candidates])
    known = conn.execute(
        sa.select(tasks.c.id, tasks.c.overlap).where(tasks.c.sha256 == sha256)
    ).first()
    if known is not None:
        if task.overlap > known.overlap:
            conn.execute(tasks.update().where(tasks.c.id == known.id).values(overlap=task.overlap))
        return int(known.id), False
    statement = tasks.insert().values(
        sha256=sha256,
        prompt=task.prompt.to_json(),
        candidates=[{"text": c.text, "model": c.model} for c in candidates],
        n_candidates=len(candidates),
        overlap=task.overlap,
        pool=task.pool,
        meta=dict(task.meta),
        created_ms=now_ms,
    )
    return inserted_id(conn, statement), True


def read_tasks(conn: sa.Connection) -> Iterator[Task]:
    """Yield every task, oldest first."""
    for row in conn.execute(sa.select(tasks).order_by(tasks.c.id)):
        yield Task(
            id=row.id,
            sha256=row.sha256,
            prompt=Prompt.parse(row.prompt),
            candidates=tuple(Candidate(c["text"], c["model"]) for c in row.candidates),
            overlap=row.overlap,
            pool=row.pool,
            meta=row.meta,
            done=row.n_done,
        )


def annotator_id(conn: sa.Connection, name: str) -> int | None:
    """Find a person by name, whatever its case."""
    key = annotator_key(name)
    found = conn.scalar(sa.select(annotators.c.id).where(annotators.c.name_key == key))
    return None if found is None else int(found)


def pseudonym(conn: sa.Connection, name: str) -> str | None:
    """Give the pseudonym of a person, None for an unknown one."""
    key = annotator_key(name)
    found = conn.scalar(sa.select(annotators.c.pseudonym).where(annotators.c.name_key == key))
    return None if found is None else str(found)


def add_annotator(conn: sa.Connection, name: str, pseudonym: str, now_ms: int) -> tuple[int, str]:
    """Register a person unless known; give the id and the pseudonym that stands."""
    key = annotator_key(name)
    known = conn.execute(
        sa.select(annotators.c.id, annotators.c.pseudonym).where(annotators.c.name_key == key)
    ).first()
    if known is not None:
        return int(known.id), str(known.pseudonym)
    if conn.scalar(sa.select(annotators.c.id).where(annotators.c.pseudonym == pseudonym)):
        raise StoreError(f"pseudonym {pseudonym!r} is another annotator's; choose another")
    statement = annotators.insert().values(
        pseudonym=pseudonym, name=name.strip(), name_key=key, created_ms=now_ms
    )
    return inserted_id(conn, statement), pseudonym


def claim(
    conn: sa.Connection, annotator: int, pseudonym: str, now_ms: int, lease_ms: int
) -> Assignment | None:
    """Lease the next task to an annotator; a live lease is extended and given again."""
    until = now_ms + lease_ms
    mine = conn.execute(_live_lease(annotator, now_ms)).first()
    if mine is None:
        task = conn.execute(_next_task(annotator, now_ms)).first()
        if task is None:
            return None
        assignment = _lease(conn, task, annotator, pseudonym, now_ms, until)
    else:
        assignment = int(mine.id)
        until = max(until, int(mine.lease_until_ms))
        _extend(conn, assignment, until)
    return _read_assignment(conn, assignment)


def _live_lease(annotator: int, now_ms: int) -> sa.Select[Any]:
    return (
        sa.select(assignments.c.id, assignments.c.lease_until_ms)
        .where(
            assignments.c.annotator_id == annotator,
            assignments.c.state == "leased",
            assignments.c.lease_until_ms > now_ms,
        )
        .order_by(assignments.c.id)
        .limit(1)
    )


def _next_task(annotator: int, now_ms: int) -> sa.Select[Any]:
    """Select the task in which a place is free: neither ranked nor on somebody's screen."""
    of_task = assignments.c.task_id == tasks.c.id
    on_screens = (
        sa.select(sa.func.count())
        .where(
            of_task,
            assignments.c.state == "leased",
            assignments.c.lease_until_ms > now_ms,
            assignments.c.annotator_id != annotator,
        )
        .scalar_subquery()
    )
    finished_by_me = (
        sa.select(assignments.c.id)
        .where(of_task, assignments.c.annotator_id == annotator, assignments.c.state != "leased")
        .exists()
    )
    return (
        sa.select(tasks.c.id, tasks.c.sha256, tasks.c.n_candidates)
        .where(
            tasks.c.n_done < tasks.c.overlap,
            tasks.c.n_done + on_screens < tasks.c.overlap,
            ~finished_by_me,
        )
        .order_by(tasks.c.n_done.desc(), tasks.c.id)
        .limit(1)
    )


def _lease(
    conn: sa.Connection, task: sa.Row[Any], annotator: int, pseudonym: str, now_ms: int, until: int
) -> int:
    """Give a place in a task; who let it run out before gets the same order again."""
    again = conn.scalar(
        sa.select(assignments.c.id).where(
            assignments.c.task_id == task.id, assignments.c.annotator_id == annotator
        )
    )
    if again is not None:
        _extend(conn, int(again), until)
        return int(again)
    statement = assignments.insert().values(
        task_id=task.id,
        annotator_id=annotator,
        state="leased",
        shown_order=list(shuffled(task.n_candidates, task.sha256, pseudonym)),
        lease_until_ms=until,
        created_ms=now_ms,
    )
    return inserted_id(conn, statement)


def _extend(conn: sa.Connection, assignment: int, until: int) -> None:
    conn.execute(
        assignments.update().where(assignments.c.id == assignment).values(lease_until_ms=until)
    )


def _read_assignment(conn: sa.Connection, assignment: int) -> Assignment:
    row = conn.execute(
        sa.select(
            assignments.c.id,
            assignments.c.task_id,
            assignments.c.shown_order,
            assignments.c.lease_until_ms,
            tasks.c.prompt,
            tasks.c.candidates,
        )
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .where(assignments.c.id == assignment)
    ).one()
    return Assignment(
        id=row.id,
        task_id=row.task_id,
        prompt=Prompt.parse(row.prompt),
        completions=tuple(row.candidates[position]["text"] for position in row.shown_order),
        lease_until=row.lease_until_ms / 1000,
    )


def standing(conn: sa.Connection, annotator: int | None) -> Standing:
    """Count what one annotator may know; cheap enough for every page."""
    ranked = (assignments.c.annotator_id == annotator) & (assignments.c.state == "done")
    return Standing(
        tasks=conn.scalar(sa.select(sa.func.count()).select_from(tasks)) or 0,
        open=conn.scalar(
            sa.select(sa.func.count()).select_from(tasks).where(tasks.c.n_done < tasks.c.overlap)
        )
        or 0,
        mine=conn.scalar(sa.select(sa.func.count()).select_from(assignments).where(ranked)) or 0,
    )
