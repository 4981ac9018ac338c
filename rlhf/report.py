"""The evaluation report as one self-contained HTML page.

Here: what the page says and how its figures are written; ``templates/report.html.j2`` holds its
layout. The page asks for nothing outside itself and runs no script. Whatever is missing, not a
number or not finite is left out. Nothing is computed here that ``report.json`` does not hold,
apart from differences of two figures and running means in the plots.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Figures = Mapping[str, Any]
Curve = Sequence[Mapping[str, Any]]
_T = TypeVar("_T")

MODELS = {"base": "Base", "sft": "SFT", "ppo": "PPO"}
STAGES = {
    "sft": "SFT",
    "sample": "Sampling candidates",
    "rank": "Ranking",
    "reward": "Reward model",
    "ppo": "PPO",
    "evaluation": "Evaluation",
}
_STOPS = {"max_steps": "last update done", "kl_budget": "KL budget"}
_OPEN_SAMPLES = 6
_MINUS = "−"


def render_report(
    figures: Figures, samples: Sequence[Mapping[str, Any]], curves: Mapping[str, Curve]
) -> str:
    """Render figures, plots and side-by-side samples; all text from outside is escaped.

    Args:
        figures: What ``report.json`` holds. Beyond what the evaluation writes, a caller may add
            ``notes`` (sentences), ``seconds`` and ``peak_memory_mb`` of the whole job,
            ``reward_model.ceiling``, ``reward_model.annotator_agreement``, and ``targets`` with
            any of ``pair_accuracy``, ``margin_over_length_rule``, ``true_win_rate``,
            ``accuracy_drop``, ``seconds``, ``peak_memory_mb``; each target gets a verdict.
        samples: Rows with ``prompt``, ``task``, ``demonstration`` and
            ``{base,sft,ppo}_{sampled,greedy}``.
        curves: Logged rows of the stages ``sft``, ``reward`` and ``ppo``.

    Returns:
        A whole HTML document.
    """
    environment = Environment(
        loader=PackageLoader("rlhf"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [_sample(row) for row in _interleaved(samples)]
    page = environment.get_template("report.html.j2").render(
        simulated=figures.get("simulated") is True,
        judge=figures.get("judge"),
        path=_path(figures),
        subject=_subject(figures),
        tiles=_tiles(figures),
        model_tables=_present(_model_table(figures, kind) for kind in ("sampled", "greedy")),
        task_table=_task_table(figures),
        reward_table=_reward_table(figures),
        further_table=_further_table(figures),
        cost_table=_cost_table(figures),
        plots=_plots(figures, curves),
        samples=shown[:_OPEN_SAMPLES],
        more_samples=shown[_OPEN_SAMPLES:],
        notes=[str(note) for note in figures.get("notes") or ()],
        shows=_shown_words(figures),
    )
    # A lone surrogate in someone's file must not make the page unwritable.
    return page.encode("utf-8", "replace").decode("utf-8")


# What the page is made of


@dataclass(frozen=True, slots=True)
class Unit:
    """How a figure is written."""

    digits: int
    suffix: str = ""
    factor: float = 1.0
    signed: bool = False

    def show(self, value: object) -> str:
        """Write a number with its unit; empty for what is not a finite number."""
        number = _number(value)
        return "" if number is None else self._plain(number) + self.suffix

    def span(self, low: object, high: object) -> str:
        """Write an interval, or the one end that there is."""
        ends = [_number(low), _number(high)]
        written = [self._plain(end) for end in ends if end is not None]
        if len(written) == 2:
            return f"{written[0]} to {written[1]}{self.suffix}"
        return f"lower end {written[0]}{self.suffix}" if ends[0] is not None else ""

    def _plain(self, number: float) -> str:
        # Adding 0.0 turns -0.0 into 0.0.
        rounded = round(number * self.factor, self.digits) + 0.0
        sign = "+" if self.signed and rounded > 0 else ""
        return sign + f"{rounded:,.{self.digits}f}".replace("-", _MINUS)


PERCENT = Unit(1, "\u00a0%", 100.0)
POINTS = Unit(1, "\u00a0points", 100.0, signed=True)
GAP = Unit(1, "\u00a0points", 100.0)
PLAIN = Unit(2)
CHANGE = Unit(2, signed=True)
RATIO = Unit(3)
TOKENS = Unit(1)
COUNT = Unit(0)
NATS = Unit(2, "\u00a0nats")

_METRICS = {
    "accuracy": ("Task accuracy", PERCENT),
    "utility": ("True utility", PLAIN),
    "score": ("Score", PLAIN),
    "rouge_l": ("ROUGE-L", RATIO),
    "length": ("Length, tokens", TOKENS),
    "ended": ("Ended by itself", PERCENT),
    "distinct": ("Distinct answers", PERCENT),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure and its interval, both written out."""

    text: str = ""
    span: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    name: str
    cells: tuple[Cell, ...]
    is_part: bool = False
    """A part of the row above it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table without empty rows or columns."""

    caption: str
    head: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One short line on a target."""

    text: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure."""

    label: str
    value: str
    span: str = ""
    lines: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture with its words."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Answer:
    """One model's answer to one prompt."""

    model: str
    name: str
    text: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """All models' answers to one prompt."""

    prompt: str
    task: str
    demonstration: str
    sampled: tuple[Answer, ...]
    greedy: tuple[Answer, ...]


