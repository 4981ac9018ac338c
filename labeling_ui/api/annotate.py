"""What the ranking page asks: the next task, storing a ranking or a draft, the guidelines."""

from __future__ import annotations

import hashlib
import logging
import math

from labeling_ui.api.shown import safe_html, task_json
from labeling_ui.api.wire import BadRequest, Call, Conflict, Endpoint, Json
from rlhf.errors import StoreError
from rlhf.store import Feedback, RevisionError, Submission

_ROUND = 10
_log = logging.getLogger(__name__)


def me(call: Call) -> Json:
    """Say who is logged in and what the page offers.

    ``store`` tells browsers the memories of two stores apart; it names none.
    """
    settings = call.store.settings()
    return {
        "name": call.name,
        "role": call.visitor.role,
        "local": call.server.sessions.local,
        "store": hashlib.sha256(call.store.place.encode("utf-8", "replace")).hexdigest()[:16],
        "settings": {
            "flags": list(settings.flags),
            "strengths": settings.strengths,
            "guidelines_version": settings.guidelines_version,
        },
    }


def guidelines(call: Call) -> Json:
    """Give what annotators are to read."""
    settings = call.store.settings()
    text = settings.guidelines
    return {"version": settings.guidelines_version, "html": safe_html(text) if text else ""}


def next_task(call: Call) -> Json:
    """Give the person's task: ``task``, or ``done``, ``empty`` or ``paused`` when there is none.

    While there is one, ``open`` is a round number: gold tasks are not among the open ones, so
    that a number which stays after a submit would tell them from the others.
    """
    store, name = call.store, call.name
    assignment = store.claim(name)
    standing = store.standing(name)
    status = "done" if standing.tasks else "empty"
    if assignment is not None:
        status = "task"
    elif standing.paused:
        status = "paused"
    return {
        "status": status,
        "counts": {
            "tasks": standing.tasks,
            "open": standing.open if assignment is None else _round_up(standing.open),
            "mine": standing.mine,
            "today": standing.today,
            "last_hour": standing.last_hour,
            "median_active_ms": standing.median_active_ms,
        },
        "task": assignment and task_json(assignment),
    }


def _round_up(count: int) -> int:
    """Give the next multiple of ``_ROUND``, at least one."""
    return max(1, math.ceil(count / _ROUND)) * _ROUND


def submit(call: Call) -> Json:
    """Store a ranking and give the next task.

    Raises:
        Conflict: If another ranking was stored since; it comes along.
    """
    assignment = call.fields["assignment"]
    try:
        result = call.store.submit(assignment, call.name, _submission(call))
    except RevisionError as error:
        shown = task_json(call.store.reopen(assignment, call.name))
        raise Conflict({"error": str(error), "task": shown}) from None
    try:
        following = next_task(call)
    except StoreError as error:  # the ranking is stored: say so, and let the page ask again
        _log.error("%s", error)
        following = None
    return {
        "stored": {
            "assignment": result.assignment_id,
            "request_id": result.request_id,
            "revision": result.revision,
            "late": result.late,
        },
        "feedback": result.feedback and _feedback_json(result.feedback),
        "next": following,
    }


def keep_draft(call: Call) -> Json:
    """Keep what is on the screen, and the place in the task with it."""
    given = call.fields
    kept = call.store.keep_draft(given["assignment"], call.name, given["seq"], given["body"])
    return {"kept": kept}


def _submission(call: Call) -> Submission:
    flags = call.get("flags")
    if flags is not None and not all(isinstance(raised, list) for raised in flags):
        raise BadRequest("'flags' must be a list of lists")
    return Submission(
        request_id=call.fields["request_id"],
        action=call.fields["action"],
        ranks=tuple(call.get("ranks", ())),
        others_worse=call.get("others_worse", False),
        flags=flags and tuple(tuple(raised) for raised in flags),
        strengths=_tuple(call.get("strengths")),
        reason=call.get("reason", ""),
        comment=call.get("comment", ""),
        active_ms=call.get("active_ms"),
        replaces=call.get("replaces", 0),
    )


def _tuple(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)


def _feedback_json(feedback: Feedback) -> Json:
    return {
        "ranks": list(feedback.ranks),
        "explanation_html": safe_html(feedback.explanation) if feedback.explanation else "",
        "share": feedback.share,
        "passed": feedback.passed,
    }


ENDPOINTS = (
    Endpoint("/api/me", "annotator", me, "GET"),
    Endpoint("/api/guidelines", "annotator", guidelines, "GET"),
    Endpoint("/api/next", "annotator", next_task),
    Endpoint(
        "/api/submit",
        "annotator",
        submit,
        required={"assignment": int, "request_id": str, "action": str},
        optional={
            "replaces": int,
            "ranks": list,
            "others_worse": bool,
            "flags": list,
            "strengths": list,
            "reason": str,
            "comment": str,
            "active_ms": int,
        },
    ),
    Endpoint(
        "/api/draft",
        "annotator",
        keep_draft,
        required={"assignment": int, "seq": int, "body": dict},
    ),
)
