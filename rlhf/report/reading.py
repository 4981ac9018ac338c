"""How the report reads its figures: whatever is missing or not finite counts as absent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]

MODELS = {"base": "Base", "sft": "SFT", "ppo": "PPO"}
STAGES = {
    "sft": "SFT",
    "sample": "Sampling candidates",
    "rank": "Ranking",
    "reward": "Reward model",
    "ppo": "PPO",
    "evaluation": "Evaluation",
}


def part(figures: Figures, *names: str) -> Figures:
    """A section of the figures, by its path; empty where there is none."""
    for name in names:
        inner = figures.get(name)
        figures = inner if isinstance(inner, Mapping) else {}
    return figures


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def numbers(sections: Figures, key: str) -> dict[str, float]:
    """One figure of every section that has it."""
    found = {name: number(part(sections, name).get(key)) for name in sections}
    return {name: value for name, value in found.items() if value is not None}
