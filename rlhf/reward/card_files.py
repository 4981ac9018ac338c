"""The reward card on disk: figures as JSON beside their page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.checkpoints import write_json, write_text
from rlhf.errors import CheckpointError
from rlhf.report import render_reward_card
from rlhf.reward.gate import find_faults

CARD_FILE = "reward_card.json"
PAGE_FILE = "reward_card.html"


def complete_card(
    card: Mapping[str, Any],
    *,
    mean: float,
    std: float,
    base_fingerprint: str,
    simulated: bool,
    train_rankings: int | None,
) -> dict[str, Any]:
    """Add what figures alone don't tell, and what speaks against the model."""
    whole = dict(card) | {
        "normalization": {"mean": mean, "std": std},
        "base_fingerprint": base_fingerprint,
        "simulated": simulated,
        "train_rankings": train_rankings,
        "learning_curve": None,
    }
    return whole | {"findings": [finding.to_json() for finding in find_faults(whole)]}


def write_card(folder: Path, card: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
    """Write ``reward_card.json`` and its page."""
    write_json(folder / CARD_FILE, card)
    write_text(folder / PAGE_FILE, render_reward_card(card, samples=samples))


def read_card(run_folder: str | Path) -> dict[str, Any]:
    """Read the card of a reward run.

    Raises:
        CheckpointError: If it is missing or broken.
    """
    path = Path(run_folder) / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the reward card can't be read ({error}); rebuild it with rlhf reward-card"
        ) from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{path}: is no reward card; rebuild it with rlhf reward-card")
    return card
