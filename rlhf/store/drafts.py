"""Drafts: what is on somebody's screen, kept until they submit.

Functions here run inside a transaction of the caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from rlhf.store.checks import MAX_DRAFT, is_text
from rlhf.store.contracts import SubmissionError
from rlhf.store.schema import assignments, drafts


def check_draft(seq: int, body: Mapping[str, Any]) -> None:
    """Refuse a draft that can't be stored.

    Raises:
        SubmissionError: With what it must be.
    """
    if type(seq) is not int or not 0 <= seq < 2**63:
        raise SubmissionError(f"seq {seq!r} must be a whole number from 0")
    if not isinstance(body, Mapping):
        raise SubmissionError("the body of a draft must be a JSON object")
    try:
        text = json.dumps(dict(body), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise SubmissionError("the body of a draft can't be stored as JSON") from None
    if not is_text(text):
        raise SubmissionError("the body of a draft holds a lone surrogate")
    if len(text.encode()) > MAX_DRAFT:
        raise SubmissionError(f"the body of a draft is larger than {MAX_DRAFT // 1024} kB")


def keep_draft(
    conn: sa.Connection, assignment: sa.Row[Any], seq: int, body: Mapping[str, Any], now_ms: int
) -> bool:
    """Store a draft unless an equal or newer one is there; say whether it was stored."""
    mine = drafts.c.assignment_id == assignment.id
    stored = conn.scalar(sa.select(drafts.c.seq).where(mine))
    if stored is not None and stored >= seq:
        return False
    values = {"seq": seq, "body": dict(body), "updated_ms": now_ms}
    if stored is None:
        conn.execute(drafts.insert().values(assignment_id=assignment.id, **values))
    else:
        conn.execute(drafts.update().where(mine).values(values))
    return True


def extend_lease(conn: sa.Connection, assignment: sa.Row[Any], now_ms: int, lease_ms: int) -> None:
    """Hold a place for longer that is held; one that was let go is not taken back."""
    if assignment.state == "leased" and assignment.lease_until_ms > now_ms:
        until = max(assignment.lease_until_ms, now_ms + lease_ms)
        conn.execute(
            assignments.update()
            .where(assignments.c.id == assignment.id)
            .values(lease_until_ms=until)
        )


def own_assignment(conn: sa.Connection, assignment_id: int, annotator: int) -> sa.Row[Any]:
    """Find an assignment of an annotator.

    Raises:
        SubmissionError: If it is somebody else's or nobody's; there is no telling which.
    """
    found = conn.execute(_OWN, {"number": assignment_id, "me": annotator}).first()
    if found is None:
        raise not_yours(assignment_id)
    return found


def not_yours(assignment_id: object) -> SubmissionError:
    """Make the one answer to whoever names an assignment that is not theirs."""
    return SubmissionError(f"assignment {assignment_id!r:.40} is not one of this annotator's")


def drop_draft(conn: sa.Connection, assignment_id: int) -> None:
    """Forget a draft, once what became of it is stored."""
    conn.execute(_DROP, {"number": assignment_id})


_OWN = sa.select(assignments).where(
    assignments.c.id == sa.bindparam("number"),
    assignments.c.annotator_id == sa.bindparam("me"),
    assignments.c.shown_order.is_not(None),
)
_DROP = drafts.delete().where(drafts.c.assignment_id == sa.bindparam("number"))
