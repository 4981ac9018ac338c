"""The plots of the report, as SVG within the page, and what other pages draw theirs with."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlhf.report.reading import Figures, number, part

Curve = Sequence[Mapping[str, Any]]

INK, RULE, SFT, PPO = "#010203", "#010204", "#010205", "#010206"
_CSS_COLOURS = {INK: "plot-ink", RULE: "line", SFT: "sft", PPO: "ppo"}
"""Drawn colours stand for the page's own, so that plots follow light and dark."""

_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "rlhf",  # equal plots give equal bytes
    "text.parse_math": False,  # a $ in a task name is a $
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    **dict.fromkeys(("axes.edgecolor", "grid.color"), RULE),
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("font.size", "axes.labelsize"), 12),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 11),
}
LEVEL = {"color": INK, "linewidth": 1, "linestyle": (0, (4, 3))}
"""A line to compare with."""
_SMOOTHED = 20
"""Curves of this many points get a running mean."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture with its words."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Panel:
    """How one metric is drawn over the steps."""

    key: str
    label: str
    colour: str = PPO
    level: tuple[str, float | None] = ("", None)
    """Name and value of a line to compare with."""
    level_side: str = "left"
    factor: float = 1.0
    held_out: str = ""
    """The key of the same metric on held-out data."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and the ends of its interval, as drawn."""

    name: str
    value: float
    low: float
    high: float
    is_total: bool = False


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the style of the page."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The browser draws the text, so matplotlib's own font need not have every letter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        yield


def plots(figures: Figures, curves: Mapping[str, Curve]) -> list[Plot]:
    """Every plot that has something to show."""
    ppo, reward, sft = (curves.get(stage) or () for stage in ("ppo", "reward", "sft"))
    own = part(figures, "ppo")
    held_out = part(figures, "reward_model").get("pair_accuracy_rankings")
    with drawing():
        found = (
            _win_plot(own),
            _ppo_plot(ppo, number(own.get("kl_budget"))),
            _frontier_plot(ppo),
            _text_plot(ppo),
            _reward_plot(reward, number(held_out)),
            _sft_plot(sft),
        )
    return list(filter(None, found))


def _ppo_plot(rows: Curve, budget: float | None) -> Plot | None:
    panels = (
        Panel("score/mean", "Score"),
        Panel("kl/reference", "KL (nats)", level=("budget", budget)),
    )
    caption = "Means of each update's samples; KL per completion."
    return _stacked("PPO: score and KL", caption, rows, panels, "PPO update")


def _text_plot(rows: Curve) -> Plot | None:
    panels = Panel("completion/length", "Tokens"), Panel("policy/entropy", "Nats per token")
    caption = "Above: completion length. Below: entropy of the policy, from its sampled tokens."
    return _stacked("PPO: length and entropy", caption, rows, panels, "PPO update")


def _reward_plot(rows: Curve, held_out: float | None) -> Plot | None:
    loss, accuracy = "loss/train", "reward/pair_accuracy_train"
    level = ("held-out rankings", held_out)
    panels = (
        Panel(loss, "Loss (nats)", SFT, level=("chance", math.log(2)), level_side="right"),
        Panel(accuracy, "Accuracy (%)", SFT, level=level, factor=100.0),
    )
    caption = "Each batch before learning from it."
    return _stacked("Reward model: training", caption, rows, panels)


def _sft_plot(rows: Curve) -> Plot | None:
    panel = Panel("loss/train", "Loss (nats per token)", SFT, held_out="loss/held_out")
    return _stacked("SFT: loss", "Loss on the tokens of the answers.", rows, [panel])


def _frontier_plot(rows: Curve) -> Plot | None:
    """Score against the square root of the KL, update by update."""
    kl, y = _series(rows, "kl/reference", "score/mean")
    if len(kl) < 2:
        return None
    x = [math.sqrt(max(value, 0.0)) for value in kl]
    figure = new_figure()
    axes = figure.subplots()
    axes.plot(x, y, color=PPO, linewidth=0.8, alpha=0.45)
    axes.plot(x[1:-1], y[1:-1], "o", color=PPO, markersize=3.5)
    axes.plot(x[:1], y[:1], "s", color=SFT, markersize=8, label="first update")
    axes.plot(x[-1:], y[-1:], "D", color=PPO, markersize=8, label="last update")
    axes.set(xlabel="√KL (√nats)", ylabel="Score")
    figure.legend(loc="outside upper left", ncols=2)
    caption = "One point per update; an estimated KL below 0 is drawn at 0."
    return finish("PPO: score against √KL", caption, figure)


def _win_plot(ppo: Figures) -> Plot | None:
    """Win rate of every task with its interval; without interval, a bar of no length."""
    tasks = part(ppo, "by_task")
    found = [make_bar("All", *_win_rate(ppo), is_total=True)]
    found += [make_bar(task, *_win_rate(part(tasks, task))) for task in sorted(tasks)]
    bars = list(filter(None, found))
    if len(bars) < 2:
        return None
    axes = draw_bars(bars, level=50, colour=PPO)
    axes.set_xlim(*percent_limits(bars, 40, 60))
    axes.set_xlabel("PPO beats SFT, true preference (%)")
    caption = "Sampled answers, ties half; bars: 95 % interval; dashed: no difference."
    return finish("Win rate of each task", caption, axes.figure)


