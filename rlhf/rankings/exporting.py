"""``rlhf rankings export``: the rankings of a store as a file whose bytes depend on them alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.config import RankingsExportConfig
from rlhf.data.splits import split_by_prompt
from rlhf.errors import DataError, StoreError
from rlhf.records import Prompt, Ranking
from rlhf.store import RankingStore, Verdict
from rlhf.store.contracts import UNCOUNTED
from rlhf.store.exchange import to_row
from rlhf.store.places import find_place

Figures = dict[str, float | str]
Texts = tuple[str, str]
_LISTED = 5


class NothingToExport(StoreError):  # noqa: N818 - what was asked for is right, and empty
    """No ranking of the store is asked for."""


@dataclass(frozen=True, slots=True)
class Export:
    """The bytes of an export and what is in them."""

    content: bytes
    """JSONL, UTF-8."""
    rows: int
    sha256: str
    pairs: int
    """Pairs that people ordered, in the rankings that it was made from."""
    ties: int
    """Pairs that people gave the same rank."""
    simulated: int
    """How many of its rankings programs made."""


def export_rankings(config: RankingsExportConfig) -> Figures:
    """Write the current rankings of a store, or their pairs; give the number of rows and a hash.

    Rows are ordered by prompt, task, annotator and id. The split is that of ``split_by_prompt``
    over all rankings of the store, whoever made them.

    Raises:
        NothingToExport: If nothing is asked for.
        StoreError: If the store can't be read, or is the output.
        DataError: If the output can't be written.
    """
    output = Path(config.output)
    if output.is_dir():
        raise DataError(f"--output: {output} is a folder; give a file")
    if _is_same_file(output, find_place(config.store)):
        raise StoreError(f"--output: {output} is the store itself; give another file")
    with RankingStore.open(config.store, create=False) as store:
        export = read_export(store, config)
    _write(output, export.content)
    figures: Figures = {"rows": export.rows, "sha256": export.sha256}
    if export.simulated:
        figures["rankings made by programs"] = export.simulated
    return figures | {"file": str(output)}


def read_export(store: RankingStore, config: RankingsExportConfig) -> Export:
    """Give what ``export_rankings`` would write; the store that the config names does not count.

    Raises:
        NothingToExport: If nothing is asked for.
        StoreError: If the annotator asked for is not known.
    """
    chosen = _selected(store, config)
    lines = [
        json.dumps(row, ensure_ascii=False) + "\n"
        for row in _rows(config, _aggregated(store, config, chosen))
    ]
    if not lines:
        raise NothingToExport(
            "nothing to export: no ranking of the store is asked for; ask for more"
        )
    content = "".join(lines).encode("utf-8")
    ordered = [ranking for ranking in chosen if ranking.action == "rank"]
    return Export(
        content=content,
        rows=len(lines),
        sha256=hashlib.sha256(content).hexdigest(),
        pairs=sum(1 for ranking in ordered for _ in ranking.strict_pairs()),
        ties=sum(map(_tied_pairs, ordered)),
        simulated=sum(ranking.simulated for ranking in chosen),
    )


def majority_pairs(
    rankings: Iterable[Ranking], verdicts: Iterable[Verdict] = ()
) -> Iterator[Ranking]:
    """Yield, per task, the pairs that more people ordered one way than the other.

    Each is a ranking of two without an annotator; ``meta["votes"]`` counts both sides. A task is a
    prompt with its completions in whatever order; people who did not order a pair have no vote.
    Where a reviewer decided a task, that order's pairs are given instead, whatever people voted,
    and ``meta["verdict"]`` says ``accept`` or ``override``.
    """
    decided = {verdict.task_sha256: verdict for verdict in verdicts}
    votes: dict[tuple[Prompt, str], Counter[Texts]] = defaultdict(Counter)
    for ranking in rankings:
        task = (ranking.prompt, str(ranking.meta.get("task", sorted(ranking.completions))))
        if ranking.action == "rank":
            votes[task].update(_texts(ranking))
        elif task[1] in decided:
            votes[task].update(())
    for (prompt, name), counts in votes.items():
        verdict = decided.get(name)
        for better, worse in sorted(_majority(counts) if verdict is None else _decided(verdict)):
            meta: dict[str, Any] = {"task": name}
            meta["votes"] = [counts[better, worse], counts[worse, better]]
            if verdict is not None:
                meta["verdict"] = verdict.verdict
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


def _selected(store: RankingStore, config: RankingsExportConfig) -> list[Ranking]:
    """Read the rankings of the pool, the split and the annotator asked for, in order."""
    uncounted = config.pool if config.pool in UNCOUNTED else None
    rankings = sorted(store.rankings(pool=uncounted), key=_place)
    wanted = config.annotator and _pseudonym(config.annotator, rankings, store)
    if config.split != "all":
        train, held_out = split_by_prompt(rankings, config.eval_fraction)
        rankings = train if config.split == "train" else held_out
    return [
        ranking
        for ranking in rankings
        if wanted in (None, ranking.annotator) and config.pool in (None, ranking.meta["pool"])
    ]


def _aggregated(
    store: RankingStore, config: RankingsExportConfig, rankings: list[Ranking]
) -> Iterable[Ranking]:
    """Give rankings, or the pairs of their majority; one person's have no need of a reviewer."""
    if config.aggregate == "none":
        return rankings
    return majority_pairs(rankings, () if config.annotator else store.reviews.verdicts())


def _rows(config: RankingsExportConfig, rankings: Iterable[Ranking]) -> Iterator[dict[str, Any]]:
    return trl_rows(rankings) if config.format == "trl" else map(to_row, rankings)


def _texts(ranking: Ranking) -> Iterator[Texts]:
    texts = ranking.completions
    return ((texts[better], texts[worse]) for better, worse in ranking.strict_pairs())


def _majority(counts: Mapping[Texts, int]) -> Iterator[Texts]:
    for (better, worse), count in counts.items():
        if count > counts.get((worse, better), 0):
            yield better, worse


def _decided(verdict: Verdict) -> Iterator[Texts]:
    """Give the pairs of a reviewer's order."""
    return _texts(Ranking(verdict.prompt, verdict.completions, verdict.ranks))


def _pseudonym(annotator: str, rankings: Iterable[Ranking], store: RankingStore) -> str:
    """Find the pseudonym that is meant by a pseudonym or a person's name."""
    known = sorted({str(ranking.annotator) for ranking in rankings})
    for name in (annotator, store.pseudonym(annotator)):
        if name in known:
            return str(name)
    listed = ", ".join(known[:_LISTED]) + (", ..." if len(known) > _LISTED else "")
    raise StoreError(f"--annotator: {annotator!r} has ranked nothing; known: {listed or 'nobody'}")


def _tied_pairs(ranking: Ranking) -> int:
    counts = Counter(rank for rank in ranking.ranks if rank is not None)
    return sum(count * (count - 1) // 2 for count in counts.values())


def _place(ranking: Ranking) -> tuple[str, ...]:
    task, person = str(ranking.meta.get("task")), str(ranking.annotator)
    return ranking.prompt.sha256, task, person, str(ranking.id)


def _is_same_file(one: Path, other: object) -> bool:
    return isinstance(other, Path) and one.exists() and other.exists() and one.samefile(other)


def _write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
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
