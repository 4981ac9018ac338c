"""The ranking store: tasks go in, annotators take them one by one, rankings come out.

Every method is one transaction; what returns is on disk. A store may be shared by threads and
opened by several processes on one machine at once.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlhf.errors import DataError, StoreError
from rlhf.records import Candidate, Prompt, Ranking
from rlhf.store import exchange, history, queue
from rlhf.store.checks import annotator_key, merge_candidates
from rlhf.store.contracts import (
    AddedTasks,
    Assignment,
    ImportedRankings,
    NewTask,
    Progress,
    Standing,
    Submission,
    SubmissionError,
    SubmitResult,
    Task,
)
from rlhf.store.engine import Database, sqlite_path

LEASE_SECONDS = 30 * 60.0


class RankingStore:
    """People's rankings of candidates, and the queue of what they are to rank next."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

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
            path_or_url: A file, or ``sqlite:///`` and a file.
            create: Whether a missing store is made; otherwise it is an error.
            clock: Gives Unix time in seconds.

        Raises:
            StoreError: If the file is not a store, is of a newer version or can't be used.
        """
        return cls(Database(sqlite_path(path_or_url), create=create), clock)

    @property
    def path(self) -> Path:
        """The file that holds the store."""
        return self._database.path

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
            return queue.add_task(conn, task, self._now_ms())[0]

    def add_tasks(self, new: Iterable[NewTask]) -> AddedTasks:
        """Store many tasks in one transaction, all or none.

        Tasks whose candidates are all the same text are skipped and counted.

        Raises:
            DataError: If a task is refused for another reason; its number is named.
        """
        ids: list[int | None] = []
        added = 0
        with self._database.write() as conn:
            now_ms = self._now_ms()
            for number, task in enumerate(new, start=1):
                if len(merge_candidates(task.candidates)) < 2:
                    ids.append(None)
                    continue
                try:
                    task_id, is_new = queue.add_task(conn, task, now_ms)
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
            wanted = pseudonym or _random_pseudonym()
            _, stands = queue.add_annotator(conn, name, wanted, self._now_ms())
        if pseudonym not in (None, stands):
            raise StoreError(f"annotator {name!r} has the pseudonym {stands!r} already")
        return stands

    def claim(self, annotator: str, *, lease_seconds: float = LEASE_SECONDS) -> Assignment | None:
        """Give an annotator the next task, or None when there is none to rank.

        A task that the annotator holds is given again. Nobody gets a task twice, and exactly
        ``overlap`` people get each, those who are ranking it now included; a lease that runs
        out frees its place.
        """
        if not lease_seconds > 0:
            raise StoreError(f"lease_seconds {lease_seconds!r} must be positive")
        with self._database.write() as conn:
            now_ms = self._now_ms()
            person, pseudonym = queue.add_annotator(conn, annotator, _random_pseudonym(), now_ms)
            return queue.claim(conn, person, pseudonym, now_ms, round(lease_seconds * 1000))

    def submit(self, assignment_id: int, annotator: str, submission: Submission) -> SubmitResult:
        """Store a ranking; the same submission sent again is stored once.

        Ranks are stored dense (1, 2, 2, 3: no gaps). A submission that comes after its lease ran
        out is kept and marked late. A correction is one that ``replaces`` the revision seen.

        Raises:
            SubmissionError: If it can't be true.
            RevisionError: If another ranking was stored since.
        """
        if type(assignment_id) is not int or not 0 < assignment_id < 2**63:
            raise SubmissionError(f"assignment {assignment_id!r} is not a number")
        with self._database.write() as conn:
            person = queue.annotator_id(conn, annotator)
            if person is None:
                raise SubmissionError(f"annotator {annotator!r} has no assignment")
            return history.submit(conn, assignment_id, person, submission, self._now_ms())

    def rankings(
        self, *, simulated: bool | None = None, pool: str | None = None
    ) -> Iterator[Ranking]:
        """Yield the current rankings of one moment, completions in stored order.

        Skipped and unjudged tasks are among them (see ``Ranking.action``). ``meta`` holds the
        task's hash, pool and meta, models, shown order, revision, times and comments.

        Args:
            simulated: True gives those made by programs alone, False those made by people.
            pool: Gives those of one pool alone.
        """
        with self._database.read() as conn:
            yield from history.read_rankings(conn, simulated=simulated, pool=pool)

    def tasks(self) -> Iterator[Task]:
        """Yield every task, oldest first."""
        with self._database.read() as conn:
            yield from queue.read_tasks(conn)

    def progress(self) -> Progress:
        """Count tasks and current rankings."""
        with self._database.read() as conn:
            return history.progress(conn)

    def standing(self, annotator: str) -> Standing:
        """Count open tasks and those that an annotator has ranked."""
        with self._database.read() as conn:
            return queue.standing(conn, queue.annotator_id(conn, annotator))

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

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)


def _random_pseudonym() -> str:
    return f"annotator-{secrets.token_hex(4)}"
