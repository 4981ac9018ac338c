"""The headline of the report: key figures, and whether they reached their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rlhf.report.reading import MODELS, STAGES, Figures, number, numbers, part
from rlhf.report.units import GAP, NATS, PERCENT, PLAIN, POINTS, Unit, duration, memory

Verdict = tuple[str, bool]
"""A short line on a target, and whether it was met."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A key figure."""

    label: str
    value: str
    span: str = ""
    lines: Sequence[str] = ()
    verdicts: Sequence[Verdict] = ()


def tiles(figures: Figures) -> list[Tile]:
    """The key figures."""
    found = (
        _pair_tile(figures),
        _win_tile(figures) or _score_win_tile(figures),
        _kl_tile(figures),
        _accuracy_tile(figures) or _score_tile(figures),
        _cost_tile(figures, "seconds", "Wall time", "Longest", duration, sum),
        _cost_tile(figures, "peak_memory_mb", "Peak memory", "Largest", memory, max),
    )
    return list(filter(None, found))


def _pair_tile(figures: Figures) -> Tile | None:
    reward, targets = part(figures, "reward_model"), part(figures, "targets")
    value, rule = number(reward.get("pair_accuracy")), number(reward.get("best_length_rule"))
    if value is None:
        return None
    against = reward.get("pair_accuracy_against")
    lines = [f"Against the {against}"] if against else []
    verdicts = _at_least(value, targets.get("pair_accuracy"))
    if rule is not None:
        side = "below" if rule <= value else "above"
        gap = GAP.show(abs(value - rule))
        lines.append(f"Best length rule: {PERCENT.show(rule)}, {gap} {side}")
        margin = targets.get("margin_over_length_rule")
        verdicts += _at_least(value - rule, margin, GAP, " above length")
    if ceiling := PERCENT.show(reward.get("ceiling")):
        noisy = PERCENT.show(reward.get("pair_accuracy_rankings"))
        lines.append(f"On held-out rankings: {noisy or '–'}; ceiling {ceiling}")
    shown = PERCENT.cell(reward, "pair_accuracy")
    return Tile("Reward model: pair accuracy", *shown, lines, verdicts)


def _win_tile(figures: Figures) -> Tile | None:
    ppo = part(figures, "ppo")
    value = number(ppo.get("true_win_rate"))
    if value is None:
        return None
    lines = ["Sampled against sampled, ties half; 50 % is no difference"]
    if greedy := PERCENT.show(ppo.get("true_win_rate_greedy")):
        lines.append(f"Greedy against greedy: {greedy}")
    if rates := numbers(part(ppo, "by_task"), "true_win_rate"):
        lowest = min(rates, key=rates.__getitem__)
        lines.append(f"Lowest of the tasks: {lowest}, {PERCENT.show(rates[lowest])}")
    verdicts = _at_least(value, part(figures, "targets").get("true_win_rate"))
    shown = PERCENT.cell(ppo, "true_win_rate")
    return Tile("PPO beats SFT, true preference", *shown, lines, verdicts)


def _score_win_tile(figures: Figures) -> Tile | None:
    shown = PERCENT.cell(part(figures, "ppo"), "score_win_rate")
    line = "Ties half; no judge of the true preference was given"
    return Tile("PPO beats SFT, by the score", *shown, [line]) if shown.text else None


def _kl_tile(figures: Figures) -> Tile | None:
    ppo = part(figures, "ppo")
    value, budget = number(ppo.get("kl")), number(ppo.get("kl_budget"))
    if value is None:
        return None
    verdicts: list[Verdict] = []
    if budget is not None and value <= budget:
        verdicts = [(f"KL {value:.1f} of a budget of {budget:g}", True)]
    elif budget is not None:
        verdicts = [(f"KL {value:.2f} is over the budget of {budget:g}", False)]
    lines = ["PPO from the SFT model, per completion"]
    if pretrained := NATS.show(ppo.get("kl_to_pretrained")):
        lines.append(f"From the base before SFT: {pretrained}")
    low, high = ppo.get("kl_interval") or (None, None)
    return Tile("KL", NATS.show(value), NATS.span(low, high), lines, verdicts)


def _accuracy_tile(figures: Figures) -> Tile | None:
    accuracy = part(figures, "task_accuracy")
    value, change = PERCENT.show(accuracy.get("ppo")), number(accuracy.get("change"))
    if not value:
        return None
    lines = _before(accuracy, PERCENT)
    if change is not None:
        lines.append("Change from SFT: " + "; ".join(filter(None, POINTS.cell(accuracy, "change"))))
    drop = number(part(figures, "targets").get("accuracy_drop"))
    verdicts: list[Verdict] = []
    if drop is not None and change is not None:
        verdicts = [_verdict(f"Drop of at most {drop * 100:g} points", change >= -drop)]
    return Tile("Task accuracy of PPO", value, "", lines, verdicts)


def _score_tile(figures: Figures) -> Tile | None:
    scores = {model: part(figures, "models", model, "sampled").get("score") for model in MODELS}
    value = PLAIN.show(scores["ppo"])
    return Tile("Mean score of PPO", value, "", _before(scores, PLAIN)) if value else None


def _before(values: Figures, unit: Unit) -> list[str]:
    """Base and SFT beside PPO."""
    shown = [(MODELS[name], unit.show(values.get(name))) for name in ("base", "sft")]
    line = ", ".join(f"{name} {value}" for name, value in shown if value)
    return [line] if line else []


def _cost_tile(
    figures: Figures,
    key: str,
    label: str,
    most: str,
    show: Callable[[object], str],
    join: Callable[[Iterable[float]], float],
) -> Tile | None:
    """What the whole job cost, or else its stages joined; a sum says of what it is one."""
    costs, whole = numbers(part(figures, "stages"), key), number(figures.get(key))
    lines = ["Whole job" if whole is not None else "Sum of the stages below"] if join is sum else []
    if costs:
        stage = max(costs, key=costs.__getitem__)
        lines.append(f"{most} stage: {STAGES.get(stage, stage)}, {show(costs[stage])}")
        whole = join(costs.values()) if whole is None else whole
    if whole is None:
        return None
    limit = number(part(figures, "targets").get(key))
    verdicts = [] if limit is None else [_verdict(f"Limit {show(limit)}", whole <= limit)]
    return Tile(label, show(whole), "", lines, verdicts)


def _at_least(value: float, target: object, unit: Unit = PERCENT, more: str = "") -> list[Verdict]:
    """Judge a share against a target, where there is one; say by how much it was missed."""
    wanted = number(target)
    if wanted is None:
        return []
    name = f"Target {wanted * 100:g}{unit.suffix}{more}"
    if value >= wanted:
        return [_verdict(name, True)]
    gap = GAP.show(wanted - value) if wanted - value >= 0.0005 else "less than 0.1 points"
    return [(f"{name}: missed by {gap}", False)]


def _verdict(target: str, is_met: bool) -> Verdict:
    return f"{target}: {'met' if is_met else 'missed'}", is_met
