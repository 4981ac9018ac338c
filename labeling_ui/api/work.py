"""What the page of one's own work asks: past rankings, and opening one of them again."""

from __future__ import annotations

from labeling_ui.api.shown import decision_json, task_json
from labeling_ui.api.wire import Call, Endpoint, Id, Json
from rlhf.store import OwnRanking

PAGE_SIZE = 30


def mine(call: Call) -> Json:
    """Give the person's own rankings, newest first, and whether there are more."""
    found = call.store.own_rankings(call.name, before=call.get("before"), limit=PAGE_SIZE + 1)
    return {
        "rankings": [_own_json(own) for own in found[:PAGE_SIZE]],
        "more": len(found) > PAGE_SIZE,
    }


def reopen(call: Call) -> Json:
    """Give a task that the person has decided, to correct it."""
    return {"task": task_json(call.store.reopen(call.fields["assignment"], call.name))}


def _own_json(own: OwnRanking) -> Json:
    return {
        "ranking": own.ranking_id,
        "assignment": own.assignment_id,
        "prompt": [turn.content for turn in own.prompt.messages],
        "action": own.decision.action,
        "decision": decision_json(own.decision),
        "revision": own.revision,
        "submitted_ms": own.submitted_ms,
        "late": own.late,
        "kind": own.kind,
        "notes": list(own.notes),
    }


ENDPOINTS = (
    Endpoint("/api/mine", "annotator", mine, "GET", optional={"before": Id}),
    Endpoint("/api/reopen", "annotator", reopen, required={"assignment": int}),
)
