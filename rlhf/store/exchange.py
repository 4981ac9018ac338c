"""Rankings in and out: the documented JSONL rows, and records put into a store."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rlhf.errors import DataError, RlhfError
from rlhf.records import Candidate, Prompt, Ranking
from rlhf.store.checks import check_submission, dense_ranks, is_text
from rlhf.store.contracts import NewTask, Submission
from rlhf.store.history import (
    append,
    close,
    content_of,
    current_revision,
    find_request,
    find_revision,
    is_same,
    newest_action,
)
from rlhf.store.queue import add_task, inserted_id
from rlhf.store.schema import annotators, assignments, tasks

_KEYS = (*(item.name for item in fields(Ranking)),)
_APART = ("submitted_at", "active_ms", "planned")
"""Of what is noted with a ranking, the part that does not belong to what it says."""
_MAX_REVISION = 2**31 - 1
_EARLIEST, _LATEST = (datetime(year, 1, 1, tzinfo=UTC) for year in (1970, 2100))


def to_row(ranking: Ranking) -> dict[str, Any]:
    """Give a ranking as a row of the documented format; defaults are left out."""
    row: dict[str, Any] = {
        "prompt": ranking.prompt.to_json(),
        "completions": list(ranking.completions),
        "ranks": list(ranking.ranks),
        "annotator": ranking.annotator,
        "id": ranking.id,
        "flags": None if ranking.flags is None else [list(raised) for raised in ranking.flags],
        "strengths": None if ranking.strengths is None else list(ranking.strengths),
        "simulated": ranking.simulated or None,
        "action": None if ranking.action == "rank" else ranking.action,
        "others_worse": ranking.others_worse or None,
        "meta": dict(ranking.meta) or None,
    }
    return {name: value for name, value in row.items() if value is not None}


def from_row(row: object) -> Ranking:
    """Read a row of the documented format.

    Raises:
        DataError: If the row is not a ranking.
    """
    if not isinstance(row, dict):
        raise DataError(f"a ranking is a JSON object, not {type(row).__name__}")
    unknown = [key for key in row if key not in _KEYS]
    if unknown:
        raise DataError(f"unknown key {unknown[0]!r}; a ranking has {', '.join(_KEYS)}")
    for name in ("prompt", "completions", "ranks"):
        if name not in row:
            raise DataError(f"{name!r} is missing")
    flags = _get(row, "flags", list, None)
    if flags is not None and not all(isinstance(raised, list) for raised in flags):
        raise DataError("'flags' must hold one list per completion")
    strengths = _get(row, "strengths", list, None)
    return Ranking(
        prompt=Prompt.parse(row["prompt"]),
        completions=tuple(_get(row, "completions", list, [])),
        ranks=tuple(_get(row, "ranks", list, [])),
        annotator=_get(row, "annotator", str, None),
        id=_get(row, "id", str, None),
        flags=None if flags is None else tuple(tuple(raised) for raised in flags),
        strengths=None if strengths is None else tuple(strengths),
        simulated=_get(row, "simulated", bool, False),
        action=_get(row, "action", str, "rank"),
        others_worse=_get(row, "others_worse", bool, False),
        meta=_get(row, "meta", dict, {}),
    )


def _get(row: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = row.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise DataError(f"{name!r} must be {kind.__name__}, not {type(value).__name__}")
    return value


def fingerprint(rankings: Iterable[Ranking]) -> str:
    """Hash what rankings say, whatever their order, their times and the store they lie in."""
    lines = []
    for ranking in rankings:
        row = to_row(ranking)
        row["meta"] = {name: v for name, v in ranking.meta.items() if name not in _APART}
        lines.append(json.dumps(row, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def write_jsonl(path: Path, rankings: Iterable[Ranking]) -> int:
    """Write rankings to a file that is either whole or not there; give their number."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for ranking in rankings:
                file.write(json.dumps(to_row(ranking), ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: can't be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def read_jsonl(path: Path) -> Iterator[tuple[str, Ranking]]:
    """Yield ``file:line`` and ranking for each line of a file."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            yield place, from_row(json.loads(line.decode("utf-8"), parse_constant=_refuse_nan))
        except UnicodeDecodeError:
            raise DataError(f"{place}: is not UTF-8 text") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{place}: is not JSON ({error})") from None
        except DataError as error:
            raise DataError(f"{place}: {error}") from None


def _refuse_nan(constant: str) -> float:
    raise DataError(f"{constant} is not JSON")


@dataclass
class Importer:
    """Puts rankings made elsewhere into a store, inside one transaction of the caller.

    Their tasks count as done, so nobody is asked again. A ranking without an annotator is
    given an ``unknown`` one of its own per task, one that no earlier import has used; one without
    an id gets it from its content.
    """

    conn: sa.Connection
    now_ms: int
    added: int = 0
    known: int = 0

    def __post_init__(self) -> None:
        self._equal: Counter[tuple[int, str]] = Counter()

    def add(self, place: str, ranking: Ranking) -> None:
        """Append one ranking; ``place`` stands in front of errors."""
        try:
            _check_models(ranking)
            self._add(_merge_equal(ranking))
        except RlhfError as error:
            raise DataError(f"{place}: {error}") from None

    def _add(self, ranking: Ranking) -> None:
        task = self._task(ranking)
        request_id = ranking.id or self._content_id(ranking, task.id)
        # ``order[i]`` is the candidate at place i of the row, as if the row had been shown.
        texts = [candidate["text"] for candidate in task.candidates]
        order = [texts.index(text) for text in ranking.completions]
        submission = Submission(
            request_id=request_id,
            ranks=ranking.ranks,
            action=ranking.action,
            reason=_get(ranking.meta, "reason", str, ""),
            comment=_get(ranking.meta, "comment", str, ""),
            flags=ranking.flags,
            strengths=ranking.strengths or None,
            others_worse=ranking.others_worse,
            active_ms=_get(ranking.meta, "active_ms", int, None),
            simulated=ranking.simulated,
        )
        check_submission(submission, len(texts))
        content = content_of(submission, order)
        stored = find_request(self.conn, request_id)
        if ranking.annotator is not None:
            annotator = self._annotator(ranking.annotator)
        else:
            annotator = self._nobody(task.id) if stored is None else stored.annotator_id
        if stored is not None:
            if (stored.task_id, stored.annotator_id) != (task.id, annotator) or not is_same(
                stored, content
            ):
                raise DataError(f"id {request_id!r} is another ranking's in this store")
            self.known += 1
            return
        assignment = self._assignment(task, annotator, _shown(ranking, order))
        append(
            self.conn,
            assignment,
            {
                **content,
                "request_id": request_id,
                "revision": self._revision(ranking, task.id, annotator),
                "active_ms": submission.active_ms,
                "late": _get(ranking.meta, "late", bool, False),
                "simulated": ranking.simulated,
                "submitted_ms": _submitted_ms(ranking, self.now_ms),
            },
        )
        close(self.conn, assignment, newest_action(self.conn, assignment.id))
        self._close(task.id, _planned(ranking))
        self.added += 1

    def _task(self, ranking: Ranking) -> sa.Row[Any]:
        models = _get(ranking.meta, "models", list, [None] * len(ranking.completions))
        task = NewTask(
            ranking.prompt,
            tuple(map(Candidate, ranking.completions, models)),
            pool=_get(ranking.meta, "pool", str, "normal"),
            meta=_get(ranking.meta, "task_meta", dict, {}),
        )
        task_id, _ = add_task(self.conn, task, self.now_ms)
        return self.conn.execute(sa.select(tasks).where(tasks.c.id == task_id)).one()

    def _nobody(self, task_id: int) -> int:
        """Give the first ``unknown`` annotator who has not ranked a task."""
        ranked = sa.select(assignments.c.annotator_id).where(assignments.c.task_id == task_id)
        taken = set(self.conn.scalars(ranked))
        unknown = (self._annotator(f"unknown-{number}") for number in itertools.count(1))
        return next(annotator for annotator in unknown if annotator not in taken)

    def _content_id(self, ranking: Ranking, task_id: int) -> str:
        """Name a ranking by what it says; equal ones of a task are numbered as they appear."""
        content = json.dumps(to_row(ranking), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:32]
        self._equal[task_id, digest] += 1
        return f"content:{digest}-{self._equal[task_id, digest]}"

    def _annotator(self, pseudonym: str) -> int:
        if not pseudonym.isprintable() or not 1 <= len(pseudonym) <= 64:
            raise DataError(f"annotator {pseudonym[:80]!r} must be 1 to 64 printable letters")
        found = self.conn.scalar(
            sa.select(annotators.c.id).where(annotators.c.pseudonym == pseudonym)
        )
        if found is None:
            new = annotators.insert().values(pseudonym=pseudonym, created_ms=self.now_ms)
            return inserted_id(self.conn, new)
        return int(found)

    def _assignment(
        self, task: sa.Row[Any], annotator: int, shown_order: list[int] | None
    ) -> sa.Row[Any]:
        query = sa.select(assignments).where(
            assignments.c.task_id == task.id, assignments.c.annotator_id == annotator
        )
        found = self.conn.execute(query).first()
        if found is not None:
            return found
        self.conn.execute(
            assignments.insert().values(
                task_id=task.id,
                annotator_id=annotator,
                state="done",
                shown_order=shown_order,
                lease_until_ms=self.now_ms,
                created_ms=self.now_ms,
            )
        )
        return self.conn.execute(query).one()

    def _revision(self, ranking: Ranking, task_id: int, annotator: int) -> int:
        revision = ranking.meta.get("revision")
        if revision is None:
            revision = current_revision(self.conn, task_id, annotator) + 1
        if type(revision) is not int or not 1 <= revision <= _MAX_REVISION:
            raise DataError(
                f"meta 'revision' {revision!r} must be a whole number from 1 to {_MAX_REVISION}"
            )
        taken = find_revision(self.conn, task_id, annotator, revision)
        if taken is not None:
            raise DataError(
                f"meta 'revision' {revision} of this person's ranking is taken by "
                f"{taken.request_id!r}; leave it out to make it the next"
            )
        return revision

    def _close(self, task_id: int, planned: int | None) -> None:
        """Ask nobody else; all who ranked were planned unless a store's export says otherwise."""
        self.conn.execute(
            tasks.update()
            .where(tasks.c.id == task_id, tasks.c.n_done > tasks.c.overlap)
            .values(overlap=tasks.c.n_done, planned=tasks.c.n_done)
        )
        if planned is not None:
            self.conn.execute(tasks.update().where(tasks.c.id == task_id).values(planned=planned))


def _planned(ranking: Ranking) -> int | None:
    planned = ranking.meta.get("planned")
    if planned is not None and (type(planned) is not int or not 1 <= planned < 2**31):
        raise DataError(f"meta 'planned' {planned!r:.40} must be a whole number from 1")
    return planned


def _check_models(ranking: Ranking) -> None:
    models = _get(ranking.meta, "models", list, None)
    if models is None:
        return
    if len(models) != len(ranking.completions):
        raise DataError("meta 'models' must hold one entry per completion")
    for model in models:
        if model is not None and not is_text(model):
            raise DataError(f"meta 'models' must be text or null, not {model!r}")


def _merge_equal(ranking: Ranking) -> Ranking:
    """Drop repeated completions; their ranks must agree."""
    first: dict[str, int] = {}
    for place, text in enumerate(ranking.completions):
        kept = first.setdefault(text, place)
        if ranking.ranks[kept] != ranking.ranks[place]:
            raise DataError(f"completions {kept + 1} and {place + 1} are equal, their ranks not")
    if len(first) == len(ranking.completions):
        return ranking
    if len(first) < 2:
        raise DataError("all completions are the same text; there is nothing to rank")
    kept_places = list(first.values())
    flags = ranking.flags
    meta = {k: v for k, v in ranking.meta.items() if k not in ("models", "shown_order")}
    return Ranking(
        prompt=ranking.prompt,
        completions=tuple(first),
        ranks=dense_ranks([ranking.ranks[place] for place in kept_places]),
        annotator=ranking.annotator,
        id=ranking.id,
        flags=None if flags is None else tuple(flags[place] for place in kept_places),
        strengths=ranking.strengths,
        simulated=ranking.simulated,
        action=ranking.action,
        others_worse=ranking.others_worse,
        meta=meta,
    )


def _shown(ranking: Ranking, order: list[int]) -> list[int] | None:
    shown = _get(ranking.meta, "shown_order", list, None)
    if shown is None:
        return None
    if sorted(shown, key=str) != [*range(len(order))]:
        raise DataError("meta 'shown_order' must be an order of all completions, from 0")
    return [order[place] for place in shown]


def _submitted_ms(ranking: Ranking, now_ms: int) -> int:
    """Read when a ranking was made; a time without an offset is UTC."""
    text = _get(ranking.meta, "submitted_at", str, None)
    if text is None:
        return now_ms
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(f"meta 'submitted_at' {text!r} is not an ISO 8601 time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if not _EARLIEST <= moment <= _LATEST:
        raise DataError(f"meta 'submitted_at' {text!r} must be a time from 1970 to 2100-01-01, UTC")
    return round(moment.timestamp() * 1000)