# Headline


def _path(figures: Figures) -> str:
    """The stages that led here."""
    reward = "reward model from rankings → " if _part(figures, "reward_model") else ""
    return f"SFT → {reward}PPO on LoRA adapters"


def _subject(figures: Figures) -> str:
    """What was compared, in one sentence."""
    names = [name for key, name in MODELS.items() if key in _part(figures, "models")]
    prompts = COUNT.show(figures.get("prompts"))
    if not names or not prompts:
        return ""
    who = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    count = _number(figures.get("samples_per_prompt"))
    sampled = f" {count:.0f} times sampled and" if count else ""
    return f"{who} answered the same {prompts} held-out prompts,{sampled} once greedily."


def _tiles(figures: Figures) -> list[Tile]:
    """The key figures."""
    found = (
        _pair_tile(figures),
        _win_tile(figures),
        _kl_tile(figures),
        _accuracy_tile(figures) or _score_tile(figures),
        _seconds_tile(figures),
        _memory_tile(figures),
    )
    return _present(found)


def _pair_tile(figures: Figures) -> Tile | None:
    reward, targets = _part(figures, "reward_model"), _part(figures, "targets")
    value, rule = _number(reward.get("pair_accuracy")), _number(reward.get("best_length_rule"))
    if value is None:
        return None
    against = _text(reward.get("pair_accuracy_against"))
    lines = [f"Against the {against}"] if against else []
    if rule is not None:
        side = "below" if rule <= value else "above"
        gap = GAP.show(abs(value - rule))
        lines.append(f"Best length rule: {PERCENT.show(rule)}, {gap} {side}")
    if ceiling := PERCENT.show(reward.get("ceiling")):
        noisy = PERCENT.show(reward.get("pair_accuracy_rankings"))
        lines.append(f"On held-out rankings: {noisy or '–'}; ceiling {ceiling}")
    verdicts = _at_least(value, targets.get("pair_accuracy"))
    if rule is not None:
        more = " above length"
        verdicts += _at_least(value - rule, targets.get("margin_over_length_rule"), GAP, more)
    return Tile(
        "Reward model: pair accuracy",
        PERCENT.show(value),
        _span(reward, "pair_accuracy", PERCENT),
        tuple(lines),
        verdicts,
    )


def _win_tile(figures: Figures) -> Tile | None:
    ppo = _part(figures, "ppo")
    value = _number(ppo.get("true_win_rate"))
    if value is None:
        return _score_win_tile(ppo)
    lines = ["Sampled against sampled, ties half; 50 % is no difference"]
    if greedy := PERCENT.show(ppo.get("true_win_rate_greedy")):
        lines.append(f"Greedy against greedy: {greedy}")
    by_task = _part(ppo, "by_task")
    rates = {name: _number(_part(by_task, name).get("true_win_rate")) for name in by_task}
    known = {name: rate for name, rate in rates.items() if rate is not None}
    if known:
        lowest = min(known, key=lambda name: known[name])
        lines.append(f"Lowest of the tasks: {lowest}, {PERCENT.show(known[lowest])}")
    verdicts = _at_least(value, _part(figures, "targets").get("true_win_rate"))
    span = _span(ppo, "true_win_rate", PERCENT)
    return Tile("PPO beats SFT, true preference", PERCENT.show(value), span, tuple(lines), verdicts)


