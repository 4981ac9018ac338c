"""``rlhf rankings report``: who ranked what, what is open and how far people agree, as text."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from rlhf.config import RankingsReportConfig
from rlhf.data.agreement import Agreement, Figure
from rlhf.rankings.desk import Desk, PositionBias, measure_desk
from rlhf.rankings.raters import Person
from rlhf.store import RankingStore

_DONE = ("annotator", "rankings", "all bad", "cannot judge", "skips", "ties")
_QUALITY = ("annotator", "like others", "95 % interval", "gold", "seconds", "too fast")
_MANY = 1000
_FEW_RESAMPLES = 200


def report(config: RankingsReportConfig) -> str:
    """Give the report of a store as plain text."""
    with RankingStore.open(config.store, create=False) as store:
        resamples = 1000 if store.progress().tasks <= _MANY else _FEW_RESAMPLES
        now_ms = round(time.time() * 1000)
        desk = measure_desk(store, now_ms, resamples=resamples, seed=config.seed)
    parts = (_done(desk), _quality(desk.people), _coverage(desk), _agreement(desk), _places(desk))
    return "\n" + "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _done(desk: Desk) -> list[str]:
    """One row per person; those whom an import could not name share one."""
    rows = [
        (
            _name(person),
            *map(str, (person.rankings, person.all_bad, person.cannot_judge, person.skips)),
            _percent(person.ties_share),
        )
        for person in _sorted(desk.people)
    ]
    if len(rows) > 1:
        totals = [str(sum(int(row[column]) for row in rows)) for column in range(1, 5)]
        rows.append(("all", *totals, _percent(desk.rates.ties)))
    return _table(_DONE, rows)


def _quality(people: Sequence[Person]) -> list[str]:
    """How far others and gold agree with each person, and how fast they are."""
    rows = [
        (
            _name(person),
            _number(person.agreement_with_others.value),
            _interval(person.agreement_with_others),
            f"{person.gold.passed} of {person.gold.seen}" if person.gold.seen else "-",
            "-" if math.isnan(person.median_active_s) else f"{person.median_active_s:.1f}",
            str(person.too_fast),
        )
        for person in _sorted(people)
    ]
    return _table(_QUALITY, rows)


def _coverage(desk: Desk) -> list[str]:
    """How many tasks have been done by how many of the people wanted."""
    rows = [(f"{row.done} of {row.wanted}", str(row.tasks)) for row in desk.coverage]
    return _table(("people", "tasks"), [*rows, ("all", str(desk.tasks))])


def _agreement(desk: Desk) -> list[str]:
    """Agreement over the random pool, which chance chose, and then over everything."""
    by_chance, everything = desk.agreement.random, desk.agreement.all
    if not everything.prompts:
        return ["agreement: no two people have compared the same answers"]
    first = _figures("random pool", by_chance) if by_chance.prompts else []
    return [*first, *([""] if first else []), *_figures("all tasks", everything)]


def _figures(pool: str, agreement: Agreement) -> list[str]:
    figures = {
        "alpha": agreement.alpha,
        "strict pairs": agreement.strict,
        "tau-b": agreement.tau,
    }
    rows = [(name, _number(figure.value), _interval(figure)) for name, figure in figures.items()]
    lines = _table((f"agreement, {pool}", "value", "95 % interval"), rows)
    return [*lines, f"over {agreement.prompts} prompts that several people ranked"]


def _places(desk: Desk) -> list[str]:
    """How often the answer at each place of the screen was the best."""
    rows = [
        (f"of {row.k}", " ".join(map(str, row.counts)), f"{row.chi_square:.2f}", _chance(row))
        for row in desk.position_bias
    ]
    return _table(("best answer by place", "times", "chi-square", "p"), rows) if rows else []


def _sorted(people: Sequence[Person]) -> list[Person]:
    """Give those who did anything, by name."""
    active = [
        person
        for person in people
        if person.rankings + person.all_bad + person.cannot_judge + person.skips + person.gold.seen
    ]
    return sorted(active, key=_name)


def _name(person: Person) -> str:
    return person.pseudonym + (" (program)" if person.simulated else "")


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


def _chance(row: PositionBias) -> str:
    return "too few" if math.isnan(row.p) else f"{row.p:.3f}"


def _interval(figure: Figure) -> str:
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)):
        return "-"
    return f"{figure.low:.3f} to {figure.high:.3f}"
