"""The tables of the report."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.report.reading import MODELS, STAGES, Figures, number, part
from rlhf.report.units import CHANGE, COUNT, NATS, PERCENT, PLAIN, Cell, Unit, duration, memory

_METRICS = {
    "accuracy": ("Task accuracy", PERCENT),
    "utility": ("True utility", PLAIN),
    "score": ("Score", PLAIN),
    "rouge_l": ("ROUGE-L", Unit(3)),
    "length": ("Length, tokens", Unit(1)),
    "ended": ("Ended by itself", PERCENT),
    "distinct": ("Distinct answers", PERCENT),
}
_ORDERS = {
    "Reward model": ("pair_accuracy", "pair_accuracy_rankings", PERCENT),
    "Best length rule": ("best_length_rule", "best_length_rule_rankings", PERCENT),
    "Noise-free annotator (ceiling)": ("", "ceiling", PERCENT),
    "Annotators with each other": ("", "annotator_agreement", PERCENT),
    "Pairs": ("pairs", "pairs_rankings", COUNT),
}
"""Who orders the pairs: its figures against the true order and against held-out rankings."""
_RANKINGS = "held-out rankings"
_REFERENCES = {"base": "the SFT model", "pretrained": "the base before SFT"}
_STOPS = {"max_steps": "last update done", "kl_budget": "KL budget"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    name: str
    cells: Sequence[Cell]
    is_part: bool = False
    """A part of the row above it."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table without empty rows or columns."""

    caption: str
    head: str
    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""


def tables(figures: Figures) -> dict[str, Table | list[Table] | None]:
    """Every table under its name in the template; None where there is nothing to show."""
    by_kind = (_model_table(figures, kind) for kind in ("sampled", "greedy"))
    return {
        "model_tables": list(filter(None, by_kind)),
        "task_table": _task_table(figures),
        "reward_table": _reward_table(part(figures, "reward_model")),
        "further_table": _further_table(figures),
        "cost_table": _cost_table(figures),
    }


def _model_table(figures: Figures, kind: str) -> Table | None:
    """Means of every model's sampled or greedy answers."""
    columns = [part(figures, "models", model, kind) for model in MODELS]
    hidden = {"distinct"} if kind == "greedy" or figures.get("samples_per_prompt") == 1 else set()
    rows = []
    for key, (name, unit) in _METRICS.items():
        if key not in hidden:
            rows.append(Row(name, [unit.cell(own, key) for own in columns]))
        if key == "utility":
            rows += _utility_parts(columns)
    return build_table(f"{kind.capitalize()} answers", "Mean of", tuple(MODELS.values()), rows)


def _utility_parts(columns: Sequence[Figures]) -> list[Row]:
    """What the judge's utility is made of: every figure that is not one of ours."""
    if not any("utility" in own for own in columns):
        return []
    names = dict.fromkeys(itertools.chain.from_iterable(columns))
    return [
        Row(name.replace("_", " "), [Cell(PLAIN.show(own.get(name))) for own in columns], True)
        for name in names
        if name not in _METRICS
    ]


def _task_table(figures: Figures) -> Table | None:
    """Every task by itself, on sampled answers."""
    compared = part(figures, "ppo", "by_task")
    by_model = [part(figures, "models", model, "sampled", "by_task") for model in MODELS]
    judged = any("accuracy" in part(own, task) for own in by_model for task in own)
    metric, unit = ("accuracy", PERCENT) if judged else ("score", PLAIN)
    rows = []
    for task in sorted({task for own in (compared, *by_model) for task in own}):
        own = part(compared, task)
        cells = [PERCENT.cell(own, "true_win_rate"), CHANGE.cell(own, "utility_change")]
        cells += [unit.cell(part(mine, task), metric) for mine in by_model]
        rows.append(Row(task, cells))
    means = [f"{metric.capitalize()}, {name}" for name in MODELS.values()]
    columns = ["PPO beats SFT", "Utility, PPO − SFT", *means]
    note = "Sampled answers. Small: 95 % interval." if compared else "Sampled answers."
    return build_table("Each task by itself", "Task", columns, rows, note)


