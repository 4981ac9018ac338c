"""The page of a reward card: findings, key figures, plots, tables and scored samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from rlhf.report.card_plots import (
    GROUPS,
    calibration_points,
    card_plots,
    group_parts,
    learning_points,
)
from rlhf.report.page import OPEN_SAMPLES, render_page
from rlhf.report.reading import Figures, number, part
from rlhf.report.tables import Row, Table, build_table
from rlhf.report.tiles import Tile
from rlhf.report.units import CHANGE, COUNT, GAP, PERCENT, PLAIN, POINTS, Cell, Unit

_PRECISE = Unit(3)
_LEVELS = {"fail": "Fail", "warn": "Warning"}
_WORDS = {
    (False, False): "as ranked",
    (True, False): "scored too high",
    (False, True): "scored too low",
    (True, True): "scored out of order",
}
"""By whether something ranked above is scored below, and something ranked below above."""


class Mark(NamedTuple):
    """What a person and what the reward model made of a completion."""

    rank: float
    score: float


class Finding(NamedTuple):
    """What a check found, and what to do about it."""

    level: str
    name: str
    check: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion with its score and rank."""

    text: str
    score: str
    rank: str
    word: str
    """How the score goes with the ranks; empty where one of them is missing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt as turns of role and text, and its completions from the highest score down."""

    prompt: Sequence[tuple[str, str]]
    answers: Sequence[Answer]
    note: str