def _score_win_tile(ppo: Figures) -> Tile | None:
    value = PERCENT.show(ppo.get("score_win_rate"))
    if not value:
        return None
    line = "Ties half; no judge of the true preference was given"
    return Tile(
        "PPO beats SFT, by the score", value, _span(ppo, "score_win_rate", PERCENT), (line,)
    )


def _kl_tile(figures: Figures) -> Tile | None:
    ppo = _part(figures, "ppo")
    value, budget = _number(ppo.get("kl")), _number(ppo.get("kl_budget"))
    if value is None:
        return None
    verdicts: tuple[Verdict, ...] = ()
    if budget is not None:
        is_met = value <= budget
        over = f"KL {value:.2f} is over the budget of {budget:g}"
        verdicts = (
            Verdict(f"KL {value:.1f} of a budget of {budget:g}" if is_met else over, is_met),
        )
    lines = ["PPO from the SFT model, per completion"]
    if pretrained := NATS.show(ppo.get("kl_to_pretrained")):
        lines.append(f"From the base before SFT: {pretrained}")
    interval = ppo.get("kl_interval")
    low, high = interval if isinstance(interval, Sequence) and len(interval) == 2 else (None, None)
    return Tile("KL", NATS.show(value), NATS.span(low, high), tuple(lines), verdicts)


def _accuracy_tile(figures: Figures) -> Tile | None:
    accuracy = _part(figures, "task_accuracy")
    value, change = PERCENT.show(accuracy.get("ppo")), _number(accuracy.get("change"))
    if not value:
        return None
    lines = _before(accuracy, PERCENT)
    if change is not None:
        span = _span(accuracy, "change", POINTS)
        lines.append(f"Change from SFT: {POINTS.show(change)}" + (f"; {span}" if span else ""))
    drop = _number(_part(figures, "targets").get("accuracy_drop"))
    verdicts: tuple[Verdict, ...] = ()
    if drop is not None and change is not None:
        verdicts = (_verdict(f"Drop of at most {drop * 100:g} points", change >= -drop),)
    return Tile("Task accuracy of PPO", value, "", tuple(lines), verdicts)


def _score_tile(figures: Figures) -> Tile | None:
    models = _part(figures, "models")
    scores = {name: _part(_part(models, name), "sampled").get("score") for name in models}
    value = PLAIN.show(scores.get("ppo"))
    return Tile("Mean score of PPO", value, "", tuple(_before(scores, PLAIN))) if value else None


def _before(values: Figures, unit: Unit) -> list[str]:
    """Base and SFT beside PPO."""
    shown = [(MODELS[name], unit.show(values.get(name))) for name in ("base", "sft")]
    line = ", ".join(f"{name} {value}" for name, value in shown if value)
    return [line] if line else []


def _seconds_tile(figures: Figures) -> Tile | None:
    seconds, line = _number(figures.get("seconds")), "Whole job"
    costs = _stage_values(figures, "seconds")
    if seconds is None:
        seconds, line = (sum(costs.values()) if costs else None), "Sum of the stages below"
    if seconds is None:
        return None
    lines = [line]
    if costs:
        longest = max(costs, key=lambda name: costs[name])
        lines.append(f"Longest stage: {_stage(longest)}, {_duration(costs[longest])}")
    limit = _number(_part(figures, "targets").get("seconds"))
    verdicts = () if limit is None else (_verdict(f"Limit {_duration(limit)}", seconds <= limit),)
    return Tile("Wall time", _duration(seconds), "", tuple(lines), verdicts)


def _memory_tile(figures: Figures) -> Tile | None:
    memory, costs = _number(figures.get("peak_memory_mb")), _stage_values(figures, "peak_memory_mb")
    if memory is None and costs:
        memory = max(costs.values())
    if memory is None:
        return None
    lines = []
    if costs:
        largest = max(costs, key=lambda name: costs[name])
        lines = [f"Largest stage: {_stage(largest)}, {_memory(costs[largest])}"]
    limit = _number(_part(figures, "targets").get("peak_memory_mb"))
    verdicts = () if limit is None else (_verdict(f"Limit {_memory(limit)}", memory <= limit),)
    return Tile("Peak memory", _memory(memory), "", tuple(lines), verdicts)


