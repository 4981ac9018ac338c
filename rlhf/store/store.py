"""The ranking store: tasks go in, annotators take them one by one, rankings come out.

Every method is one transaction; what returns is on disk. A store may be shared by threads and
opened by several processes on one machine at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from rlhf.errors import DataError, StoreError
from rlhf.records import Candidate, Prompt, Ranking
from rlhf.store import claims, drafts, exchange, history, mine, queue
from rlhf.store.checks import annotator_key, merge_candidates
from rlhf.store.contracts import (
    TASK_STATES,
    AddedTasks,
    Assignment,
    ImportedRankings,
    NewTask,
    OwnRanking,
    Progress,
    Settings,
    Standing,
    Submission,
    SubmitResult,
    Task,
)
from rlhf.store.engine import Database
from rlhf.store.people import People, random_pseudonym, write_note
from rlhf.store.places import open_database
from rlhf.store.reviews import Reviews
from rlhf.store.settings import change_settings, changes, read_settings
from rlhf.store.snapshot import Snapshot, read_snapshot


class RankingStore:
    """People's rankings of candidates, and the queue of what they are to rank next."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._counts = mine.TaskCounts()
        self.people = People(database, self._now_ms)
        """Accounts, sessions, failed logins and the audit log."""
        self.reviews = Reviews(database, self._now_ms)
        """What reviewers decided."""

    @classmethod
    def open(
        cls,
        path_or_url: str | os.PathLike[str],
        *,
        create: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Open a store, making or upgrading it where needed.

        Args:
            path_or_url: A file, ``sqlite:///`` and a file, or the URL of a PostgreSQL database,
                such as ``postgresql://user@host/database``.
            create: Whether a missing store is made; otherwise it is an error.
            clock: Gives Unix time in seconds.

        Raises:
            StoreError: If the file is not a store, is of a newer version or can't be used.
        """
        return cls(open_database(path_or_url, create=create), clock)

    @property
    def place(self) -> str:
        """Where the store is: its file, or its URL without a password."""
        return self._database.place

    @property
    def warning(self) -> str | None:
        """What a person who serves the store should know of it; None where it is nothing."""
        return self._database.warning

    def close(self) -> None:
        """Close the store; nothing is lost without it."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_task(
        self,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        overlap: int = 1,
        pool: str = "normal",
        meta: Mapping[str, Any] | None = None,
    ) -> int:
        """Store a task and give its id; see ``NewTask`` for the arguments.

        The same prompt with the same candidate texts is one task, however often it is added;
        a larger overlap is taken over. Equal candidates are merged.

        Raises:
            DataError: If fewer than 2 or more than 9 different candidates are left.
        """
        task = NewTask(prompt, tuple(candidates), overlap, pool, meta or {})
        with self._database.write() as conn:
            share = read_settings(conn).random_share
            return queue.add_task(conn, task, self._now_ms(), share)[0]

    def add_tasks(self, new: Iterable[NewTask]) -> AddedTasks:
        """Store many tasks in one transaction, all or none.

        Tasks whose candidates are all the same text are skipped and counted.

        Raises:
            DataError: If a task is refused for another reason; its number is named.
        """
        ids: list[int | None] = []
        added = 0
        with self._database.write() as conn:
            now_ms, share = self._now_ms(), read_settings(conn).random_share
            for number, task in enumerate(new, start=1):
                if len(merge_candidates(task.candidates)) < 2:
                    ids.append(None)
                    continue
                try:
                    task_id, is_new = queue.add_task(conn, task, now_ms, share)
                except DataError as error:
                    raise DataError(f"task {number}: {error}") from None
                ids.append(task_id)
                added += is_new
        skipped = ids.count(None)
        return AddedTasks(tuple(ids), added, len(ids) - added - skipped, skipped)

    def add_annotator(self, name: str, pseudonym: str | None = None) -> str:
        """Register an annotator and give the pseudonym under which rankings are exported.

        ``claim`` registers unknown names by itself, under a random pseudonym. Programs that
        rank should choose one, so that the same run gives the same rankings.

        Raises:
            StoreError: If the pseudonym is another annotator's.
        """
        if pseudonym is not None:
            annotator_key(pseudonym)  # the same bounds as for names
        with self._database.write() as conn:
            wanted = pseudonym or random_pseudonym()
            _, stands = queue.add_annotator(conn, name, wanted, self._now_ms())
        if pseudonym not in (None, stands):
            raise StoreError(f"annotator {name!r} has the pseudonym {stands!r} already")
        return stands

    def claim(self, annotator: str, *, lease_seconds: float | None = None) -> Assignment | None:
        """Give an annotator the next task, or None when there is none to rank.

        A task that the annotator holds is given again. Nobody gets a task twice, and exactly
        ``overlap`` people get each, those who are ranking it now included; a lease that runs
        out frees its place. Training and gold tasks go to everyone once. A person who is paused
        gets none.

        Args:
            annotator: A name; unknown ones are registered.
            lease_seconds: How long the place is held; by default as the settings say.
        """
        _check_lease(lease_seconds)
        with self._database.write() as conn:
            now_ms, settings = self._now_ms(), read_settings(conn)
            person = queue.find_person(conn, annotator)
            if person is None:
                queue.add_annotator(conn, annotator, random_pseudonym(), now_ms)
                person = queue.find_person(conn, annotator)
            if person is None or person.state in ("paused", "disabled"):
                return None
            lease = settings.lease_seconds if lease_seconds is None else lease_seconds
            asked = claims.Claim(person.id, person.pseudonym, now_ms, round(lease * 1000))
            return claims.claim(conn, asked, settings)

    def submit(self, assignment_id: int, annotator: str, submission: Submission) -> SubmitResult:
        """Store a ranking; the same submission sent again is stored once.

        Ranks are stored dense (1, 2, 2, 3: no gaps). A submission that comes after its lease ran
        out is kept and marked late. A correction is one that ``replaces`` the revision seen. Where
        the first people disagree, more are asked (see ``Settings.max_overlap``).

        Raises:
            SubmissionError: If it can't be true.
            RevisionError: If another ranking was stored since.
        """
        with self._own(assignment_id, annotator) as (conn, person):
            return history.submit(conn, assignment_id, person, submission, self._now_ms())

    def keep_draft(
        self,
        assignment_id: int,
        annotator: str,
        seq: int,
        body: Mapping[str, Any],
        *,
        lease_seconds: float | None = None,
    ) -> bool:
        """Keep what is on an annotator's screen, and hold their place for longer.

        Args:
            assignment_id: What it is a draft of; a correction may have one too.
            annotator: Whose it is.
            seq: Grows with each draft of the assignment.
            body: Any JSON object of at most 32 kB.
            lease_seconds: How long the place is held from now; by default as the settings say.

        Returns:
            False when a draft with this ``seq`` or a higher one is there already.

        Raises:
            SubmissionError: If the assignment is not theirs, or the draft can't be stored.
        """
        drafts.check_draft(seq, body)
        _check_lease(lease_seconds)
        with self._own(assignment_id, annotator) as (conn, person):
            now_ms = self._now_ms()
            lease = read_settings(conn).lease_seconds if lease_seconds is None else lease_seconds
            assignment = drafts.own_assignment(conn, assignment_id, person)
            drafts.extend_lease(conn, assignment, now_ms, round(lease * 1000))
            return drafts.keep_draft(conn, assignment, seq, body, now_ms)

    def reopen(self, assignment_id: int, annotator: str) -> Assignment:
        """Give an annotator's assignment again, with what is stored of it, to correct it.

        Raises:
            SubmissionError: If it is not theirs.
        """
        with self._own(assignment_id, annotator, self._database.read) as (conn, person):
            return mine.reopen(conn, assignment_id, person)

    def own_rankings(
        self, annotator: str, *, before: int | None = None, limit: int = 30
    ) -> tuple[OwnRanking, ...]:
        """Give an annotator's current rankings, newest first.

        Args:
            annotator: Whose; unknown people have none.
            before: The ``ranking_id`` where the last page ended.
            limit: How many at most.
        """
        with self._database.read() as conn:
            person = queue.annotator_id(conn, annotator)
            return () if person is None else mine.own_rankings(conn, person, before, limit)

    def pause_task(self, task_id: int, paused: bool, *, actor_id: int | None = None) -> None:
        """Give a task to nobody more, or let it go on; who holds it may still submit.

        Raises:
            SubmissionError: If there is no such task.
        """
        with self._database.write() as conn:
            queue.pause_task(conn, task_id, paused)
            told = {"task": task_id, "paused": paused}
            write_note(conn, self._now_ms(), "task_paused", actor_id, **told)

    def set_priorities(self, priorities: Mapping[str, float]) -> int:
        """Set the priority of every task of prompts, by ``Prompt.sha256``; give their number."""
        with self._database.write() as conn:
            return queue.set_priorities(conn, priorities)

    def settings(self) -> Settings:
        """Give the settings of the store."""
        with self._database.read() as conn:
            return read_settings(conn)

    def change_settings(self, *, actor_id: int | None = None, **values: Any) -> Settings:
        """Change settings by name and give all of them.

        Raises:
            StoreError: If one is unknown or can't be; then none is changed.
        """
        with self._database.write() as conn:
            before = read_settings(conn)
            after = change_settings(conn, values, self._now_ms())
            if changed := changes(before, after):
                write_note(conn, self._now_ms(), "settings_changed", actor_id, **changed)
            return after

    def rankings(
        self, *, simulated: bool | None = None, pool: str | None = None, gold: bool = False
    ) -> Iterator[Ranking]:
        """Yield the current rankings of one moment, completions in stored order.

        Skipped and unjudged tasks are among them (see ``Ranking.action``). ``meta`` holds the
        task's hash, pool and meta, models, shown order, revision, times and comments.

        Args:
            simulated: True gives those made by programs alone, False those made by people.
            pool: Gives those of one pool alone.
            gold: Gives those of the pools ``gold`` and ``training`` too.
        """
        with self._database.read() as conn:
            yield from history.read_rankings(conn, simulated=simulated, pool=pool, gold=gold)

    def tasks(self) -> Iterator[Task]:
        """Yield every task, oldest first."""
        with self._database.read() as conn:
            yield from queue.read_tasks(conn)

    def newest_tasks(
        self, state: str, *, before: int | None = None, limit: int = 50
    ) -> tuple[Task, ...]:
        """Give the newest tasks that are ``open``, ``done`` or ``paused``.

        Args:
            state: Which tasks.
            before: Gives those older than the task of this id.
            limit: Gives at most so many.
        """
        if state not in TASK_STATES:
            raise StoreError(f"state {state!r} is not one of {', '.join(TASK_STATES)}")
        with self._database.read() as conn:
            return tuple(queue.newest_tasks(conn, state, before, limit))

    def progress(self) -> Progress:
        """Count tasks and current rankings."""
        with self._database.read() as conn:
            return history.progress(conn)

    def snapshot(self, now_ms: int | None = None) -> Snapshot:
        """Give what figures are made of, all of one moment."""
        with self._database.read() as conn:
            return read_snapshot(conn, self._now_ms() if now_ms is None else now_ms)

    def standing(self, annotator: str) -> Standing:
        """Count open tasks and those that an annotator has ranked."""
        with self._database.read() as conn:
            person, counts = queue.find_person(conn, annotator), self._counts.of(conn)
            return mine.standing(conn, person, counts, self._now_ms())

    def pseudonym(self, annotator: str) -> str | None:
        """Give the pseudonym of an annotator, None for one who never claimed a task."""
        with self._database.read() as conn:
            return queue.pseudonym(conn, annotator)

    def fingerprint(self) -> str:
        """Hash what the current rankings say, so that a run can name its data.

        Order and times don't count: a store filled from another's export has the same.
        """
        return exchange.fingerprint(self.rankings())

    def export_jsonl(self, path: str | os.PathLike[str]) -> int:
        """Write the current rankings as JSONL, whole or not at all; give their number."""
        return exchange.write_jsonl(Path(path), self.rankings())

    def import_jsonl(self, path: str | os.PathLike[str]) -> ImportedRankings:
        """Read rankings from JSONL, all or none; those known by id are left alone.

        Raises:
            DataError: With ``file:line`` of the first row that can't be used.
        """
        return self._import(exchange.read_jsonl(Path(path)))

    def import_rankings(self, rankings: Iterable[Ranking]) -> ImportedRankings:
        """Store rankings made elsewhere, all or none; those known by id are left alone."""
        numbered = enumerate(rankings, start=1)
        return self._import((f"ranking {number}", ranking) for number, ranking in numbered)

    def _import(self, placed: Iterable[tuple[str, Ranking]]) -> ImportedRankings:
        with self._database.write() as conn:
            importer = exchange.Importer(conn, self._now_ms())
            for place, ranking in placed:
                importer.add(place, ranking)
        return ImportedRankings(importer.added, importer.known)

    @contextmanager
    def _own(
        self,
        assignment_id: int,
        annotator: str,
        transaction: Callable[[], AbstractContextManager[sa.Connection]] | None = None,
    ) -> Iterator[tuple[sa.Connection, int]]:
        """Run a block in a transaction, a writing one by default, for an annotator's number."""
        if type(assignment_id) is not int or not 0 < assignment_id < 2**31:
            raise drafts.not_yours(assignment_id)
        with (transaction or self._database.write)() as conn:
            person = queue.annotator_id(conn, annotator)
            if person is None:
                raise drafts.not_yours(assignment_id)
            yield conn, person

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)


def _check_lease(lease_seconds: float | None) -> None:
    if lease_seconds is not None and not lease_seconds > 0:
        raise StoreError(f"lease_seconds {lease_seconds!r} must be positive")
