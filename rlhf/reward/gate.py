"""What speaks against optimising a reward model, as its card has it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

CHANCE = 0.5
MUST_BEAT = ("empty", "repeated", "copied prompt")
"""Probes that no reward model should like better than a good answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or that can't be told."""

    level: Literal["fail", "warn"]
    """``fail`` keeps PPO from starting."""
    check: str
    """``held out``, ``accuracy``, ``length rule``, ``normalization`` or ``probes``."""
    text: str
    remedy: str

    def to_json(self) -> dict[str, str]:
        """Give it as the card holds it."""
        return asdict(self)


def find_faults(card: Mapping[str, Any]) -> list[Finding]:
    """Check a card: accuracy, length rule, normalisation, order of the probes."""
    return [*_of_accuracy(card), *_of_normalization(card), *_of_probes(card)]


def rankings_to_settle(interval: Mapping[str, Any], bar: float, rankings: int) -> int | None:
    """Held-out rankings with which the interval would end where it now crosses ``bar``.

    Args:
        interval: ``value``, ``low``, ``high`` of an accuracy.
        bar: What it is compared with.
        rankings: Behind the interval now; its width falls with their square root.

    Returns:
        Their number, those of now included; None where the value is at the bar or the interval
        has no ends.
    """
    value, low = interval.get("value"), interval.get("low")
    if value is None or low is None or not value > bar:
        return None
    return math.ceil(rankings * float((value - low) / (value - bar)) ** 2)


def _of_accuracy(card: Mapping[str, Any]) -> Iterator[Finding]:
    accuracy = card.get("pair_accuracy") or {}
    value, low, high = (accuracy.get(key) for key in ("value", "low", "high"))
    if value is None:
        yield Finding(
            "fail",
            "held out",
            "no ranking was held out, so its accuracy is unknown",
            "rank more prompts or raise eval_fraction",
        )
        return
    rule = card.get("best_length_rule") or {}
    bars = [("accuracy", "chance", CHANCE)]
    if rule.get("value") is not None:
        bars.append(("length rule", f"the rule {rule['rule']!r}", rule["value"]))
    for check, name, bar in bars:
        if (value <= CHANCE and check == "accuracy") or (high is not None and high <= bar):
            yield Finding(
                "fail",
                check,
                f"held-out pair accuracy is {_shown(accuracy)}, not above {name} ({bar:.3f})",
                "rank more prompts, look at the annotators' agreement, or train it longer",
            )
        elif low is None or low <= bar:
            yield Finding(
                "warn",
                check,
                f"held-out pair accuracy is {_shown(accuracy)}, which does not exclude {name} "
                f"({bar:.3f})",
                _more(card, accuracy, bar),
            )


def _more(card: Mapping[str, Any], accuracy: Mapping[str, Any], bar: float) -> str:
    """How many rankings would settle it."""
    now = card.get("held_out_rankings") or 0
    needed = rankings_to_settle(accuracy, bar, now)
    if needed is None:
        return "hold out more rankings (eval_fraction) or rank more prompts"
    return (
        f"if it stays as good, {needed} held-out rankings would settle it: {needed - now} more "
        "than now"
    )


def _of_normalization(card: Mapping[str, Any]) -> Iterator[Finding]:
    constants = card.get("normalization") or {}
    mean, std = constants.get("mean"), constants.get("std")
    finite = [x for x in (mean, std) if isinstance(x, int | float) and math.isfinite(x)]
    if len(finite) < 2 or not finite[1] > 0 or finite == [0.0, 1.0]:
        yield Finding(
            "fail",
            "normalization",
            "its scores were never normalised, so kl_coef and score_clip would mean nothing",
            "train it with rlhf reward",
        )


def _of_probes(card: Mapping[str, Any]) -> Iterator[Finding]:
    probes = card.get("probes") or {}
    for name in MUST_BEAT:
        margin = (probes.get(name) or {}).get("margin") or {}
        value, high = margin.get("value"), margin.get("high")
        if value is None or value > 0:
            continue
        sure = high is not None and high <= 0
        yield Finding(
            "fail" if sure else "warn",
            "probes",
            f"it scores the probe {name!r} {-value:.2f} above good answers on average",
            "rank answers of that kind, so that it learns what they are worth",
        )


def _shown(interval: Mapping[str, Any]) -> str:
    low, high = interval.get("low"), interval.get("high")
    span = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{interval['value']:.3f}{span}"
