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
from rlhf.store.checks import check_submission, dense_ranks, effective_ranks, gold_share
from rlhf.store.claims import has_place
from rlhf.store.contracts import (
    UNCOUNTED,
    Feedback,
    Progress,
    RevisionError,
    Submission,
    SubmissionError,
    SubmitResult,
)
from rlhf.store.drafts import drop_draft, not_yours
from rlhf.store.hashes import chain_link
from rlhf.store.overlap import raise_overlap
from rlhf.store.schema import (
    annotators,
    assignments,
    is_counted,
    is_current,
    rankings,
    tasks,
)
from rlhf.store.settings import read_settings

_CONTENT = ("action", "ranks", "others_worse", "flags", "strengths", "reason", "comment")


def submit(
    conn: sa.Connection, assignment_id: int, annotator: int, submission: Submission, now_ms: int
) -> SubmitResult:
    """Append a ranking, or acknowledge again one that is stored already."""
    values = {"number": assignment_id, "me": annotator, "now": now_ms}
    assignment = conn.execute(_ASSIGNMENT, values).first()
    if assignment is None:
        raise not_yours(assignment_id)
    check_submission(submission, assignment.n_candidates)
    content = content_of(submission, assignment.shown_order)
    stored = find_request(conn, submission.request_id)
    if stored is not None:
        if stored.assignment_id != assignment_id or not is_same(stored, content):
            raise SubmissionError("request_id stands for another ranking; make a new one")
        return _result(conn, assignment, stored.request_id, stored.revision, stored.late)
    current = conn.execute(_NEWEST, values).first()
    revision = 0 if current is None else int(current.revision)
    if submission.replaces != revision:
        raise RevisionError(
            f"this task has revision {revision} of your ranking, not {submission.replaces}; "
            "look at it before you correct it"
        )
    late = _is_late(assignment, submission.action, current, now_ms)
    append(
        conn,
        assignment,
        {
            **content,
            "request_id": submission.request_id,
            "revision": revision + 1,
            "active_ms": submission.active_ms,
            "late": late,
            "simulated": submission.simulated,
            "submitted_ms": now_ms,
        },
    )
    drop_draft(conn, assignment_id)
    task = close(conn, assignment, submission.action)
    if task.n_done > 1 and task.pool not in UNCOUNTED:
        raise_overlap(conn, assignment.task_id, task.overlap, read_settings(conn).max_overlap)
    return _result(conn, assignment, submission.request_id, revision + 1, late)


def _is_late(
    assignment: sa.Row[Any], action: str, current: sa.Row[Any] | None, now_ms: int
) -> bool:
    """Say whether a submission comes when its place is no longer held.

    A skip gives the place up: who ranks the task after all is late if it has been taken.
    """
    if assignment.state == "leased":
        return bool(assignment.lease_until_ms <= now_ms)
    if assignment.state == "skipped" and action != "skip":
        return not assignment.has_place
    return current is not None and bool(current.late)


def _result(
    conn: sa.Connection, assignment: sa.Row[Any], request_id: str, revision: int, late: bool
) -> SubmitResult:
    feedback = None
    if assignment.pool == "training" and assignment.gold is not None:
        current = conn.execute(_NEWEST, {"number": assignment.id}).one()
        feedback = _feedback(assignment, current, read_settings(conn).training_pass)
    return SubmitResult(request_id, revision, late, assignment.id, feedback)


def _feedback(
    assignment: sa.Row[Any], current: sa.Row[Any], training_pass: float
) -> Feedback | None:
    known = assignment.gold["ranks"]
    share = gold_share(known, effective_ranks(current.ranks, current.others_worse))
    if share is None or current.action == "skip":
        return None
    return Feedback(
        ranks=tuple(known[place] for place in assignment.shown_order),
        explanation=assignment.gold["explanation"],
        share=share,
        passed=share >= training_pass,
    )


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
    """Insert a ranking and chain it to the one before."""
    row = {
        "assignment_id": assignment.id,
        "task_id": assignment.task_id,
        "annotator_id": assignment.annotator_id,
        **values,
    }
    previous = conn.scalar(_LAST_LINK) or ""
    conn.execute(rankings.insert(), {**row, "chain": chain_link(previous, row)})


def close(conn: sa.Connection, assignment: sa.Row[Any], newest_action: str) -> sa.Row[Any]:
    """Bring an assignment and its task up to the newest ranking; give the task's counts."""
    state = "skipped" if newest_action == "skip" else "done"
    if assignment.state != state:
        conn.execute(_CLOSE, {"number": assignment.id, "new": state})
    return conn.execute(_COUNT_DONE, {"task": assignment.task_id}).one()


def newest_action(conn: sa.Connection, assignment_id: int) -> str:
    """Give the action of the newest revision of an assignment that has one."""
    return str(conn.execute(_NEWEST, {"number": assignment_id}).one().action)


def find_request(conn: sa.Connection, request_id: str) -> sa.Row[Any] | None:
    """Find the ranking that a request stored."""
    return conn.execute(_REQUEST, {"request": request_id}).first()


