"""Would more rankings help? Reward models of growing shares of the rankings, and a line through."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rlhf.ops.learning_curve import LearningCurve, fit_learning_curve
from rlhf.records import Ranking

SHARES = (0.25, 0.5, 0.75)
MIN_PROMPTS = 20
"""With fewer prompts to train on, shares of them say nothing."""

Accuracy = dict[str, float | None]
"""``value``, ``low`` and ``high`` of a held-out pair accuracy."""


def learning_curve(
    train: Sequence[Ranking],
    accuracy_of: Callable[[Sequence[Ranking], str], Accuracy],
    accuracy: Accuracy,
) -> dict[str, Any] | None:
    """Train on shares of the rankings and forecast what more would bring.

    Args:
        train: All rankings trained on.
        accuracy_of: Trains a model on some of them, under a name, and measures it.
        accuracy: That of the model trained on all.

    Returns:
        ``points``, ``slope_per_doubling``, ``slope_error`` and ``rankings_for_one_point``, as
        the card holds them; None where prompts are too few or nothing is held out.
    """
    prompts = sorted({ranking.prompt.sha256 for ranking in train}, key=lambda sha: sha[16:])
    if len(prompts) < MIN_PROMPTS or accuracy["value"] is None:
        return None
    points = []
    for share in SHARES:
        kept = set(prompts[: round(share * len(prompts))])
        part = [ranking for ranking in train if ranking.prompt.sha256 in kept]
        found = accuracy_of(part, f"{share:.0%}".replace("%", "_percent"))
        points.append({"rankings": len(part), **_accuracy_point(found)})
    points.append({"rankings": len(train), **_accuracy_point(accuracy)})
    return {"points": points, **_forecast(points)}


def _accuracy_point(found: Accuracy) -> dict[str, float | None]:
    return {"accuracy": found["value"], "low": found["low"], "high": found["high"]}


def _forecast(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = [p for p in points if p["low"] is not None and p["high"] > p["low"]]
    curve = fit_learning_curve(
        [p["rankings"] for p in known],
        [p["accuracy"] for p in known],
        [(p["high"] - p["low"]) / (2.0 * 1.96) for p in known],
    )
    return {
        "slope_per_doubling": _finite(curve.slope),
        "slope_error": _finite(curve.slope_error),
        "rankings_for_one_point": _needed(curve),
    }


def _needed(curve: LearningCurve) -> dict[str, float | None] | None:
    needed = curve.rankings_needed()
    if needed is None:
        return None
    return dict(zip(("value", "low", "high"), map(_finite, needed), strict=True))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
