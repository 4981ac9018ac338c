"""Reviews: a reviewer accepts a ranking of a task, overrides all of them, or asks one more person.

Append-only; the newest review of a task stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rlhf.records import Prompt
from rlhf.store.checks import (
    MAX_COMMENT,
    check_request_id,
    dense_ranks,
    effective_ranks,
    is_text,
    pair_orders,
)
from rlhf.store.claims import decision_of
from rlhf.store.contracts import Decision, RevisionError, SubmissionError
from rlhf.store.engine import Database
from rlhf.store.queue import find_person
from rlhf.store.schema import annotators, is_current, rankings, reviews, tasks

VERDICTS = ("accept", "override", "send_back")


@dataclass(frozen=True, slots=True)
class Review:
    """A stored review."""

    id: int
    request_id: str
    task_id: int
    reviewer: str
    """Pseudonym."""
    verdict: str
    ranking_id: int | None
    ranks: tuple[int | None, ...] | None
    """In the order of the task's candidates."""
    note: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class ReviewRanking:
    """One person's current ranking of a task under review, in the order of its candidates."""

    ranking_id: int
    annotator: str
    """Pseudonym."""
    decision: Decision
    submitted_ms: int
    active_ms: int | None


@dataclass(frozen=True, slots=True)
class ReviewTask:
    """A task with everything that was said about it, in the order of its candidates."""

    task_id: int
    prompt: Prompt
    completions: tuple[str, ...]
    rankings: tuple[ReviewRanking, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The order that a reviewer decided on, in the order of the task's candidates."""

    task_id: int
    task_sha256: str
    """``meta["task"]`` of the task's rankings."""
    prompt: Prompt
    completions: tuple[str, ...]
    ranks: tuple[int | None, ...]
    """Unranked ones that the accepted ranking called worse stand last, tied."""
    verdict: str
    reviewer: str
    review_id: int


class Reviews:
    """The reviews of a store; ``RankingStore.reviews`` gives it."""

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms

    def add(
        self,
        reviewer: str,
        task_id: int,
        *,
        request_id: str,
        verdict: str,
        ranking_id: int | None = None,
        ranks: Sequence[int | None] | None = None,
        note: str = "",
        seen: int | None = None,
    ) -> Review:
        """Store a review; the same request sent again is stored once.

        Args:
            reviewer: The reviewer's name.
            task_id: What is reviewed.
            request_id: Made by the client.
            verdict: ``accept`` (``ranking_id`` says which), ``override`` (with ``ranks``) or
                ``send_back``, which asks for one more person.
            ranking_id: The ranking that is accepted, or that the note is about.
            ranks: In the order of the task's candidates.
            note: Shown to the person whose ranking it is about, or to all of the task.
            seen: Id of the newest review of the task that the reviewer saw, 0 for none; None
                stores it whatever there is.

        Raises:
            SubmissionError: If it can't be true.
            RevisionError: If another review is the newest.
        """
        content = {
            "task_id": task_id,
            "verdict": verdict,
            "ranking_id": ranking_id,
            "ranks": None if ranks is None else list(dense_ranks(_checked_ranks(ranks))),
            "note": note,
        }
        _check_review(request_id, content)
        with self._database.write() as conn:
            person = find_person(conn, reviewer)
            if person is None:
                raise SubmissionError(f"reviewer {reviewer!r} is not known")
            content["reviewer_id"] = int(person.id)
            stored = conn.execute(_REVIEWS.where(reviews.c.request_id == request_id)).first()
            if stored is None:
                task = _find_task(conn, task_id)
                _check_seen(conn, task, seen)
                _check_target(conn, task, content)
                new = {**content, "request_id": request_id, "created_ms": self._now_ms()}
                conn.execute(reviews.insert().values(new))
                if verdict == "send_back":
                    conn.execute(_ONE_MORE, {"task": task_id})
                stored = conn.execute(_REVIEWS.where(reviews.c.request_id == request_id)).one()
            elif any(getattr(stored, name) != value for name, value in content.items()):
                raise SubmissionError("request_id stands for another review; make a new one")
            return _review(stored)

    def of_task(self, task_id: int) -> tuple[Review, ...]:
        """Give the reviews of a task, oldest first."""
        query = _REVIEWS.where(reviews.c.task_id == task_id).order_by(reviews.c.id)
        with self._database.read() as conn:
            return tuple(map(_review, conn.execute(query)))

    def open_task(self, task_id: int) -> ReviewTask:
        """Give a task with its current rankings.

        Raises:
            SubmissionError: If there is no such task.
        """
        with self._database.read() as conn:
            task = _find_task(conn, task_id)
            rows = conn.execute(_RANKINGS, {"task": task_id}).all()
        return ReviewTask(
            task_id=task_id,
            prompt=Prompt.parse(task.prompt),
            completions=tuple(candidate["text"] for candidate in task.candidates),
            rankings=tuple(
                ReviewRanking(
                    row.id, row.pseudonym, decision_of(row), row.submitted_ms, row.active_ms
                )
                for row in rows
            ),
        )

    def verdicts(self) -> tuple[Verdict, ...]:
        """Give, per task whose newest review accepts or overrides, the order that was decided."""
        with self._database.read() as conn:
            return tuple(map(_verdict, conn.execute(_VERDICTS)))


def _checked_ranks(ranks: Sequence[int | None]) -> Sequence[int | None]:
    for rank in ranks:
        if rank is not None and (type(rank) is not int or not 1 <= rank <= len(ranks)):
            raise SubmissionError(f"rank {rank!r:.40} is not a whole number from 1 to {len(ranks)}")
    return ranks


def _check_review(request_id: str, content: Mapping[str, Any]) -> None:
    verdict, ranks, note = content["verdict"], content["ranks"], content["note"]
    check_request_id(request_id)
    if verdict not in VERDICTS:
        raise SubmissionError(f"verdict {verdict!r:.80} is not one of {', '.join(VERDICTS)}")
    if (ranks is not None) != (verdict == "override"):
        raise SubmissionError("ranks go with the verdict 'override', and it needs them")
    if ranks is not None and not any(pair_orders(ranks).values()):
        raise SubmissionError("an overriding order must put one candidate above another")
    if verdict == "accept" and content["ranking_id"] is None:
        raise SubmissionError("'accept' needs the ranking that is accepted")
    if not is_text(note) or len(note) > MAX_COMMENT:
        raise SubmissionError(f"a note must be text of at most {MAX_COMMENT} characters")


def _check_seen(conn: sa.Connection, task: sa.Row[Any], seen: int | None) -> None:
    if seen is not None and seen != (conn.scalar(_NEWEST, {"task": task.id}) or 0):
        raise RevisionError("somebody has reviewed this task meanwhile; load it anew")


def _check_target(conn: sa.Connection, task: sa.Row[Any], content: Mapping[str, Any]) -> None:
    ranks, number = content["ranks"], content["ranking_id"]
    if ranks is not None and len(ranks) != task.n_candidates:
        raise SubmissionError(f"{len(ranks)} ranks for {task.n_candidates} candidates")
    if number is None:
        return
    ranking = conn.execute(_RANKINGS.where(rankings.c.id == number), {"task": task.id}).first()
    if ranking is None:
        raise SubmissionError(f"ranking {number!r:.40} is not a current one of this task")
    if content["verdict"] == "accept" and ranking.action != "rank":
        raise SubmissionError("only a ranking with an order can be accepted")


def _find_task(conn: sa.Connection, task_id: object) -> sa.Row[Any]:
    if type(task_id) is int and 0 < task_id < 2**31:
        found = conn.execute(sa.select(tasks).where(tasks.c.id == task_id)).first()
        if found is not None:
            return found
    raise SubmissionError(f"there is no task {task_id!r:.40}")


def _review(row: sa.Row[Any]) -> Review:
    return Review(
        id=row.id,
        request_id=row.request_id,
        task_id=row.task_id,
        reviewer=row.pseudonym,
        verdict=row.verdict,
        ranking_id=row.ranking_id,
        ranks=None if row.ranks is None else tuple(row.ranks),
        note=row.note,
        created_ms=row.created_ms,
    )


def _verdict(row: sa.Row[Any]) -> Verdict:
    ranks = row.ranks
    if row.verdict == "accept":
        ranks = effective_ranks(row.accepted_ranks, row.others_worse)
    return Verdict(
        task_id=row.task_id,
        task_sha256=row.sha256,
        prompt=Prompt.parse(row.prompt),
        completions=tuple(candidate["text"] for candidate in row.candidates),
        ranks=tuple(ranks),
        verdict=row.verdict,
        reviewer=row.pseudonym,
        review_id=row.id,
    )


# -- statements, built once ------------------------------------------------------------------------

_REVIEWS = sa.select(reviews, annotators.c.pseudonym).join(
    annotators, annotators.c.id == reviews.c.reviewer_id
)
_NEWEST = sa.select(sa.func.max(reviews.c.id)).where(reviews.c.task_id == sa.bindparam("task"))
_newer = reviews.alias("newer")
_VERDICTS = (
    _REVIEWS.add_columns(
        tasks.c.sha256,
        tasks.c.prompt,
        tasks.c.candidates,
        rankings.c.ranks.label("accepted_ranks"),
        rankings.c.others_worse,
    )
    .join(tasks, tasks.c.id == reviews.c.task_id)
    .outerjoin(rankings, rankings.c.id == reviews.c.ranking_id)
    .where(
        reviews.c.verdict != "send_back",
        ~sa.select(_newer.c.id)
        .where(_newer.c.task_id == reviews.c.task_id, _newer.c.id > reviews.c.id)
        .exists(),
    )
    .order_by(reviews.c.task_id)
)
_RANKINGS = (
    sa.select(rankings, annotators.c.pseudonym)
    .join(annotators, annotators.c.id == rankings.c.annotator_id)
    .where(rankings.c.task_id == sa.bindparam("task"), is_current())
    .order_by(rankings.c.annotator_id)
)
_people = sa.case((tasks.c.n_done > tasks.c.overlap, tasks.c.n_done), else_=tasks.c.overlap)
_ONE_MORE = tasks.update().where(tasks.c.id == sa.bindparam("task")).values(overlap=1 + _people)