def is_same(stored: sa.Row[Any], content: Mapping[str, Any]) -> bool:
    """Say whether a stored ranking says what ``content`` says; times don't count."""
    return all(getattr(stored, name) == content[name] for name in _CONTENT)


def current_revision(conn: sa.Connection, task_id: int, annotator: int) -> int:
    """Give the highest revision of somebody's ranking of a task; 0 when there is none."""
    newest = sa.select(sa.func.max(rankings.c.revision)).where(
        rankings.c.task_id == task_id, rankings.c.annotator_id == annotator
    )
    return int(conn.scalar(newest) or 0)


def find_revision(
    conn: sa.Connection, task_id: int, annotator: int, revision: int
) -> sa.Row[Any] | None:
    """Find a revision of somebody's ranking of a task."""
    query = sa.select(rankings).where(
        rankings.c.task_id == task_id,
        rankings.c.annotator_id == annotator,
        rankings.c.revision == revision,
    )
    return conn.execute(query).first()


def read_rankings(
    conn: sa.Connection,
    *,
    simulated: bool | None = None,
    pool: str | None = None,
    gold: bool = False,
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
            tasks.c.planned,
            tasks.c.meta,
        )
        .join(assignments, assignments.c.id == rankings.c.assignment_id)
        .join(annotators, annotators.c.id == rankings.c.annotator_id)
        .join(tasks, tasks.c.id == rankings.c.task_id)
        .where(is_current())
        .order_by(rankings.c.task_id, rankings.c.annotator_id)
    )
    if simulated is not None:
        query = query.where(rankings.c.simulated == simulated)
    if pool is not None:
        query = query.where(tasks.c.pool == pool)
    elif not gold:
        query = query.where(is_counted)
    for row in conn.execute(query):
        yield _to_ranking(row)


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
        "planned": row.planned,
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
    in_need = surplus < 0
    counts = conn.execute(
        sa.select(
            sa.func.count().label("tasks"),
            _count(sa.and_(in_need, ~tasks.c.paused)).label("open"),
            _count(sa.and_(in_need, tasks.c.paused)).label("paused"),
            _total(sa.case((surplus > 0, surplus), else_=0)).label("surplus"),
        )
        .select_from(tasks)
        .where(is_counted)
    ).one()
    ranked = rankings.c.action != "skip"
    by_annotator = conn.execute(
        sa.select(
            annotators.c.pseudonym,
            _count(ranked).label("ranked"),
            _count(~ranked).label("skipped"),
            _count(sa.and_(rankings.c.simulated, ranked)).label("simulated"),
        )
        .join(annotators, annotators.c.id == rankings.c.annotator_id)
        .join(tasks, tasks.c.id == rankings.c.task_id)
        .where(is_current(), is_counted)
        .group_by(annotators.c.id, annotators.c.pseudonym)
        .order_by(annotators.c.id)
    ).all()
    return Progress(
        tasks=counts.tasks,
        open=counts.open,
        done=counts.tasks - counts.open - counts.paused,
        surplus=counts.surplus,
        rankings=sum(row.ranked for row in by_annotator),
        simulated=sum(row.simulated for row in by_annotator),
        skipped=sum(row.skipped for row in by_annotator),
        by_annotator={row.pseudonym: row.ranked for row in by_annotator if row.ranked},
        paused=counts.paused,
    )


def _total(value: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(value), 0)


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return _total(sa.case((condition, 1), else_=0))


# -- statements, built once ------------------------------------------------------------------------

_me = sa.bindparam("me", type_=sa.Integer)
_number = sa.bindparam("number", type_=sa.Integer)

_ASSIGNMENT = (
    sa.select(
        assignments,
        tasks.c.n_candidates,
        tasks.c.pool,
        tasks.c.gold,
        has_place.label("has_place"),
    )
    .join(tasks, tasks.c.id == assignments.c.task_id)
    .where(
        assignments.c.id == _number,
        assignments.c.annotator_id == _me,
        assignments.c.shown_order.is_not(None),
    )
)
_REQUEST = sa.select(rankings).where(rankings.c.request_id == sa.bindparam("request"))
_NEWEST = (
    sa.select(rankings)
    .where(rankings.c.assignment_id == _number)
    .order_by(rankings.c.revision.desc())
    .limit(1)
)
_LAST_LINK = sa.select(rankings.c.chain).order_by(rankings.c.id.desc()).limit(1)
_CLOSE = assignments.update().where(assignments.c.id == _number)
_CLOSE = _CLOSE.values(state=sa.bindparam("new"))
_COUNT_DONE = (
    tasks.update()
    .where(tasks.c.id == sa.bindparam("task"))
    .values(
        n_done=sa.select(sa.func.count())
        .where(assignments.c.task_id == tasks.c.id, assignments.c.state == "done")
        .scalar_subquery()
    )
    .returning(tasks.c.n_done, tasks.c.overlap, tasks.c.pool)
)
