"""What the reviewers' page asks: tasks over which people disagree, and what is decided on them.

A reviewer sees the answers in an order of their own and the people as numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from labeling_ui.api.shown import decision_json, prompt_json, rearranged, text_json
from labeling_ui.api.wire import BadRequest, Call, Endpoint, Id, Json
from rlhf.rankings.desk import review_list
from rlhf.store import ReviewRanking, ReviewTask
from rlhf.store.checks import shuffled

EXCERPT = 200
LISTED = 200


def tasks(call: Call) -> Json:
    """Give the tasks that several people ranked, lowest agreement first."""
    return {
        "tasks": [
            {
                "task": item.task_id,
                "prompt_excerpt": item.prompt.text[:EXCERPT],
                "people": item.people,
                "agreement": item.agreement,
                "reviewed": item.reviewed,
            }
            for item in review_list(call.store)[:LISTED]
        ]
    }


def open_task(call: Call) -> Json:
    """Give a task with what people said of it."""
    task = call.store.reviews.open_task(call.fields["task"])
    order = _order(call, task)
    return {
        "task": task.task_id,
        "prompt": prompt_json(task.prompt),
        "completions": [text_json(task.completions[place]) for place in order],
        "rankings": [
            {
                "ranking": ranking.ranking_id,
                "who": f"Person {count}",
                "decision": decision_json(ranking.decision, order),
            }
            for count, ranking in enumerate(_mixed(task), start=1)
        ],
        "reviews": [
            {
                "review": review.id,
                "verdict": review.verdict,
                "note": review.note,
                "created_ms": review.created_ms,
            }
            for review in call.store.reviews.of_task(task.task_id)
        ],
    }


def decide(call: Call) -> Json:
    """Store what the reviewer decided, unless there is a review that they have not seen."""
    number, shown, ranks = call.fields["task"], call.get("ranks"), None
    if shown is not None:
        order = _order(call, call.store.reviews.open_task(number))
        ranks = _in_candidate_order(shown, order)
    call.store.reviews.add(
        call.name,
        number,
        request_id=call.fields["request_id"],
        verdict=call.fields["verdict"],
        ranking_id=call.get("ranking"),
        ranks=ranks,
        note=call.get("note", ""),
        seen=call.get("seen", 0),
    )
    return {"stored": True}


def _order(call: Call, task: ReviewTask) -> tuple[int, ...]:
    """Give which candidate stands at each place that this reviewer sees."""
    return shuffled(len(task.completions), "review", str(task.task_id), call.name)


def _mixed(task: ReviewTask) -> list[ReviewRanking]:
    """Number the people anew for each task, so that nobody is known by their place."""

    def place(ranking: ReviewRanking) -> str:
        return hashlib.sha256(f"{task.task_id}\0{ranking.annotator}".encode()).hexdigest()

    return sorted(task.rankings, key=place)


def _in_candidate_order(shown: Sequence[int | None], order: Sequence[int]) -> list[int | None]:
    if len(shown) != len(order):
        raise BadRequest(f"'ranks' must hold {len(order)} entries, one for each answer")
    places = sorted(range(len(order)), key=lambda place: order[place])
    return rearranged(shown, places)


ENDPOINTS = (
    Endpoint("/api/review/tasks", "reviewer", tasks, "GET", slow=True),
    Endpoint("/api/review/open", "reviewer", open_task, required={"task": Id}),
    Endpoint(
        "/api/review/decide",
        "reviewer",
        decide,
        required={"task": Id, "request_id": str, "verdict": str},
        optional={"ranking": Id, "ranks": list, "note": str, "seen": Id},
    ),
)
