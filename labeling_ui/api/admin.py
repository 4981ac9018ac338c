"""What the admin's pages ask: figures, pausing tasks and people, exports, the audit log."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

from starlette.responses import Response

from labeling_ui.api.wire import Call, Endpoint, Id, Json, choose
from rlhf.config import RankingsExportConfig
from rlhf.rankings.desk import measure_desk
from rlhf.rankings.exporting import Export, NothingToExport, read_export
from rlhf.store import Account, SubmissionError
from rlhf.store.contracts import TASK_STATES

PAGE_SIZE = 50
EXCERPT = 200
SAMPLE = 5
_HINTS = get_type_hints(RankingsExportConfig)
_CHOICES = {name: get_args(_HINTS[name]) for name in ("format", "aggregate", "split")}
_SPEC: dict[str, type] = {**dict.fromkeys(_CHOICES, str), "pool": str}


def figures(call: Call) -> Json:
    """Give the figures of the whole store, with the names that an admin may see."""
    store = call.store
    desk = measure_desk(store, round(call.server.clock() * 1000)).to_json()
    accounts = {account.pseudonym: account for account in store.people.accounts()}
    me = store.pseudonym(call.name)
    for person in desk["people"]:
        account = accounts.get(person["pseudonym"])
        person["name"] = account.name if account else None
        person["state"] = account.state if account else None
        if person["pseudonym"] == me:
            person["name"] = call.name
    return desk


def pause_task(call: Call) -> Json:
    """Hold a task back, or hand it out again."""
    task, paused = call.fields["task"], call.fields["paused"]
    call.store.pause_task(task, paused, actor_id=call.visitor.annotator_id)
    return {"task": task, "paused": paused}


def pause_person(call: Call) -> Json:
    """Hold tasks back from a person, or give them again."""
    account = _account(call, call.fields["pseudonym"])
    paused = call.fields["paused"]
    if account.state == "disabled":
        raise SubmissionError("this account is disabled; make it active from the command line")
    actor = call.visitor.annotator_id
    call.store.people.set_state(account.name, "paused" if paused else "active", actor_id=actor)
    return {"pseudonym": account.pseudonym, "paused": paused}


def tasks(call: Call) -> Json:
    """Give the tasks in a state, newest first."""
    state = choose(call, "state", TASK_STATES)
    found = call.store.newest_tasks(state, before=call.get("before"), limit=PAGE_SIZE + 1)
    return {
        "tasks": [
            {
                "task": task.id,
                "prompt_excerpt": task.prompt.text[:EXCERPT],
                "completions": len(task.candidates),
                "pool": task.pool,
                "priority": task.priority,
                "overlap": task.overlap,
                "done": task.done,
                "paused": task.paused,
            }
            for task in found[:PAGE_SIZE]
        ],
        "more": len(found) > PAGE_SIZE,
    }


def preview(call: Call) -> Json:
    """Say what an export holds, and show its first rows."""
    found = _read(call, _config(call))
    lines = found.content.decode("utf-8").split("\n", SAMPLE)[:SAMPLE]
    return {
        "rows": found.rows,
        "sha256": found.sha256,
        "sample": [json.loads(line) for line in lines if line],
        "pairs": found.pairs,
        "ties": found.ties,
    }


def export(call: Call) -> Response:
    """Give an export as a file: the bytes of ``rlhf rankings export``."""
    config = _config(call)
    found = _read(call, config)
    chosen = {name: getattr(config, name) for name in (*_CHOICES, "pool")}
    told = {**chosen, "rows": found.rows, "sha256": found.sha256}
    call.store.people.note("export", call.visitor.annotator_id, **told)
    name = "-".join(str(value) for value in chosen.values() if value)
    return Response(
        found.content,
        headers={"Content-Disposition": f'attachment; filename="{name}.jsonl"'},
        media_type="application/jsonl",
    )


def audit(call: Call) -> Json:
    """Give the newest entries of the audit log."""
    found = call.store.people.audit(PAGE_SIZE + 1, call.get("before"))
    names = {account.pseudonym: account.name for account in call.store.people.accounts()}
    return {
        "entries": [
            {
                "id": entry.id,
                "at_ms": entry.at_ms,
                "actor": names.get(entry.actor or "", entry.actor),
                "kind": entry.kind,
                "data": dict(entry.data),
            }
            for entry in found[:PAGE_SIZE]
        ],
        "more": len(found) > PAGE_SIZE,
    }


def _config(call: Call) -> RankingsExportConfig:
    chosen: dict[str, Any] = {name: choose(call, name, _CHOICES[name]) for name in _CHOICES}
    pool = call.get("pool") or None
    return RankingsExportConfig(store="-", output="-", pool=pool, **chosen)


def _read(call: Call, config: RankingsExportConfig) -> Export:
    try:
        return read_export(call.store, config)
    except NothingToExport as error:
        raise SubmissionError(str(error)) from None


def _account(call: Call, pseudonym: str) -> Account:
    for account in call.store.people.accounts():
        if account.pseudonym == pseudonym:
            return account
    raise SubmissionError("nobody with an account has this pseudonym")


ENDPOINTS = (
    Endpoint("/api/admin/figures", "admin", figures, "GET", slow=True),
    Endpoint("/api/admin/pause-task", "admin", pause_task, required={"task": Id, "paused": bool}),
    Endpoint(
        "/api/admin/pause-person",
        "admin",
        pause_person,
        required={"pseudonym": str, "paused": bool},
    ),
    Endpoint(
        "/api/admin/tasks",
        "admin",
        tasks,
        "GET",
        optional={"state": str, "before": Id},
    ),
    Endpoint("/api/admin/export-preview", "admin", preview, optional=_SPEC, slow=True),
    Endpoint("/api/admin/export", "admin", export, "GET", optional=_SPEC, slow=True),
    Endpoint("/api/admin/audit", "admin", audit, "GET", optional={"before": Id}),
)