def _reward_table(reward: Figures) -> Table | None:
    """The reward model beside length rules and ceiling, each against the same order."""
    against = reward.get("pair_accuracy_against") or ""
    true = {} if against == _RANKINGS else reward
    rows = [
        Row(name, (unit.cell(true, key), unit.cell(reward, noisy_key)))
        for name, (key, noisy_key, unit) in _ORDERS.items()
    ]
    rules = {name: PERCENT.show(reward.get(f"{name}_wins")) for name in ("longer", "shorter")}
    shares = ", ".join(f"{name} wins {share}" for name, share in rules.items() if share)
    note = f"Against the {against or _RANKINGS}: {shares}." if shares else ""
    columns = (against[:1].upper() + against[1:] or "True order", "Held-out rankings")
    return build_table("Pair accuracy", "Who orders the pairs", columns, rows, note)


def _further_table(figures: Figures) -> Table | None:
    """What the headline leaves out."""
    ppo, best = part(figures, "ppo"), part(figures, "ppo", "best_of_n")
    best_of = f"Best of {COUNT.show(best.get('n')) or 'n'} SFT samples by"
    stop, same = ppo.get("stopped_by") or "", ppo.get("export_same_greedy_text")
    reference, alarms = ppo.get("reference") or "", ppo.get("alarms")
    difference = number(ppo.get("export_max_logprob_difference"))
    exported = "" if difference is None else f"{difference:.1e} nats".replace("-", "−")
    perfect = "true_win_rate_of_perfect_judge"
    found = {
        "SFT beats base, true preference": PERCENT.cell(part(figures, "sft"), "true_win_rate"),
        "PPO beats SFT, true preference, greedy": PERCENT.cell(ppo, "true_win_rate_greedy"),
        "PPO beats SFT, by the score": PERCENT.cell(ppo, "score_win_rate"),
        f"{best_of} the score beats another one": PERCENT.cell(best, "true_win_rate"),
        f"{best_of} true utility beats another one": PERCENT.cell(best, perfect),
        "Utility, PPO − SFT": CHANGE.cell(ppo, "utility_change"),
        "KL from the base before SFT": NATS.cell(ppo, "kl_to_pretrained"),
        "KL was trained against": Cell(_REFERENCES.get(reference, reference)),
        "PPO updates": COUNT.cell(ppo, "updates"),
        "PPO stopped by": Cell(_STOPS.get(stop, stop)),
        "PPO alarms": Cell("" if alarms is None else ", ".join(alarms) or "none"),
        "Export for the original base: largest logprob difference": Cell(exported),
        "Export: same greedy text": Cell("" if same is None else "yes" if same else "no"),
    }
    rows = [Row(name, (cell,)) for name, cell in found.items()]
    return build_table("Further figures", "Figure", ("Value",), rows)


def _cost_table(figures: Figures) -> Table | None:
    """Seconds and memory of every stage, in order, and of the whole job."""
    stages = part(figures, "stages")
    costs = {STAGES.get(name, name): part(stages, name) for name in [*STAGES, *stages]}
    rows = [
        Row(name, (Cell(duration(own.get("seconds"))), Cell(memory(own.get("peak_memory_mb")))))
        for name, own in (costs | {"Whole job": figures}).items()
    ]
    return build_table("Costs of the stages", "Stage", ("Wall time", "Peak memory"), rows)


def build_table(
    caption: str, head: str, columns: Sequence[str], rows: Sequence[Row], note: str = ""
) -> Table | None:
    """Leave out empty rows and columns; None when nothing is left."""
    full = [row for row in rows if any(cell.text for cell in row.cells)]
    kept = [i for i in range(len(columns)) if any(row.cells[i].text for row in full)]
    if not kept:
        return None
    shown = [Row(row.name, [row.cells[i] for i in kept], row.is_part) for row in full]
    return Table(caption, head, [columns[i] for i in kept], shown, note)
