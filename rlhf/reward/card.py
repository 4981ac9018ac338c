"""The reward card: what a reward model is worth on rankings that it never saw."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.ops.metrics import clustered_ratio_interval, pair_outcomes
from rlhf.records import Demonstration, Prompt, Ranking

CARD_FILE = "reward_card.json"

ScoreTexts = Callable[[Sequence[tuple[Prompt, str]]], Tensor]
"""Normalised scores of completions, float32 (B,)."""


def build_card(
    score_texts: ScoreTexts,
    count_tokens: Callable[[str], int],
    rankings: Sequence[Ranking],
    *,
    demonstrations: Sequence[Demonstration] = (),
) -> dict[str, Any]:
    """Held-out figures: pair accuracy beside what a rule on length alone would reach."""
    prompts, lengths, outcomes = [], [], []
    scores = score_texts([(r.prompt, text) for r in rankings for text in r.completions])
    start = 0
    for ranking in rankings:
        ranks = torch.tensor([rank or 0 for rank in ranking.effective_ranks])
        own = scores[start : start + len(ranks)]
        start += len(ranks)
        size = torch.tensor([float(count_tokens(text)) for text in ranking.completions])
        prompts.append(ranking.prompt.sha256)
        outcomes.append(pair_outcomes(own, ranks))
        lengths.append(pair_outcomes(size, ranks))
    longer = _ratio(prompts, lengths)
    rule = "longer wins" if not longer["value"] or longer["value"] >= 0.5 else "shorter wins"
    best = None if longer["value"] is None else max(longer["value"], 1 - longer["value"])
    return {
        "held_out_prompts": len({ranking.prompt.sha256 for ranking in rankings}),
        "held_out_pairs": sum(pairs for pairs, _ in outcomes),
        "pair_accuracy": _ratio(prompts, outcomes),
        "longer_wins": longer["value"],
        "shorter_wins": None if longer["value"] is None else 1 - longer["value"],
        "best_length_rule": {"rule": rule, "value": best},
    }


def _ratio(
    prompts: Sequence[str], outcomes: Sequence[tuple[int, float]]
) -> dict[str, float | None]:
    """Pair accuracy with an interval whose independent units are prompts, not rankings."""
    right: dict[str, float] = defaultdict(float)
    count: dict[str, float] = defaultdict(float)
    for prompt, (pairs, points) in zip(prompts, outcomes, strict=True):
        count[prompt] += pairs
        right[prompt] += points
    found = clustered_ratio_interval([right[p] for p in count], list(count.values()))
    value, low, high = (None if math.isnan(x) else x for x in found)
    if low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return {"value": value, "low": low, "high": high}
