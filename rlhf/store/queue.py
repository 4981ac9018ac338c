"""The queue: tasks and annotators as they are added, and what is changed of tasks later.

Functions here run inside a transaction of the caller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from rlhf.errors import DataError, StoreError
from rlhf.records import Candidate, Prompt
from rlhf.store.checks import (
    annotator_key,
    check_task,
    dense_ranks,
    merge_candidates,
    task_sha256,
)
from rlhf.store.contracts import Gold, NewTask, SubmissionError, Task
from rlhf.store.hashes import draw, lottery_of
from rlhf.store.schema import accounts, annotators, tasks


def inserted_id(conn: sa.Connection, statement: sa.Insert) -> int:
    """Insert a row and give its number."""
    return int(conn.execute(statement.returning(statement.table.c.id)).scalar_one())


def add_task(
    conn: sa.Connection, task: NewTask, now_ms: int, random_share: float = 0.0
) -> tuple[int, bool]:
    """Store a task unless it is known; give its id and whether it is new.

    A known task takes over a larger overlap, and in the pools ``gold`` and ``training`` a known
    answer, and is otherwise left alone. ``random_share`` of ``normal`` tasks become ``random``.
    """
    candidates = merge_candidates(task.candidates)
    check_task(task, candidates)
    texts = [candidate.text for candidate in candidates]
    sha256 = task_sha256(task.prompt, texts)
    gold = None if task.gold is None else _gold_by_text(task)
    known = conn.execute(_KNOWN, {"sha256": sha256}).first()
    if known is not None:
        _update_known(conn, known, task, gold)
        return int(known.id), False
    new = {
        "sha256": sha256,
        "prompt": task.prompt.to_json(),
        "candidates": [{"text": c.text, "model": c.model} for c in candidates],
        "n_candidates": len(candidates),
        "overlap": task.overlap,
        "planned": task.overlap,
        "pool": pool_of(task, random_share),
        "meta": dict(task.meta),
        "created_ms": now_ms,
        "priority": float(task.priority),
        "gold": None if gold is None else _gold_json(task, gold, texts),
        "lottery": lottery_of(sha256),
    }
    return int(conn.execute(_ADD, new).scalar_one()), True


def pool_of(task: NewTask, random_share: float) -> str:
    """Give the pool of a new task; all tasks of one prompt fall alike."""
    # Not by the hash that splits held-out prompts off: the two choices must not depend.
    if task.pool == "normal" and draw("random pool", task.prompt.sha256) < random_share:
        return "random"
    return task.pool


def _gold_by_text(task: NewTask) -> dict[str, int | None]:
    assert task.gold is not None
    if len(task.gold.ranks) != len(task.candidates):
        raise DataError(
            f"a known answer of {len(task.gold.ranks)} ranks for {len(task.candidates)} candidates"
        )
    ranks: dict[str, int | None] = {}
    for candidate, rank in zip(task.candidates, task.gold.ranks, strict=True):
        if ranks.setdefault(candidate.text, rank) != rank:
            raise DataError("a known answer ranks two candidates of the same text differently")
    return ranks


def _gold_json(
    task: NewTask, ranks: Mapping[str, int | None], texts: Sequence[str]
) -> dict[str, Any]:
    assert task.gold is not None
    dense = list(dense_ranks([ranks[text] for text in texts]))
    return {"ranks": dense, "explanation": task.gold.explanation}


def _update_known(
    conn: sa.Connection, known: sa.Row[Any], task: NewTask, gold: Mapping[str, int | None] | None
) -> None:
    changed: dict[str, Any] = {}
    if task.overlap > known.overlap:
        changed["overlap"] = task.overlap
    if task.overlap > known.planned:
        changed["planned"] = task.overlap
    if gold is not None:
        if known.pool != task.pool:
            raise DataError(
                f"a task of pool {known.pool!r} is there already; it can't become {task.pool!r}"
            )
        changed["gold"] = _gold_json(task, gold, [c["text"] for c in known.candidates])
    if changed:
        conn.execute(tasks.update().where(tasks.c.id == known.id).values(changed))


def read_tasks(conn: sa.Connection) -> Iterator[Task]:
    """Yield every task, oldest first."""
    for row in conn.execute(sa.select(tasks).order_by(tasks.c.id)):
        yield _to_task(row)


def newest_tasks(conn: sa.Connection, state: str, before: int | None, limit: int) -> list[Task]:
    """Give the newest tasks in a state (``TASK_STATES``), those before a task's id."""
    query = sa.select(tasks).where(_IN_STATE[state]).order_by(tasks.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(tasks.c.id < before)
    return [_to_task(row) for row in conn.execute(query)]


def _to_task(row: sa.Row[Any]) -> Task:
    return Task(
        id=row.id,
        sha256=row.sha256,
        prompt=Prompt.parse(row.prompt),
        candidates=tuple(Candidate(c["text"], c["model"]) for c in row.candidates),
        overlap=row.overlap,
        pool=row.pool,
        meta=row.meta,
        done=row.n_done,
        priority=row.priority,
        paused=row.paused,
        gold=row.gold and Gold(tuple(row.gold["ranks"]), row.gold["explanation"]),
    )


def pause_task(conn: sa.Connection, task_id: int, paused: bool) -> None:
    """Pause a task or let it go on.

    Raises:
        SubmissionError: If there is no such task.
    """
    statement = tasks.update().where(tasks.c.id == task_id).values(paused=paused)
    if conn.execute(statement).rowcount == 0:
        raise SubmissionError(f"there is no task {task_id}")


def set_priorities(conn: sa.Connection, priorities: Mapping[str, float]) -> int:
    """Set the priority of all tasks of prompts; give how many tasks are of them."""
    for prompt, priority in priorities.items():
        if type(priority) not in (int, float) or not math.isfinite(priority):
            raise StoreError(f"priority {priority!r} of prompt {prompt:.12} must be a number")
    rows = conn.execute(sa.select(tasks.c.id, tasks.c.prompt)).all()
    found = [(row.id, priorities.get(Prompt.parse(row.prompt).sha256)) for row in rows]
    new = [{"task": task, "new": float(p)} for task, p in found if p is not None]
    if new:
        conn.execute(_SET_PRIORITY, new)
    return len(new)


def find_person(conn: sa.Connection, name: str) -> sa.Row[Any] | None:
    """Find a person by name, whatever its case: ``id``, ``pseudonym`` and account ``state``."""
    return conn.execute(_PERSON, {"key": annotator_key(name)}).first()


def annotator_id(conn: sa.Connection, name: str) -> int | None:
    """Find the number of a person by name."""
    found = find_person(conn, name)
    return None if found is None else int(found.id)


def pseudonym(conn: sa.Connection, name: str) -> str | None:
    """Give the pseudonym of a person, None for an unknown one."""
    found = find_person(conn, name)
    return None if found is None else str(found.pseudonym)


def add_annotator(conn: sa.Connection, name: str, pseudonym: str, now_ms: int) -> tuple[int, str]:
    """Register a person unless known; give the id and the pseudonym that stands."""
    key = annotator_key(name)
    known = find_person(conn, name)
    if known is not None:
        return int(known.id), str(known.pseudonym)
    if conn.scalar(sa.select(annotators.c.id).where(annotators.c.pseudonym == pseudonym)):
        raise StoreError(f"pseudonym {pseudonym!r} is another annotator's; choose another")
    statement = annotators.insert().values(
        pseudonym=pseudonym, name=name.strip(), name_key=key, created_ms=now_ms
    )
    return inserted_id(conn, statement), pseudonym


# -- statements, built once ------------------------------------------------------------------------

_DONE = tasks.c.n_done >= tasks.c.overlap
_IN_STATE = {
    "open": ~tasks.c.paused & ~_DONE,
    "done": ~tasks.c.paused & _DONE,
    "paused": tasks.c.paused,
}

_KNOWN: sa.Select[Any] = sa.select(
    tasks.c.id, tasks.c.overlap, tasks.c.planned, tasks.c.pool, tasks.c.candidates
).where(tasks.c.sha256 == sa.bindparam("sha256"))
_ADD = tasks.insert().returning(tasks.c.id)
_SET_PRIORITY = (
    tasks.update().where(tasks.c.id == sa.bindparam("task")).values(priority=sa.bindparam("new"))
)
_PERSON: sa.Select[Any] = (
    sa.select(annotators.c.id, annotators.c.pseudonym, accounts.c.state)
    .outerjoin(accounts, accounts.c.annotator_id == annotators.c.id)
    .where(annotators.c.name_key == sa.bindparam("key"))
)
