"""The plots of a reward card, as SVG within its page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.report.plots import (
    INK,
    LEVEL,
    PPO,
    SFT,
    Bar,
    Plot,
    draw_bars,
    drawing,
    finish,
    make_bar,
    new_figure,
    percent_limits,
)
from rlhf.report.reading import Figures, number, part
from rlhf.report.units import PLAIN

GROUPS = {
    "by_candidates": ("candidates", "Candidates"),
    "by_rank_distance": ("rank distance", "Difference of ranks"),
    "by_annotator": ("annotator", "Annotator"),
    "by_pool": ("pool", "Pool"),
    "by_length": ("length difference", "Difference in tokens"),
}
"""Parts of the pairs: what the accuracy is split by, and what the names of a part say."""

_MOST_ANNOTATORS = 12
_TICK_FACTOR = 1.45
"""Labels of the logarithmic axis stand at least this factor apart."""


def card_plots(card: Figures, forecast: str) -> list[Plot]:
    """Every plot that has something to show.

    Args:
        card: What ``reward_card.json`` holds.
        forecast: The sentence under the learning curve.
    """
    with drawing():
        found = [_group_plot(card, key) for key in GROUPS]
        found += [_calibration_plot(card), _learning_plot(card, forecast), _probe_plot(card)]
    return list(filter(None, found))


def group_parts(card: Figures, key: str) -> dict[str, Figures]:
    """The parts of one split in order: by the number in their names, annotators by their pairs."""
    split = part(card, key)
    parts = {str(name): own for name, own in split.items() if isinstance(own, Mapping)}
    if key == "by_annotator":
        names = sorted(parts, key=lambda name: -(number(parts[name].get("count")) or 0))
    else:
        names = sorted(parts, key=_first_number)
    return {name: parts[name] for name in names}


def calibration_points(card: Figures) -> list[list[float]]:
    """Mean probability, mean outcome and count of every bin that has all three."""
    return _whole_rows(part(card, "calibration").get("curve"))


def learning_points(card: Figures) -> list[Mapping[str, Any]]:
    """The points of the learning curve with rankings and accuracy, fewest rankings first."""
    points = part(card, "learning_curve").get("points")
    rows = points if isinstance(points, list | tuple) else ()
    found = [row for row in rows if isinstance(row, Mapping)]
    whole = [
        row
        for row in found
        if (number(row.get("rankings")) or 0) > 0 and number(row.get("accuracy")) is not None
    ]
    return sorted(whole, key=lambda row: row["rankings"])


def _group_plot(card: Figures, key: str) -> Plot | None:
    """Accuracy of every part with its interval; one part alone is no comparison."""
    parts = group_parts(card, key)
    bars = list(filter(None, (_interval_bar(name, own) for name, own in parts.items())))
    if len(bars) < 2:
        return None
    caption = "Bars: 95 % interval; dashed: chance."
    if key == "by_annotator" and len(bars) > _MOST_ANNOTATORS:
        caption += f" The {_MOST_ANNOTATORS} with the most pairs, of {len(bars)}."
        bars = bars[:_MOST_ANNOTATORS]
    if total := _interval_bar("All", part(card, "pair_accuracy"), is_total=True):
        bars.insert(0, total)
    axes = draw_bars(bars, level=50, colour=SFT)
    rule = number(part(card, "best_length_rule").get("value"))
    if rule is not None:
        axes.axvline(100 * rule, color=PPO, linestyle=":", linewidth=1.6, zorder=1)
        caption += f" Dotted: best length rule, {100 * rule:.1f} %."
    axes.set_xlim(*percent_limits(bars, 45, 100 * max(rule or 0, 0.55)))
    axes.set(xlabel="Pair accuracy (%)", ylabel=GROUPS[key][1])
    return finish(f"Accuracy by {GROUPS[key][0]}", caption, axes.figure)


def _calibration_plot(card: Figures) -> Plot | None:
    """How often the favourite was right, against how sure the scores were of it."""
    points = calibration_points(card)
    if not points:
        return None
    sure, right, counts = ([row[i] for row in points] for i in range(3))
    figure = new_figure()
    axes = figure.subplots()
    low = 0.0 if min(*sure, *right) < 0.5 else 50.0
    axes.plot([low, 100], [low, 100], **LEVEL)
    axes.plot([100 * x for x in sure], [100 * y for y in right], color=SFT, linewidth=0.8)
    largest = max(*counts, 1.0)
    for x, y, count in points:
        size = 11 * (max(count, 0.0) / largest) ** 0.5
        axes.plot([100 * x], [100 * y], "o", color=SFT, markersize=max(size, 2))
    axes.set_xlim(low - 2, 102)
    axes.set_ylim(low - 2, 102)
    axes.set(xlabel="Probability by the scores (%)", ylabel="Ranked so (%)")
    caption = "Area of a point: its pairs; dashed: exact probabilities. Below: too sure."
    return finish("Calibration", caption, figure)


def _learning_plot(card: Figures, forecast: str) -> Plot | None:
    """Held-out accuracy against the number of rankings that were learned from."""
    points = learning_points(card)
    if not points:
        return None
    bars = [
        bar
        for row in points
        if (bar := make_bar("", row.get("accuracy"), row.get("low"), row.get("high")))
    ]
    rankings = [float(row["rankings"]) for row in points]
    figure = new_figure()
    axes = figure.subplots()
    for x, bar in zip(rankings, bars, strict=True):
        axes.plot([x, x], [bar.low, bar.high], color=SFT, linewidth=2.5)
    axes.plot(rankings, [bar.value for bar in bars], "-o", color=SFT, linewidth=1, markersize=7)
    axes.set_xscale("log", base=2)
    axes.set_xticks(*_log_ticks(rankings))
    axes.set_xticks([], minor=True)
    axes.set_xlim(rankings[0] / 1.25, rankings[-1] * 1.25)
    axes.set(xlabel="Rankings learned from", ylabel="Pair accuracy (%)")
    caption = f"Held-out pairs; bars: 95 % interval. {forecast}".strip()
    return finish("Learning curve", caption, figure)


def _log_ticks(values: Sequence[float]) -> tuple[list[float], list[str]]:
    """Places and labels of ticks at sorted values, those left out that stand too close."""
    kept: list[float] = []
    for value in reversed(values):
        if not kept or value * _TICK_FACTOR <= kept[-1]:
            kept.append(value)
    return kept, [f"{value:,.0f}" for value in kept]


def _probe_plot(card: Figures) -> Plot | None:
    """By how much the reference answer is scored above each probe."""
    probes = part(card, "probes")
    margins = {str(name): part(probes, name, "margin") for name in probes}
    found = (_interval_bar(name, own, factor=1.0) for name, own in margins.items())
    bars = list(filter(None, found))
    if not bars:
        return None
    axes = draw_bars(bars, level=0, colour=SFT)
    low, high = min(0.0, *(bar.low for bar in bars)), max(0.0, *(bar.high for bar in bars))
    room = 0.06 * (high - low) or 0.1
    axes.set_xlim(low - room, high + room)
    axes.axvspan(low - room, 0, color=INK, alpha=0.08, linewidth=0)
    axes.set_xlabel("Reference score − probe score")
    caption = "Right of 0 is right, the shaded side is wrong; bars: 95 % interval."
    if reference := PLAIN.show(part(probes, "reference").get("mean")):
        caption += f" Mean score of the reference: {reference}."
    return finish("Probes", caption, axes.figure)


def _interval_bar(
    name: str, own: Figures, *, factor: float = 100.0, is_total: bool = False
) -> Bar | None:
    ends = own.get("low"), own.get("high")
    return make_bar(name, own.get("value"), *ends, factor=factor, is_total=is_total)


def _first_number(name: str) -> int:
    """The number that a name starts from; names without one come first."""
    found = re.search(r"[0-9]{1,9}", name)
    return int(found[0]) if found else -1


def _whole_rows(rows: object) -> list[list[float]]:
    """The rows of three finite numbers."""
    own = rows if isinstance(rows, list | tuple) else ()
    found = [[number(x) for x in row] for row in own if isinstance(row, list | tuple)]
    whole = [[x for x in row if x is not None] for row in found if len(row) == 3]
    return [row for row in whole if len(row) == 3]
