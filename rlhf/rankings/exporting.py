"""``rlhf rankings export``: the rankings of a store as a file whose bytes depend on them alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rlhf.config import RankingsExportConfig
from rlhf.data.splits import split_by_prompt
from rlhf.errors import DataError, StoreError
from rlhf.records import Prompt, Ranking
from rlhf.store import RankingStore
from rlhf.store.engine import sqlite_path
from rlhf.store.exchange import to_row

Figures = dict[str, float | str]
_LISTED = 5


def export_rankings(config: RankingsExportConfig) -> Figures:
    """Write the current rankings of a store, or their pairs; give the number of rows and a hash.

    Rows are ordered by prompt, task, annotator and id. The split is that of ``split_by_prompt``
    over all rankings of the store, whoever made them.

    Raises:
        StoreError: If there is nothing to export.
    """
    output = Path(config.output)
    if output.is_dir():
        raise DataError(f"--output: {output} is a folder; give a file")
    if _is_same_file(output, sqlite_path(config.store)):
        raise StoreError(f"--output: {output} is the store itself; give another file")
    rankings = _selected(config)
    simulated = sum(ranking.simulated for ranking in rankings)
    if config.aggregate == "majority":
        rankings = list(majority_pairs(rankings))
    rows = trl_rows(rankings) if config.format == "trl" else map(to_row, rankings)
    count, digest = _write(output, rows)
    figures: Figures = {"rows": count, "sha256": digest}
    if simulated:
        figures["rankings made by programs"] = simulated
    return figures | {"file": str(output)}


def majority_pairs(rankings: Iterable[Ranking]) -> Iterator[Ranking]:
    """Yield, per task, the pairs that more people ordered one way than the other.

    Each is a ranking of two without an annotator; ``meta["votes"]`` counts both sides. A task is a
    prompt with its completions in whatever order; people who did not order a pair have no vote.
    """
    votes: dict[tuple[Prompt, str], Counter[tuple[str, str]]] = defaultdict(Counter)
    for ranking in rankings:
        if ranking.action == "rank":
            task = (ranking.prompt, str(ranking.meta.get("task", sorted(ranking.completions))))
            texts = ranking.completions
            votes[task].update((texts[i], texts[j]) for i, j in ranking.strict_pairs())
    for (prompt, name), counts in votes.items():
        for (better, worse), count in sorted(counts.items()):
            against = counts[worse, better]
            if count > against:
                meta = {"task": name, "votes": [count, against]}
                yield Ranking(prompt, (better, worse), (1, 2), meta=meta)


def trl_rows(rankings: Iterable[Ranking]) -> Iterator[dict[str, Any]]:
    """Yield a preference row of TRL, as messages, for each strict pair."""
    for ranking in rankings:
        if ranking.action != "rank":
            continue
        turns = [{"role": turn.role, "content": turn.content} for turn in ranking.prompt.messages]
        for better, worse in ranking.strict_pairs():
            yield {
                "prompt": turns,
                "chosen": [{"role": "assistant", "content": ranking.completions[better]}],
                "rejected": [{"role": "assistant", "content": ranking.completions[worse]}],
            }


def _selected(config: RankingsExportConfig) -> list[Ranking]:
    """Read the rankings of the split and the annotator asked for, in order."""
    with RankingStore.open(config.store, create=False) as store:
        rankings = sorted(store.rankings(), key=_place)
        wanted = config.annotator and _pseudonym(config.annotator, rankings, store)
    if config.split != "all":
        train, held_out = split_by_prompt(rankings, config.eval_fraction)
        rankings = train if config.split == "train" else held_out
    return [ranking for ranking in rankings if wanted in (None, ranking.annotator)]


def _pseudonym(annotator: str, rankings: Iterable[Ranking], store: RankingStore) -> str:
    """Find the pseudonym that is meant by a pseudonym or a person's name."""
    known = sorted({str(ranking.annotator) for ranking in rankings})
    for name in (annotator, store.pseudonym(annotator)):
        if name in known:
            return str(name)
    listed = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    raise StoreError(f"--annotator: {annotator!r} has ranked nothing; known: {listed or 'nobody'}")


def _place(ranking: Ranking) -> tuple[str, ...]:
    task, person = str(ranking.meta.get("task")), str(ranking.annotator)
    return ranking.prompt.sha256, task, person, str(ranking.id)


def _is_same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> tuple[int, str]:
    """Write rows as JSONL, whole or not at all; give their number and the sha256 of the file."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    if not lines:
        raise StoreError("nothing to export: no ranking of the store is asked for; ask for more")
    content = "".join(lines).encode("utf-8")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path}: can't be written ({error.strerror})") from error
    return len(lines), hashlib.sha256(content).hexdigest()