def render_reward_card(
    card: Mapping[str, Any],
    *,
    title: str = "Reward card",
    samples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Render a reward card and scored samples; all text from outside is escaped.

    Args:
        card: What ``reward_card.json`` holds; whatever is missing or null is left out.
        title: The heading.
        samples: Rows with ``prompt`` (text or messages), ``completions``, and ``ranks`` and
            ``scores`` beside them.

    Returns:
        A whole HTML document.
    """
    shown = [_sample(row) for row in samples]
    learning = _forecast(card)
    tables = {
        "accuracy_tables": _accuracy_tables(card),
        "further_tables": _further_tables(card, learning),
        "scale_tables": _scale_tables(card),
    }
    return render_page(
        "reward_card.html.j2",
        title=title,
        simulated=card.get("simulated") is True,
        lead=_lead(card),
        findings=_findings(card),
        tiles=_tiles(card),
        plots=card_plots(card, learning),
        fingerprint=card.get("base_fingerprint"),
        samples=shown[:OPEN_SAMPLES],
        more_samples=shown[OPEN_SAMPLES:],
        shows={key for key, value in card.items() if value is not None},
        **tables,
    )


def _lead(card: Figures) -> str:
    """How much was held out."""
    counts = {
        "prompts": "held_out_prompts",
        "rankings": "held_out_rankings",
        "strict pairs": "held_out_pairs",
        "tied pairs": "held_out_ties",
    }
    found = {name: COUNT.show(card.get(key)) for name, key in counts.items()}
    return ", ".join(f"{value} {name}" for name, value in found.items() if value)


def _findings(card: Figures) -> list[Finding] | None:
    """The findings, failures first; None for a card without checks."""
    rows = card.get("findings")
    if not isinstance(rows, list | tuple):
        return None
    found = []
    for row in filter(lambda row: isinstance(row, Mapping), rows):
        level, *words = (str(row.get(key) or "") for key in ("level", "check", "text", "remedy"))
        name = _LEVELS.get(level, level.capitalize())
        found.append(Finding(level, name, *words))
    return sorted(found, key=lambda finding: finding.level != "fail")


def _tiles(card: Figures) -> list[Tile]:
    """The key figures."""
    rule, calibration = part(card, "best_length_rule"), part(card, "calibration")
    pairs, ties = (COUNT.show(card.get(f"held_out_{name}")) for name in ("pairs", "ties"))
    compared = COUNT.show(part(card, "agreement").get("count"))
    temperature = PLAIN.show(calibration.get("temperature"))
    correct = f"Temperature: {temperature}; above 1, scores are too sure" if temperature else ""
    found = (
        _tile(
            "Pair accuracy on held-out rankings",
            PERCENT.cell(card, "pair_accuracy"),
            f"{pairs} strict pairs" if pairs else "",
            "Chance: 50 %",
        ),
        _tile("Best length rule", PERCENT.cell(rule, "value"), _rule_line(card)),
        _tile(
            "Accuracy over the length rule",
            POINTS.cell(card, "over_length_rule"),
            "Both on the same pairs",
        ),
        _tile(
            "Annotators agree",
            PERCENT.cell(card, "agreement"),
            "A rough ceiling of pair accuracy",
            f"{compared} comparisons" if compared else "",
        ),
        _tile("Calibration error (ECE)", GAP.cell(calibration, "ece"), correct),
        _tile(
            "Tie AUC",
            PLAIN.cell(card, "tie_auc"),
            f"{ties} tied pairs" if ties else "",
            "0.5: margins say nothing about ties",
        ),
    )
    return list(filter(None, found))


def _tile(label: str, cell: Cell, *lines: str) -> Tile | None:
    return Tile(label, *cell, [line for line in lines if line]) if cell.text else None


def _rule_line(card: Figures) -> str:
    shares = {name: PERCENT.show(card.get(f"{name}_wins")) for name in ("longer", "shorter")}
    line = ", ".join(f"{name} wins {share}" for name, share in shares.items() if share)
    return line.capitalize() or str(part(card, "best_length_rule").get("rule") or "").capitalize()


def _forecast(card: Figures) -> str:
    """What more rankings would bring, as a sentence; empty without learning curve."""
    curve = part(card, "learning_curve")
    slope, need = number(curve.get("slope_per_doubling")), part(curve, "rankings_for_one_point")
    if not learning_points(card):
        return ""
    if slope is not None and slope <= 0:
        return "Accuracy does not rise over these points: more rankings alone do not seem to help."
    value, low, high = (COUNT.show(need.get(end)) for end in ("value", "low", "high"))
    if not value:
        return "What more rankings would bring is too noisy to forecast."
    span = f" ({low} to {high})" if low and high else f" ({low} or more)" if low else ""
    return f"About {value}{span} more rankings for one more point."


def _accuracy_tables(card: Figures) -> list[Table]:
    """The held-out figures, whole and split."""
    found = [_held_out_table(card)]
    for key, (split, head) in GROUPS.items():
        rows = [
            Row(name, (PERCENT.cell({"own": own}, "own"), COUNT.cell(own, "count")))
            for name, own in group_parts(card, key).items()
        ]
        found.append(build_table(f"Accuracy by {split}", head, ("Accuracy", "Pairs"), rows))
    return list(filter(None, found))


def _held_out_table(card: Figures) -> Table | None:
    calibration, rule = part(card, "calibration"), part(card, "best_length_rule")
    best = f"Best length rule: {rule.get('rule')}" if rule.get("rule") else "Best length rule"
    counted: dict[str, tuple[str, Unit, str]] = {
        "Pair accuracy": ("pair_accuracy", PERCENT, "pairs"),
        "Accuracy over the length rule": ("over_length_rule", POINTS, "pairs"),
        "Annotators agree": ("agreement", PERCENT, "comparisons"),
        "Kendall’s τ-b": ("kendall_tau_b", PLAIN, "rankings"),
    }
    found = {
        name: (unit.cell(card, key), _counted(part(card, key), of))
        for name, (key, unit, of) in counted.items()
    }
    plain = {
        best: PERCENT.cell(rule, "value"),
        "Longer wins": PERCENT.cell(card, "longer_wins"),
        "Shorter wins": PERCENT.cell(card, "shorter_wins"),
        "Calibration error (ECE)": GAP.cell(calibration, "ece"),
        "Temperature": PLAIN.cell(calibration, "temperature"),
        "Tie AUC": PLAIN.cell(card, "tie_auc"),
        "Correlation of score and length": CHANGE.cell(card, "score_length_correlation"),
    }
    rows = [Row(name, cells) for name, cells in found.items()]
    rows += [Row(name, (cell, Cell())) for name, cell in plain.items()]
    note = "Small: 95 % interval."
    return build_table("Held-out rankings", "Figure", ("Value", "Out of"), rows, note)


def _counted(own: Figures, of: str) -> Cell:
    count = COUNT.show(own.get("count"))
    return Cell(f"{count} {of}" if count and number(own.get("value")) is not None else "")


def _further_tables(card: Figures, forecast: str) -> list[Table]:
    """Calibration, learning curve and probes."""
    found = _calibration_table(card), _learning_table(card, forecast), _probe_table(card)
    return list(filter(None, found))


def _calibration_table(card: Figures) -> Table | None:
    rows = [
        Row(PERCENT.show(sure), (Cell(PERCENT.show(right)), Cell(COUNT.show(count))))
        for sure, right, count in calibration_points(card)
    ]
    columns = ("Ranked so", "Pairs")
    return build_table("Calibration", "Probability by the scores", columns, rows)


def _learning_table(card: Figures, forecast: str) -> Table | None:
    rows = []
    for own in learning_points(card):
        span = PERCENT.span(own.get("low"), own.get("high"))
        rows.append(Row(COUNT.show(own["rankings"]), (Cell(PERCENT.show(own["accuracy"]), span),)))
    curve = part(card, "learning_curve")
    change, error = POINTS.show(curve.get("slope_per_doubling")), GAP.show(curve.get("slope_error"))
    errors = f", standard error {error}" if error else ""
    slope = f"With each doubling: {change}{errors}. " if change else ""
    return build_table("Learning curve", "Rankings", ("Accuracy",), rows, slope + forecast)


def _probe_table(card: Figures) -> Table | None:
    probes, rows = part(card, "probes"), []
    for name in probes:
        own, margin = part(probes, name), part(probes, name, "margin")
        scored = PLAIN.cell(own, "mean"), COUNT.cell(own, "count")
        compared = CHANGE.cell(own, "margin"), COUNT.cell(margin, "count")
        rows.append(Row(str(name).capitalize(), (*scored, *compared)))
    columns = ("Mean score", "Answers", "Reference − probe", "Compared")
    return build_table("Probes", "Answer", columns, rows)


def _scale_tables(card: Figures) -> list[Table]:
    """Where scores lie, and what the card was made from."""
    scores = part(card, "scores")
    rows = []
    for name in scores:
        own = part(scores, name)
        cells = PLAIN.cell(own, "mean"), PLAIN.cell(own, "std"), COUNT.cell(own, "count")
        rows.append(Row(str(name).capitalize(), cells))
    raw = part(card, "normalization")
    known = {
        "Rankings learned from": COUNT.cell(card, "train_rankings"),
        "Held-out prompts": COUNT.cell(card, "held_out_prompts"),
        "Held-out rankings": COUNT.cell(card, "held_out_rankings"),
        "Held-out strict pairs": COUNT.cell(card, "held_out_pairs"),
        "Held-out tied pairs": COUNT.cell(card, "held_out_ties"),
        "Raw scores: mean taken off": _PRECISE.cell(raw, "mean"),
        "Raw scores: divided by": _PRECISE.cell(raw, "std"),
    }
    about = [Row(name, (cell,)) for name, cell in known.items()]
    columns = ("Mean", "Standard deviation", "Count")
    found = (
        build_table("Normalised scores", "Score of", columns, rows),
        build_table("Counts and normalisation", "Figure", ("Value",), about),
    )
    return list(filter(None, found))


def _sample(row: Figures) -> Sample:
    texts = [str(text) for text in row.get("completions") or ()]
    ranks, scores = (_beside(row.get(key), len(texts)) for key in ("ranks", "scores"))
    marks = [
        Mark(rank, score)
        for rank, score in zip(ranks, scores, strict=True)
        if rank is not None and score is not None
    ]
    answers = [
        Answer(text, PLAIN.show(score), COUNT.show(rank), _word(rank, score, marks))
        for text, rank, score in sorted(
            zip(texts, ranks, scores, strict=True), key=lambda own: _from_the_top(own[2])
        )
    ]
    return Sample(_turns(row.get("prompt")), answers, _order_note(marks))


def _turns(prompt: object) -> list[tuple[str, str]]:
    """Roles and texts of a prompt; plain text has no role."""
    if not isinstance(prompt, list | tuple):
        return [("", "" if prompt is None else str(prompt))]
    messages = [turn for turn in prompt if isinstance(turn, Mapping)]
    return [(str(turn.get("role") or ""), str(turn.get("content") or "")) for turn in messages]


def _beside(values: object, count: int) -> list[float | None]:
    """One number or None for each completion."""
    own = values if isinstance(values, list | tuple) else ()
    found = [number(value) for value in own[:count]]
    return found + [None] * (count - len(found))


def _from_the_top(score: float | None) -> float:
    return math.inf if score is None else -score


def _word(rank: float | None, score: float | None, marks: Sequence[Mark]) -> str:
    """How a score goes with the ranks of the others; empty where nothing tells."""
    others = [mark for mark in marks if mark.rank != rank]
    if rank is None or score is None or not others:
        return ""
    too_high = any(rank > other.rank and score > other.score for other in others)
    too_low = any(rank < other.rank and score < other.score for other in others)
    if not too_high and not too_low and any(score == other.score for other in others):
        return "scored the same"
    return _WORDS[too_high, too_low]


def _order_note(marks: Sequence[Mark]) -> str:
    """How many strict pairs the scores order as they were ranked; equal scores count half."""
    pairs = [(a, b) for a, b in combinations(marks, 2) if a.rank != b.rank]
    if not pairs:
        return ""
    right = sum(
        0.5 if a.score == b.score else float((a.score > b.score) == (a.rank < b.rank))
        for a, b in pairs
    )
    return f"{right:g} of {len(pairs)} pairs scored as ranked"