def _at_least(
    value: float, target: object, unit: Unit = PERCENT, more: str = ""
) -> tuple[Verdict, ...]:
    """Judge a share against a target, where there is one; say by how much it was missed."""
    wanted = _number(target)
    if wanted is None:
        return ()
    text = f"Target {wanted * 100:g}{unit.suffix}{more}"
    if value >= wanted:
        return (Verdict(f"{text}: met", True),)
    gap = GAP.show(wanted - value) if wanted - value >= 0.0005 else "less than 0.1 points"
    return (Verdict(f"{text}: missed by {gap}", False),)


def _verdict(target: str, is_met: bool) -> Verdict:
    return Verdict(f"{target}: {'met' if is_met else 'missed'}", is_met)


# Tables


def _model_table(figures: Figures, kind: str) -> Table | None:
    """Means of every model's sampled or greedy answers."""
    models = _part(figures, "models")
    columns = {key: _part(_part(models, key), kind) for key in MODELS}
    hidden = {"distinct"} if kind == "greedy" or figures.get("samples_per_prompt") == 1 else set()
    rows = []
    for key, (name, unit) in _METRICS.items():
        if key not in hidden:
            cells = tuple(Cell(unit.show(own.get(key))) for own in columns.values())
            rows.append(Row(name, cells))
        if key == "utility":
            rows += _utility_parts(columns.values())
    caption = {"sampled": "Sampled answers", "greedy": "Greedy answers"}[kind]
    return _table(caption, "Mean of", tuple(MODELS.values()), rows)


def _utility_parts(columns: Iterable[Figures]) -> list[Row]:
    """What the judge's utility is made of: every figure that is not one of ours."""
    columns = list(columns)
    if not any("utility" in own for own in columns):
        return []
    names = dict.fromkeys(itertools.chain.from_iterable(columns))
    return [
        Row(
            str(name).replace("_", " "),
            tuple(Cell(PLAIN.show(own.get(name))) for own in columns),
            True,
        )
        for name in names
        if name not in _METRICS and not str(name).endswith(("_low", "_high"))
    ]


def _task_table(figures: Figures) -> Table | None:
    """Every task by itself, on sampled answers."""
    compared = _part(_part(figures, "ppo"), "by_task")
    models = _part(figures, "models")
    by_task = {key: _part(_part(_part(models, key), "sampled"), "by_task") for key in MODELS}
    tasks = sorted({task for own in (compared, *by_task.values()) for task in own})
    judged = any("accuracy" in _part(own, task) for own in by_task.values() for task in own)
    metric, unit = ("accuracy", PERCENT) if judged else ("score", PLAIN)
    rows = []
    for task in tasks:
        own = _part(compared, task)
        cells = [
            Cell(PERCENT.show(own.get("true_win_rate")), _span(own, "true_win_rate", PERCENT)),
            Cell(CHANGE.show(own.get("utility_change")), _span(own, "utility_change", CHANGE)),
        ]
        cells += [Cell(unit.show(_part(mine, task).get(metric))) for mine in by_task.values()]
        rows.append(Row(str(task), tuple(cells)))
    by_model = [f"{metric.capitalize()}, {name}" for name in MODELS.values()]
    columns = ("PPO beats SFT", "Utility, PPO − SFT", *by_model)
    note = "Sampled answers. Small: 95 % interval." if compared else "Sampled answers."
    return _table("Each task by itself", "Task", columns, rows, note)