def _win_rate(figures: Figures) -> list[object]:
    return [figures.get(f"true_win_rate{end}") for end in ("", "_low", "_high")]


def make_bar(
    name: str,
    value: object,
    low: object,
    high: object,
    *,
    factor: float = 100.0,
    is_total: bool = False,
) -> Bar | None:
    """A bar of the figure times a factor; None without figure, no length without interval."""
    figure = number(value)
    if figure is None:
        return None
    first, last = (figure if end is None else end for end in (number(low), number(high)))
    return Bar(name, factor * figure, factor * first, factor * last, is_total)


def draw_bars(bars: Sequence[Bar], level: float, colour: str) -> Any:
    """Dots with their intervals, the first on top; the axes of a new figure.

    Args:
        bars: One or more.
        level: Where a line to compare with stands.
        colour: Of dots and intervals.
    """
    axes = new_figure(max(4.2, 1.2 + 0.42 * len(bars))).subplots()
    axes.axvline(level, **LEVEL)
    for place, bar in enumerate(bars):
        axes.plot([bar.low, bar.high], [place, place], color=colour, linewidth=2.5)
        marker = "D" if bar.is_total else "o"
        axes.plot([bar.value], [place], marker, color=colour, markersize=7)
    axes.set_yticks(range(len(bars)), [_tick_name(bar.name) for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    return axes


def percent_limits(bars: Sequence[Bar], low: float, high: float) -> tuple[float, float]:
    """Ends of an axis of shares that holds the bars and reaches at least from low to high."""
    first, last = min(bar.low for bar in bars), max(bar.high for bar in bars)
    return max(0.0, min(first, low) - 3), min(100.0, max(last, high) + 3)


def _tick_name(name: str) -> str:
    """Fit a name beside its bar; what SVG cannot hold becomes a replacement character."""
    name = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", name)
    return name if len(name) <= 18 else f"{name[:17]}…"


def _stacked(
    title: str, caption: str, rows: Curve, panels: Sequence[Panel], x_label: str = "Step"
) -> Plot | None:
    """Draw panels over one another along the same steps; those without values are left out."""
    sizes = {panel: len(_series(rows, "step", panel.key)[0]) for panel in panels}
    drawn = [panel for panel in panels if sizes[panel]]
    if not drawn:
        return None
    figure = new_figure()
    grid = figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(grid, drawn, strict=True):
        _draw(axes, rows, panel)
    axes.set_xlabel(x_label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    figure.align_ylabels()
    if max(sizes.values()) >= _SMOOTHED:
        caption += " Bold: running mean."
    return finish(title, caption, figure)


def _draw(axes: Any, rows: Curve, panel: Panel) -> None:
    x, y = _series(rows, "step", panel.key, panel.factor)
    marker = "o" if len(x) < 12 else None
    axes.plot(x, _running_mean(y), color=panel.colour, marker=marker, label="train")
    if len(y) >= _SMOOTHED:
        axes.plot(x, y, color=panel.colour, linewidth=0.8, alpha=0.4)
    held_out = _series(rows, "step", panel.held_out, panel.factor)
    if held_out[0]:
        axes.plot(*held_out, color=INK, linestyle="--", marker="s", label="held out")
        axes.legend(loc="upper right")
    axes.set_ylabel(panel.label)
    name, level = panel.level
    if level is not None:
        value, side = panel.factor * level, panel.level_side
        place, along = 0.01 if side == "left" else 0.99, axes.get_yaxis_transform()
        words = f"{name} {value:.3g}"
        axes.axhline(value, **LEVEL)
        axes.text(place, value, words, transform=along, ha=side, va="bottom", fontsize=11)
        axes.margins(y=0.15)


def _series(rows: Curve, x: str, y: str, factor: float = 1.0) -> tuple[list[float], list[float]]:
    """Two metrics of the rows where both are finite, the second times a factor."""
    points = [(number(row.get(x)), number(row.get(y))) for row in rows]
    kept = [(one, factor * other) for one, other in points if one is not None and other is not None]
    return [one for one, _ in kept], [other for _, other in kept]


def _running_mean(values: Sequence[float]) -> list[float]:
    """Average each value with its neighbours; short curves stay as they are."""
    reach = len(values) // _SMOOTHED
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def new_figure(height: float = 4.2) -> Any:
    """An empty figure as wide as a plot of the page."""
    return Figure(figsize=(4.8, height), layout="constrained")


def finish(title: str, caption: str, figure: Any) -> Plot:
    """Turn a figure into inline SVG in the page's colours and font, with names of its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    svg = re.sub(r"(?s)<metadata>.*?</metadata>|<style.*?</style>", "", file.getvalue())
    for drawn, name in _CSS_COLOURS.items():
        svg = svg.replace(drawn, f"var(--{name})")
    slug = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{slug}-", svg).replace("xlink:href", "href")
    _, box, inner = re.split(r'<svg[^>]*(viewBox="[^"]*")[^>]*>', svg)
    label = Markup("{}. {}").format(title, caption)
    return Plot(title, caption, Markup(f'<svg {box} role="img" aria-label="{label}">{inner}'))
