"""``rlhf rankings report``: who ranked what, what is open and how far people agree, as text."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

from rlhf.config import RankingsReportConfig
from rlhf.data.agreement import Agreement, Figure, measure_agreement
from rlhf.records import Ranking
from rlhf.store import RankingStore, Task

_HEADER = ("annotator", "rankings", "all bad", "cannot judge", "skips", "ties")
_UNKNOWN = re.compile(r"unknown-\d+")
_MANY = 1000
_FEW_RESAMPLES = 200


def report(config: RankingsReportConfig) -> str:
    """Give the report of a store as plain text."""
    with RankingStore.open(config.store, create=False) as store:
        tasks, rankings = list(store.tasks()), list(store.rankings())
    prompts = len({task.prompt for task in tasks})
    resamples = 1000 if prompts <= _MANY else _FEW_RESAMPLES
    agreement = measure_agreement(rankings, resamples=resamples, seed=config.seed)
    parts = (_annotators(rankings), _coverage(tasks), _agreement(agreement))
    return "\n" + "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def tied_share(rankings: Iterable[Ranking]) -> float:
    """Share of compared pairs that were called equally good; NaN where none was compared."""
    ties = pairs = 0
    for ranking in rankings:
        ranked = [rank for rank in ranking.ranks if rank is not None]
        strict = sum(1 for _ in ranking.strict_pairs())
        tied = sum(one == other for one, other in combinations(ranked, 2))
        ties, pairs = ties + tied, pairs + tied + strict
    return ties / pairs if pairs else math.nan


def _annotators(rankings: Iterable[Ranking]) -> list[str]:
    """One row per person; those whom an import could not name share one."""
    people: dict[str, list[Ranking]] = defaultdict(list)
    for ranking in rankings:
        name = str(ranking.annotator)
        shown = "unknown" if _UNKNOWN.fullmatch(name) else name
        people[shown + (" (program)" if ranking.simulated else "")].append(ranking)
    rows = [_counts(name, theirs) for name, theirs in sorted(people.items())]
    if len(rows) > 1:
        rows.append(_counts("all", [ranking for theirs in people.values() for ranking in theirs]))
    return _table(_HEADER, rows)


def _counts(name: str, rankings: Sequence[Ranking]) -> tuple[str, ...]:
    actions = Counter(ranking.action for ranking in rankings)
    ties = tied_share(ranking for ranking in rankings if ranking.action == "rank")
    counts = (actions[action] for action in ("rank", "all_bad", "cannot_judge", "skip"))
    return (name, *map(str, counts), _percent(ties))


def _coverage(tasks: Sequence[Task]) -> list[str]:
    """How many tasks have been done by how many of the people wanted."""
    counts = Counter((task.overlap, task.done) for task in tasks)
    rows = [(f"{done} of {wanted}", str(n)) for (wanted, done), n in sorted(counts.items())]
    return _table(("people", "tasks"), [*rows, ("all", str(len(tasks)))])


def _agreement(agreement: Agreement) -> list[str]:
    if not agreement.prompts:
        return ["agreement: no two people have compared the same answers"]
    figures = {
        "alpha": agreement.alpha,
        "strict pairs": agreement.strict,
        "tau-b": agreement.tau,
    }
    rows = [(name, _number(figure.value), _interval(figure)) for name, figure in figures.items()]
    lines = _table(("agreement", "value", "95 % interval"), rows)
    return [*lines, f"over {agreement.prompts} prompts that several people ranked"]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        first, *rest = row
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _interval(figure: Figure) -> str:
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)):
        return "-"
    return f"{figure.low:.3f} to {figure.high:.3f}"
