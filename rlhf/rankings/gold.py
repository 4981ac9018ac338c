"""``rlhf rankings gold``: tasks with a known answer, to train people by or to measure them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlhf.config import RankingsGoldConfig
from rlhf.errors import DataError
from rlhf.records import Candidate, Ranking
from rlhf.store import Gold, NewTask, RankingStore
from rlhf.store.checks import check_task, merge_candidates
from rlhf.store.exchange import read_jsonl

Figures = dict[str, float | str]


def add_gold(config: RankingsGoldConfig) -> Figures:
    """Read rankings whose order is the right one into a store as tasks, all of them or none.

    Who made them does not count. ``meta.explanation`` is shown after a training task. A task that
    is there already, in the same pool, gets the new answer.

    Raises:
        DataError: With ``file:line`` of the first row that can't be used.
    """
    path = Path(config.data)
    placed = [*_read(path, config.pool)]
    if not placed:
        raise DataError(f"{path}: has no rows")
    reached = ""

    def hand_over() -> Iterator[NewTask]:
        nonlocal reached
        for reached, task in placed:  # noqa: B007 - the place where an error happened
            yield task

    with RankingStore.open(config.store) as store:
        try:
            result = store.add_tasks(hand_over())
        except DataError as error:
            raise DataError(f"{reached}: {str(error).partition(': ')[2]}") from None
    return {
        "pool": config.pool,
        "added": result.added,
        "known already": result.known,
        "store": config.store,
    }


def _read(path: Path, pool: str) -> Iterator[tuple[str, NewTask]]:
    """Yield tasks with their places, each one such that the store will take it."""
    for place, ranking in read_jsonl(path):
        try:
            yield place, _task(ranking, pool)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None


def _task(ranking: Ranking, pool: str) -> NewTask:
    explanation = ranking.meta.get("explanation", "")
    if not isinstance(explanation, str):
        raise DataError("meta 'explanation' must be text")
    if ranking.action != "rank":
        raise DataError(f"action {ranking.action!r} gives no order; a known answer needs one")
    task = NewTask(
        prompt=ranking.prompt,
        candidates=tuple(map(Candidate, ranking.completions)),
        pool=pool,
        gold=Gold(ranking.effective_ranks, explanation),
    )
    check_task(task, merge_candidates(task.candidates))
    return task
