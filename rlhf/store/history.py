"""The history: appending rankings and reading the current ones.

Functions here run inside a transaction of the caller. Ranks and flags arrive in shown order
and are stored in the order of the task's candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from rlhf.records import Prompt, Ranking
from rlhf.store.checks import check_submission, dense_ranks
from rlhf.store.contracts import (
    Progress,
    RevisionError,
    Submission,
    SubmissionError,
    SubmitResult,
)
from rlhf.store.schema import annotators, assignments, rankings, tasks

_CONTENT = ("action", "ranks", "others_worse", "flags", "strengths", "reason", "comment")


def submit(
    conn: sa.Connection, assignment_id: int, annotator: int, submission: Submission, now_ms: int
) -> SubmitResult:
    """Append a ranking, or acknowledge again one that is stored already."""
    assignment = conn.execute(
        sa.select(assignments, tasks.c.n_candidates)
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .where(assignments.c.id == assignment_id, assignments.c.annotator_id == annotator)
    ).first()
    if assignment is None or assignment.shown_order is None:
        raise SubmissionError(f"assignment {assignment_id} is not one of this annotator's")
    check_submission(submission, assignment.n_candidates)
    content = content_of(submission, assignment.shown_order)
    stored = find_request(conn, submission.request_id)
    if stored is not None:
        if stored.assignment_id != assignment_id or not is_same(stored, content):
            raise SubmissionError("request_id stands for another ranking; make a new one")
        return SubmitResult(stored.request_id, stored.revision, stored.late)
    current = current_revision(conn, assignment.task_id, annotator)
    if submission.replaces != current:
        raise RevisionError(
            f"this task has revision {current} of your ranking, not {submission.replaces}; "
            "look at it before you correct it"
        )
    late = assignment.state == "leased" and assignment.lease_until_ms <= now_ms
    append(
        conn,
        assignment,
        {
            **content,
            "request_id": submission.request_id,
            "revision": current + 1,
            "active_ms": submission.active_ms,
            "late": late,
            "simulated": submission.simulated,
            "submitted_ms": now_ms,
        },
    )
    return SubmitResult(submission.request_id, current + 1, late)


def content_of(submission: Submission, shown_order: Sequence[int]) -> dict[str, Any]:
    """Give the columns of a decision, put into candidate order with dense ranks."""
    places = sorted(range(len(shown_order)), key=shown_order.__getitem__)
    ranks = dense_ranks(submission.ranks or (None,) * len(places))
    flags = submission.flags
    return {
        "action": submission.action,
        "ranks": [ranks[place] for place in places],
        "others_worse": submission.others_worse,
        "flags": None if flags is None else [list(flags[place]) for place in places],
        "strengths": list(submission.strengths) if submission.strengths else None,
        "reason": submission.reason,
        "comment": submission.comment,
    }


def append(conn: sa.Connection, assignment: sa.Row[Any], values: Mapping[str, Any]) -> None:
    """Insert a ranking and bring the state of its assignment and task up to it."""
    conn.execute(
        rankings.insert().values(
            assignment_id=assignment.id,
            task_id=assignment.task_id,
            annotator_id=assignment.annotator_id,
            **values,
        )
    )
    newest = conn.scalar(
        sa.select(rankings.c.action)
        .where(rankings.c.assignment_id == assignment.id)
        .order_by(rankings.c.revision.desc())
        .limit(1)
    )
    state = "skipped" if newest == "skip" else "done"
    conn.execute(assignments.update().where(assignments.c.id == assignment.id).values(state=state))
    count_done(conn, assignment.task_id)


def count_done(conn: sa.Connection, task_id: int) -> None:
    """Count afresh how many people have ranked a task."""
    people = (
        sa.select(sa.func.count())
        .where(assignments.c.task_id == task_id, assignments.c.state == "done")
        .scalar_subquery()
    )
    conn.execute(tasks.update().where(tasks.c.id == task_id).values(n_done=people))


def find_request(conn: sa.Connection, request_id: str) -> sa.Row[Any] | None:
    """Find the ranking that a request stored."""
    return conn.execute(sa.select(rankings).where(rankings.c.request_id == request_id)).first()


def is_same(stored: sa.Row[Any], content: Mapping[str, Any]) -> bool:
    """Say whether a stored ranking says what ``content`` says; times don't count."""
    return all(getattr(stored, name) == content[name] for name in _CONTENT)