def _reward_table(figures: Figures) -> Table | None:
    """The reward model beside length rules and ceiling, each against the same order."""
    reward = _part(figures, "reward_model")
    noisy = Cell(
        PERCENT.show(reward.get("pair_accuracy_rankings")),
        _span(reward, "pair_accuracy_rankings", PERCENT),
    )
    against = _text(reward.get("pair_accuracy_against"))
    true = Cell()
    true_rule = Cell()
    if against != "held-out rankings":
        true = Cell(
            PERCENT.show(reward.get("pair_accuracy")), _span(reward, "pair_accuracy", PERCENT)
        )
        true_rule = Cell(PERCENT.show(reward.get("best_length_rule")))
    rows = [
        Row("Reward model", (true, noisy)),
        Row(
            "Best length rule",
            (true_rule, Cell(PERCENT.show(reward.get("best_length_rule_rankings")))),
        ),
        Row(
            "Noise-free annotator (ceiling)",
            (Cell(), Cell(PERCENT.show(reward.get("ceiling")))),
        ),
        Row(
            "Annotators with each other",
            (Cell(), Cell(PERCENT.show(reward.get("annotator_agreement")))),
        ),
        Row(
            "Pairs",
            (Cell(COUNT.show(reward.get("pairs"))), Cell(COUNT.show(reward.get("pairs_rankings")))),
        ),
    ]
    rules = [
        f"{name} {PERCENT.show(reward.get(key))}"
        for name, key in (("longer wins", "longer_wins"), ("shorter wins", "shorter_wins"))
        if PERCENT.show(reward.get(key))
    ]
    note = f"Against the {against or 'held-out rankings'}: {', '.join(rules)}." if rules else ""
    columns = (against[:1].upper() + against[1:] or "True order", "Held-out rankings")
    return _table("Pair accuracy", "Who orders the pairs", columns, rows, note)


def _further_table(figures: Figures) -> Table | None:
    """What the headline leaves out."""
    ppo, best = _part(figures, "ppo"), _part(_part(figures, "ppo"), "best_of_n")
    sft = _part(_part(figures, "sft"), "true_win_rate")
    count = COUNT.show(best.get("n")) or "n"
    stop = _text(ppo.get("stopped_by"))
    exported = ppo.get("export_same_greedy_text")
    difference = _number(ppo.get("export_max_logprob_difference"))
    found: dict[str, Cell] = {
        "SFT beats base, true preference": Cell(
            PERCENT.show(sft.get("value")), PERCENT.span(sft.get("low"), sft.get("high"))
        ),
        "PPO beats SFT, true preference, greedy": Cell(
            PERCENT.show(ppo.get("true_win_rate_greedy")),
            _span(ppo, "true_win_rate_greedy", PERCENT),
        ),
        "PPO beats SFT, by the score": Cell(
            PERCENT.show(ppo.get("score_win_rate")), _span(ppo, "score_win_rate", PERCENT)
        ),
        f"Best of {count} SFT samples by the score beats another one": Cell(
            PERCENT.show(best.get("true_win_rate"))
        ),
        f"Best of {count} SFT samples by true utility beats another one": Cell(
            PERCENT.show(best.get("true_win_rate_of_perfect_judge"))
        ),
        "Utility, PPO − SFT": _interval_cell(_part(ppo, "utility_change"), CHANGE),
        "KL from the base before SFT": Cell(NATS.show(ppo.get("kl_to_pretrained"))),
        "PPO updates": Cell(COUNT.show(ppo.get("updates"))),
        "PPO stopped by": Cell(_STOPS.get(stop, stop)),
        "Export for the original base: largest logprob difference": Cell(
            "" if difference is None else f"{difference:.1e} nats".replace("-", _MINUS)
        ),
        "Export: same greedy text": Cell("" if exported is None else "yes" if exported else "no"),
    }
    rows = [Row(name, (cell,)) for name, cell in found.items()]
    return _table("Further figures", "Figure", ("Value",), rows)


def _interval_cell(interval: Figures, unit: Unit) -> Cell:
    span = unit.span(interval.get("low"), interval.get("high"))
    return Cell(unit.show(interval.get("value")), span)


def _cost_table(figures: Figures) -> Table | None:
    """Seconds and memory of every stage, in order."""
    seconds = _stage_values(figures, "seconds")
    memory = _stage_values(figures, "peak_memory_mb")
    order = [*STAGES, *(name for name in _part(figures, "stages") if name not in STAGES)]
    rows = [
        Row(_stage(name), (Cell(_duration(seconds.get(name))), Cell(_memory(memory.get(name)))))
        for name in order
    ]
    whole = _number(figures.get("seconds")), _number(figures.get("peak_memory_mb"))
    rows.append(Row("Whole job", (Cell(_duration(whole[0])), Cell(_memory(whole[1])))))
    return _table("Costs of the stages", "Stage", ("Wall time", "Peak memory"), rows)


