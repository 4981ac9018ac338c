"""``rlhf rankings import``: rankings of this and other tools into a ranking store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlhf.config import RankingsImportConfig
from rlhf.data.readers import read_rankings
from rlhf.errors import DataError, RlhfError
from rlhf.rankings.formats import READERS, LeftOut, detect, read_items
from rlhf.records import Candidate, Ranking
from rlhf.store import ImportedRankings, NewTask, RankingStore
from rlhf.store.checks import annotator_key, check_task, merge_candidates, task_sha256
from rlhf.store.places import find_place

Figures = dict[str, float | str]


def import_rankings(config: RankingsImportConfig) -> Figures:
    """Read a file into a store, all of it or nothing; what the store holds already is left alone.

    Rows that their format allows and nobody can rank are left out and counted.

    Raises:
        DataError: With ``file:line`` of the first row that can't be used.
    """
    path = Path(config.input)
    kind = _kind_of(path) if config.format == "auto" else config.format
    left_out: Counter[str] = Counter()
    read = [] if kind == "rlhf" else list(_read(path, kind, left_out))
    rankings = list(_different(read))
    if kind != "rlhf" and not read:
        raise DataError(f"{path}: holds no rankings")
    left_out["equal answers"] = len(read) - len(rankings)
    result = _store(config.store, path, None if kind == "rlhf" else rankings)
    figures: Figures = {"format": kind, "added": result.added, "known already": result.known}
    figures |= {f"left out ({why})": number for why, number in left_out.items() if number}
    return figures | {"store": config.store}


def _kind_of(path: Path) -> str:
    row = next(iter(read_items(path)), None)
    if row is None:
        raise DataError(f"{path}: has no rows")
    kind = detect(row.fields)
    if kind is None:
        raise DataError(
            f"{row.place}: rows with {', '.join(map(repr, list(row.fields)[:6]))} are of no known "
            f"format; give --format rlhf, {', '.join(READERS)}"
        )
    return kind


def _read(path: Path, kind: str, left_out: Counter[str]) -> Iterator[Ranking]:
    """Yield rankings, each one such that the store will take it; count the rows left out."""
    for row in read_items(path):
        try:
            for ranking in READERS[kind](row.fields):
                _check(ranking)
                meta = {"task_meta": {"source": kind}}
                yield dataclasses.replace(ranking, meta=meta)
        except LeftOut as row_left_out:
            left_out[str(row_left_out)] += 1
        except RlhfError as error:
            raise DataError(f"{row.place}: {error}") from None
        except RecursionError:
            raise DataError(f"{row.place}: a tree nested too deeply; split it") from None


def _check(ranking: Ranking) -> None:
    if ranking.annotator is not None:
        annotator_key(ranking.annotator)
    candidates = merge_candidates([Candidate(text) for text in ranking.completions])
    if len(candidates) > 1:
        check_task(NewTask(ranking.prompt, candidates), candidates)


def _different(rankings: Iterable[Ranking]) -> Iterator[Ranking]:
    """Leave out rankings that put a text above the same text."""
    for ranking in rankings:
        texts = ranking.completions
        clash = any(texts[better] == texts[worse] for better, worse in ranking.strict_pairs())
        if not clash and len(set(texts)) > 1:
            yield ranking


def _store(store: str, path: Path, rankings: list[Ranking] | None) -> ImportedRankings:
    """Put rankings, or those of our own file, into a store; a new store is made whole or not."""
    file = find_place(store)
    new = isinstance(file, Path) and not file.exists()
    try:
        with RankingStore.open(store) as opened:
            if rankings is not None:
                return opened.import_rankings(list(_named(rankings, opened.rankings())))
            if path.suffix in (".jsonl", ".json"):
                return opened.import_jsonl(path)
            return opened.import_rankings(read_rankings(path))
    except BaseException:
        if new:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{file}{suffix}").unlink(missing_ok=True)
        raise


def _named(rankings: Iterable[Ranking], stored: Iterable[Ranking]) -> Iterator[Ranking]:
    """Give each ranking an id from its content, and a nameless one a person of its own per task.

    The same content twice is one ranking of a person who is named, and two of people who are not.
    """
    people: dict[str, dict[str, str]] = defaultdict(dict)
    for ranking in stored:
        people[ranking.meta["task"]][str(ranking.annotator)] = str(ranking.id)
    seen: Counter[str] = Counter()
    for ranking in rankings:
        digest = _digest(ranking, 0)
        if ranking.annotator is None:
            seen[digest] += 1
            digest = _digest(ranking, seen[digest] - 1)
        there = people[task_sha256(ranking.prompt, sorted(set(ranking.completions)))]
        name = ranking.annotator or _person(there, digest)
        there[name] = digest
        yield dataclasses.replace(ranking, id=digest, annotator=name)


def _person(there: dict[str, str], digest: str) -> str:
    """Name whoever gave a nameless ranking: as in the store, or as nobody else of the task."""
    for name, known in there.items():
        if known == digest:
            return name
    number = 1
    while f"unknown-{number}" in there:
        number += 1
    return f"unknown-{number}"


def _digest(ranking: Ranking, earlier: int) -> str:
    """Hash what a ranking says; ``earlier`` counts the same ones of nameless people before it."""
    answers = sorted(zip(ranking.completions, ranking.ranks, strict=True), key=repr)
    content = [ranking.prompt.sha256, answers, ranking.action, ranking.annotator, earlier]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
