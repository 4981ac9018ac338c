"""Rankings from wherever they are: the ranking store or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf.data.readers import read_rankings
from rlhf.records import Prompt, Ranking

_SQLITE_MAGIC = b"SQLite format 3\0"
_STORE_SUFFIXES = (".sqlite", ".sqlite3", ".db")


def is_store(source: str) -> bool:
    """Tell whether ``source`` names a ranking store: a URL or an SQLite file."""
    if "://" in source or Path(source).suffix in _STORE_SUFFIXES:
        return True
    try:
        with Path(source).open("rb") as file:
            return file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    except OSError:
        return False


def load_rankings(source: str) -> list[Ranking]:
    """Read all rankings of a store (path or URL) or of a file that ``read_rankings`` knows.

    Raises:
        StoreError: If the store is missing or can't be read.
        DataError: At the first row of a file that is not a ranking.
    """
    if not is_store(source):
        return read_rankings(source)
    from rlhf.store import RankingStore

    with RankingStore.open(source, create=False) as store:
        return list(store.rankings())


def load_tasks(source: str, rankings: Sequence[Ranking]) -> list[tuple[Prompt, tuple[str, ...]]]:
    """Every prompt with its completions: a store's tasks, ranked or not, or those of rankings.

    Args:
        source: Where the rankings came from.
        rankings: What ``load_rankings`` gave.
    """
    if not is_store(source):
        return list(dict.fromkeys((ranking.prompt, ranking.completions) for ranking in rankings))
    from rlhf.store import RankingStore

    with RankingStore.open(source, create=False) as store:
        return [
            (task.prompt, tuple(candidate.text for candidate in task.candidates))
            for task in store.tasks()
        ]