def _table(
    caption: str, head: str, columns: tuple[str, ...], rows: Sequence[Row], note: str = ""
) -> Table | None:
    """Leave out empty rows and columns; None when nothing is left."""
    full = [row for row in rows if any(cell.text for cell in row.cells)]
    kept = [i for i in range(len(columns)) if any(row.cells[i].text for row in full)]
    if not kept:
        return None
    shown = (Row(row.name, tuple(row.cells[i] for i in kept), row.is_part) for row in full)
    return Table(caption, head, tuple(columns[i] for i in kept), tuple(shown), note)


# Samples


def _interleaved(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Take the tasks in turn, so that the first rows show them all."""
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for row in samples:
        by_task.setdefault(str(row.get("task")), []).append(row)
    rounds = itertools.zip_longest(*by_task.values())
    return [row for one_round in rounds for row in one_round if row is not None]


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(
        prompt=_text(row.get("prompt")),
        task=_text(row.get("task")),
        demonstration=_text(row.get("demonstration")),
        sampled=_answers(row, "sampled"),
        greedy=_answers(row, "greedy"),
    )


def _answers(row: Mapping[str, Any], kind: str) -> tuple[Answer, ...]:
    found = []
    for model, name in MODELS.items():
        answer = _part(row, f"{model}_{kind}")
        if answer.get("text") is not None:
            values = (
                ("utility", PLAIN.show(answer.get("utility"))),
                ("score", PLAIN.show(answer.get("score"))),
            )
            shown = tuple((label, value) for label, value in values if value)
            found.append(Answer(model, name, _text(answer["text"]), shown))
    return tuple(found)


# Plots

_INK, _RULE, _SFT, _PPO = "#010203", "#010204", "#010205", "#010206"
_CSS_COLOURS = {
    _INK: "var(--plot-ink)",
    _RULE: "var(--line)",
    _SFT: "var(--sft)",
    _PPO: "var(--ppo)",
}
"""Drawn colours that stand for the page's own, so that plots follow light and dark."""

_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "rlhf",  # equal plots give equal bytes
    "text.parse_math": False,  # a $ in a task name is a $
    "font.size": 12,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.labelsize": 12,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.frameon": False,
    "legend.fontsize": 11,
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One curve over steps."""

    label: str
    x: list[float]
    y: list[float]
    colour: str
    level: float | None = None
    level_name: str = ""
    level_side: str = "left"
    second: tuple[list[float], list[float]] | None = None
    """A dashed curve beside the first."""
    names: tuple[str, str] = ("", "")


def _plots(figures: Figures, curves: Mapping[str, Curve]) -> list[Plot]:
    """Every plot that has something to show."""
    ppo, reward, sft = (curves.get(name) or () for name in ("ppo", "reward", "sft"))
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # The browser draws the text, so matplotlib's own font need not have every letter.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        found = (
            _win_plot(figures),
            _ppo_plot(ppo, _number(_part(figures, "ppo").get("kl_budget"))),
            _frontier_plot(ppo),
            _text_plot(ppo),
            _reward_plot(reward, _part(figures, "reward_model")),
            _sft_plot(sft),
        )
    return _present(found)


def _ppo_plot(rows: Curve, budget: float | None) -> Plot | None:
    panels = [
        _panel(rows, "score/mean", "Score", _PPO),
        _panel(rows, "kl/reference", "KL (nats)", _PPO, level=budget, level_name="budget"),
    ]
    caption = "Means of each update's samples; KL per completion."
    return _stacked("PPO: score and KL", caption, panels, "PPO update")


def _text_plot(rows: Curve) -> Plot | None:
    panels = [
        _panel(rows, "completion/length", "Tokens", _PPO),
        _panel(rows, "policy/entropy", "Nats per token", _PPO),
    ]
    caption = "Above: completion length. Below: entropy of the policy, from its sampled tokens."
    return _stacked("PPO: length and entropy", caption, panels, "PPO update")


def _reward_plot(rows: Curve, reward: Figures) -> Plot | None:
    held_out = _number(reward.get("pair_accuracy_rankings"))
    panels = [
        _panel(
            rows,
            "loss/train",
            "Loss (nats)",
            _SFT,
            level=math.log(2),
            level_name="chance",
            level_side="right",
        ),
        _panel(
            rows,
            "reward/pair_accuracy_train",
            "Accuracy (%)",
            _SFT,
            factor=100.0,
            level=None if held_out is None else 100.0 * held_out,
            level_name="held-out rankings",
        ),
    ]
    caption = "Each batch before learning from it."
    return _stacked("Reward model: training", caption, panels, "Step")


def _sft_plot(rows: Curve) -> Plot | None:
    train = _panel(rows, "loss/train", "Loss (nats per token)", _SFT)
    if train is None:
        return None
    x, y = _series(rows, "loss/held_out")
    if x:
        train = Panel(
            train.label, train.x, train.y, _SFT, second=(x, y), names=("train", "held out")
        )
    return _stacked("SFT: loss", "Loss on the tokens of the answers.", [train], "Step")


def _frontier_plot(rows: Curve) -> Plot | None:
    """Score against the square root of the KL, update by update."""
    pairs = [
        (math.sqrt(max(kl, 0.0)), score)
        for kl, score in (
            (_number(row.get("kl/reference")), _number(row.get("score/mean"))) for row in rows
        )
        if kl is not None and score is not None
    ]
    if len(pairs) < 2:
        return None
    x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    figure = Figure(figsize=(4.8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, color=_PPO, linewidth=0.8, alpha=0.45)
    axes.plot(x[1:-1], y[1:-1], "o", color=_PPO, markersize=3.5)
    axes.plot(x[:1], y[:1], "s", color=_SFT, markersize=8, label="first update")
    axes.plot(x[-1:], y[-1:], "D", color=_PPO, markersize=8, label="last update")
    axes.set(xlabel="√KL (√nats)", ylabel="Score")
    figure.legend(loc="outside upper left", ncols=2)
    caption = "One point per update; an estimated KL below 0 is drawn at 0."
    return _plot("PPO: score against √KL", caption, figure)


def _win_plot(figures: Figures) -> Plot | None:
    """Win rate of every task with its interval."""
    ppo = _part(figures, "ppo")
    tasks = _part(ppo, "by_task")
    named = [("All", ppo), *((str(task), _part(tasks, task)) for task in sorted(tasks))]
    bars = [(name, *bar) for name, own in named if (bar := _bar(own, "true_win_rate"))]
    if len(bars) < 2:
        return None
    figure = Figure(figsize=(4.8, max(4.2, 1.2 + 0.42 * len(bars))), layout="constrained")
    axes = figure.subplots()
    axes.axvline(50, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
    for place, (_, value, low, high) in enumerate(bars):
        axes.plot([low, high], [place, place], color=_PPO, linewidth=2.5)
        axes.plot([value], [place], "D" if place == 0 else "o", color=_PPO, markersize=7)
    axes.set_yticks(range(len(bars)), [_shortened(bar[0]) for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    low, high = min(bar[2] for bar in bars), max(bar[3] for bar in bars)
    axes.set_xlim(max(0.0, min(low, 40) - 3), min(100.0, max(high, 60) + 3))
    axes.set_xlabel("PPO beats SFT, true preference (%)")
    caption = "Sampled answers, ties half; bars: 95 % interval; dashed: no difference."
    return _plot("Win rate of each task", caption, figure)


def _bar(own: Figures, name: str) -> tuple[float, float, float] | None:
    """A share and its interval in percent; without interval, a bar of no length."""
    value = _number(own.get(name))
    if value is None:
        return None
    low, high = _number(own.get(f"{name}_low")), _number(own.get(f"{name}_high"))
    return (
        100 * value,
        100 * (value if low is None else low),
        100 * (value if high is None else high),
    )


def _panel(
    rows: Curve,
    key: str,
    label: str,
    colour: str,
    *,
    factor: float = 1.0,
    level: float | None = None,
    level_name: str = "",
    level_side: str = "left",
) -> Panel | None:
    x, y = _series(rows, key)
    if not x:
        return None
    return Panel(label, x, [factor * value for value in y], colour, level, level_name, level_side)


def _series(rows: Curve, key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric, where both are finite."""
    points = [(_number(row.get("step")), _number(row.get(key))) for row in rows]
    kept = [(x, y) for x, y in points if x is not None and y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def _stacked(title: str, caption: str, panels: Sequence[Panel | None], x_label: str) -> Plot | None:
    """Draw panels over one another along the same steps."""
    drawn = _present(panels)
    if not drawn:
        return None
    figure = Figure(figsize=(4.8, 4.2), layout="constrained")
    for axes, panel in zip(
        figure.subplots(len(drawn), sharex=True, squeeze=False)[:, 0], drawn, strict=True
    ):
        _draw(axes, panel)
    axes.set_xlabel(x_label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    figure.align_ylabels()
    if any(_running_mean(panel.y) for panel in drawn):
        caption += " Bold: running mean."
    return _plot(title, caption, figure)


def _draw(axes: Any, panel: Panel) -> None:
    smooth = _running_mean(panel.y)
    marker = "o" if len(panel.x) < 12 else None
    axes.plot(panel.x, smooth or panel.y, color=panel.colour, marker=marker, label=panel.names[0])
    if smooth:
        axes.plot(panel.x, panel.y, color=panel.colour, linewidth=0.8, alpha=0.4)
    if panel.second is not None:
        axes.plot(*panel.second, color=_INK, linestyle="--", marker="s", label=panel.names[1])
        axes.legend(loc="upper right")
    if panel.level is not None:
        axes.axhline(panel.level, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(
            0.01 if panel.level_side == "left" else 0.99,
            panel.level,
            f"{panel.level_name} {panel.level:.3g}",
            transform=axes.get_yaxis_transform(),
            ha=panel.level_side,
            va="bottom",
            fontsize=11,
        )
        axes.margins(y=0.15)
    axes.set_ylabel(panel.label)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Average each value with its neighbours; empty for short curves."""
    reach = len(values) // 20
    if reach == 0:
        return []
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _plot(title: str, caption: str, figure: Figure) -> Plot:
    """Turn a figure into inline SVG in the page's colours and font, with names of its own."""
    file = io.StringIO()
    figure.savefig(
        file,
        format="svg",
        transparent=True,
        metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
    )
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    for drawn, css in _CSS_COLOURS.items():
        svg = svg.replace(drawn, css)
    slug = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{slug}-", svg).replace("xlink:href", "href")
    label = Markup("{}. {}").format(title, caption)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    inner = svg[svg.index(">", box.start()) + 1 :]
    return Plot(title, caption, Markup(f'<svg {box[0]} role="img" aria-label="{label}">{inner}'))


def _shortened(name: str, most: int = 18) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


# Words and figures


def _shown_words(figures: Figures) -> frozenset[str]:
    """Which figures are on the page, for its definitions."""
    own = [
        _part(_part(_part(figures, "models"), model), kind)
        for model in MODELS
        for kind in ("sampled", "greedy")
    ]
    names = {key for one in own for key in _METRICS if _number(one.get(key)) is not None}
    for section in ("ppo", "reward_model"):
        names |= {key for key, value in _part(figures, section).items() if value is not None}
    return frozenset(names)


def _part(figures: Figures, name: Any) -> Figures:
    """A section of the figures; empty where there is none."""
    part = figures.get(name)
    return part if isinstance(part, Mapping) else {}


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _span(figures: Figures, name: str, unit: Unit) -> str:
    return unit.span(figures.get(f"{name}_low"), figures.get(f"{name}_high"))


def _present(items: Iterable[_T | None]) -> list[_T]:
    return [item for item in items if item is not None]


def _stage_values(figures: Figures, name: str) -> dict[str, float]:
    """One cost of every stage that has it."""
    stages = _part(figures, "stages")
    values = {str(stage): _number(_part(stages, stage).get(name)) for stage in stages}
    return {stage: value for stage, value in values.items() if value is not None}


def _stage(name: str) -> str:
    return STAGES.get(name, name)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _memory(megabytes: float | None) -> str:
    if megabytes is None:
        return ""
    return f"{megabytes / 1000:.2f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