def current_revision(conn: sa.Connection, task_id: int, annotator: int) -> int:
    """Give the highest revision of somebody's ranking of a task; 0 when there is none."""
    newest = sa.select(sa.func.max(rankings.c.revision)).where(
        rankings.c.task_id == task_id, rankings.c.annotator_id == annotator
    )
    return int(conn.scalar(newest) or 0)


def read_rankings(
    conn: sa.Connection, *, simulated: bool | None = None, pool: str | None = None
) -> Iterator[Ranking]:
    """Yield current rankings, by task and then by annotator in order of their arrival."""
    query = (
        sa.select(
            rankings,
            annotators.c.pseudonym,
            assignments.c.shown_order,
            tasks.c.sha256,
            tasks.c.prompt,
            tasks.c.candidates,
            tasks.c.pool,
            tasks.c.meta,
        )
        .join(assignments, assignments.c.id == rankings.c.assignment_id)
        .join(annotators, annotators.c.id == rankings.c.annotator_id)
        .join(tasks, tasks.c.id == rankings.c.task_id)
        .where(_is_current())
        .order_by(rankings.c.task_id, rankings.c.annotator_id)
    )
    if simulated is not None:
        query = query.where(rankings.c.simulated == simulated)
    if pool is not None:
        query = query.where(tasks.c.pool == pool)
    for row in conn.execute(query):
        yield _to_ranking(row)


def _is_current() -> sa.ColumnElement[bool]:
    newer = rankings.alias("newer")
    return ~(
        sa.select(newer.c.id)
        .where(
            newer.c.assignment_id == rankings.c.assignment_id,
            newer.c.revision > rankings.c.revision,
        )
        .exists()
    )


def _to_ranking(row: sa.Row[Any]) -> Ranking:
    flags, strengths = row.flags, row.strengths
    return Ranking(
        prompt=Prompt.parse(row.prompt),
        completions=tuple(candidate["text"] for candidate in row.candidates),
        ranks=tuple(row.ranks),
        annotator=row.pseudonym,
        id=row.request_id,
        flags=None if flags is None else tuple(tuple(raised) for raised in flags),
        strengths=None if strengths is None else tuple(strengths),
        simulated=row.simulated,
        action=row.action,
        others_worse=row.others_worse,
        meta=_meta(row),
    )


def _meta(row: sa.Row[Any]) -> dict[str, Any]:
    models = [candidate["model"] for candidate in row.candidates]
    optional = {
        "task_meta": row.meta or None,
        "models": models if any(model is not None for model in models) else None,
        "shown_order": row.shown_order,
        "late": row.late or None,
        "reason": row.reason or None,
        "comment": row.comment or None,
        "active_ms": row.active_ms,
    }
    return {
        "task": row.sha256,
        "pool": row.pool,
        "revision": row.revision,
        "submitted_at": _iso(row.submitted_ms),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms // 1000, tz=UTC).replace(
        microsecond=time_ms % 1000 * 1000
    )
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def progress(conn: sa.Connection) -> Progress:
    """Count tasks and current rankings."""
    surplus = tasks.c.n_done - tasks.c.overlap
    counts = conn.execute(
        sa.select(
            sa.func.count().label("tasks"),
            sa.func.coalesce(sa.func.sum(sa.case((surplus < 0, 1), else_=0)), 0).label("open"),
            sa.func.coalesce(sa.func.sum(sa.case((surplus > 0, surplus), else_=0)), 0).label(
                "surplus"
            ),
        ).select_from(tasks)
    ).one()
    by_annotator = conn.execute(
        sa.select(
            annotators.c.pseudonym,
            sa.func.sum(sa.case((rankings.c.action != "skip", 1), else_=0)).label("ranked"),
            sa.func.sum(sa.case((rankings.c.action == "skip", 1), else_=0)).label("skipped"),
            sa.func.sum(
                sa.case((rankings.c.simulated & (rankings.c.action != "skip"), 1), else_=0)
            ).label("simulated"),
        )
        .join(annotators, annotators.c.id == rankings.c.annotator_id)
        .where(_is_current())
        .group_by(annotators.c.id, annotators.c.pseudonym)
        .order_by(annotators.c.id)
    ).all()
    return Progress(
        tasks=counts.tasks,
        open=counts.open,
        done=counts.tasks - counts.open,
        surplus=counts.surplus,
        rankings=sum(row.ranked for row in by_annotator),
        simulated=sum(row.simulated for row in by_annotator),
        skipped=sum(row.skipped for row in by_annotator),
        by_annotator={row.pseudonym: row.ranked for row in by_annotator if row.ranked},
    )
