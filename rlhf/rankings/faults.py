"""What can be wrong with a store, on whichever database it lies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.errors import DataError
from rlhf.records import Prompt, Ranking
from rlhf.store.checks import task_sha256
from rlhf.store.hashes import CHAINED, chain_link

Figures = dict[str, float | str]
Query = Callable[[str], Iterable[Any]]
"""Runs an SQL statement that both databases know and gives its rows as tuples."""

_COUNTED = ("tasks", "rankings", "annotators")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a store."""

    figures: Figures
    faults: tuple[str, ...]
    """One line per fault; empty for a store that is whole."""


def count(query: Query, *, chained: bool = True) -> Figures:
    """Count what a store holds; name the end of its chain, by which a copy can be told later."""
    figures: Figures = {
        name: next(iter(query(f"SELECT count(*) FROM {name}")))[0] for name in _COUNTED
    }
    if chained:
        for (chain,) in query("SELECT chain FROM rankings ORDER BY id DESC LIMIT 1"):
            figures["chain"] = chain
    return figures


def find_schema_faults(found: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[str]:
    """Compare the definitions of a store, by name, with those of a new one."""
    for name, definition in wanted.items():
        if name not in found:
            yield f"{name} is missing; restore a backup"
        elif found[name] != definition:
            yield f"{name} is not that of this version; upgrade an older store, or restore a backup"


def find_content_faults(query: Query) -> Iterator[str]:
    """Read every task and every ranking, corrected ones included."""
    yield from _find_task_faults(query)
    for number, prompt, candidates, ranks, flags, strengths in query(
        "SELECT r.id, CAST(prompt AS TEXT), CAST(candidates AS TEXT), CAST(ranks AS TEXT), "
        "CAST(flags AS TEXT), CAST(strengths AS TEXT) FROM rankings AS r "
        "JOIN tasks AS t ON t.id = r.task_id ORDER BY r.id"
    ):
        fault = _ranking_fault(prompt, candidates, ranks, (flags, strengths))
        if fault:
            yield f"ranking {number}: {fault}"
    yield from _find_broken_link(query)


def _find_task_faults(query: Query) -> Iterator[str]:
    for number, sha256, prompt, candidates, done, counted in query(
        "SELECT t.id, sha256, CAST(prompt AS TEXT), CAST(candidates AS TEXT), n_done, "
        "(SELECT count(*) FROM assignments AS a WHERE a.task_id = t.id AND a.state = 'done') "
        "FROM tasks AS t ORDER BY t.id"
    ):
        if _task_hash(prompt, candidates) != sha256:
            yield f"task {number}: its texts are not those of its sha256"
        if done != counted:
            yield f"task {number}: counts {done} people, {counted} have ranked it"


def _find_broken_link(query: Query) -> Iterator[str]:
    """Follow the chain of rankings to the first one that is not as it was stored."""
    previous = ""
    for number, chain, *values in query(
        f"SELECT id, chain, {', '.join(map(_as_text, CHAINED))} FROM rankings ORDER BY id"
    ):
        if chain is None or chain != _link(previous, dict(zip(CHAINED, values, strict=True))):
            yield f"ranking {number}: it was changed, or one before it was removed or changed"
            return
        previous = chain


def _as_text(column: str) -> str:
    return f"CAST({column} AS TEXT)" if column in ("ranks", "flags", "strengths") else column


def _link(previous: str, row: Mapping[str, Any]) -> str | None:
    try:
        return chain_link(previous, row)
    except (TypeError, ValueError):
        return None


def _task_hash(prompt: str, candidates: str) -> str | None:
    try:
        return task_sha256(Prompt.parse(json.loads(prompt)), _texts(candidates))
    except (DataError, KeyError, TypeError, ValueError):
        return None


def _ranking_fault(
    prompt: str, candidates: str, ranks: str, optional: tuple[str | None, ...]
) -> str | None:
    try:
        Ranking(Prompt.parse(json.loads(prompt)), _texts(candidates), tuple(json.loads(ranks)))
        for value in optional:
            if value is not None and not isinstance(json.loads(value), list):
                return "flags or strengths are no list"
    except (DataError, KeyError, TypeError, ValueError) as error:
        return f"does not parse ({error})"
    return None


def _texts(candidates: str) -> tuple[str, ...]:
    return tuple(candidate["text"] for candidate in json.loads(candidates))
