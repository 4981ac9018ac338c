"""The reward card on disk: figures as JSON beside their page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.checkpoints import write_json, write_text
from rlhf.errors import CheckpointError
from rlhf.records import Demonstration, Ranking
from rlhf.report import render_reward_card
from rlhf.reward.card import build_card
from rlhf.reward.ensemble import Ensemble
from rlhf.reward.gate import find_faults

CARD_FILE = "reward_card.json"
PAGE_FILE = "reward_card.html"
SAMPLES = 8
"""Rankings shown on the page."""


def measure(
    scorer: Ensemble,
    measured: Sequence[Ranking],
    *,
    demonstrations: Sequence[Demonstration],
    rankings: Sequence[Ranking],
    train_rankings: int | None,
) -> dict[str, Any]:
    """The card of one model or of several, with what speaks against it.

    Args:
        scorer: The models.
        measured: Rankings that they were not trained on.
        demonstrations: Scored beside them.
        rankings: Everything that people ranked, for their agreement.
        train_rankings: How many the models learnt from; None where it is not known.
    """
    constants = scorer.normalization
    figures = build_card(
        scorer.score_texts,
        scorer.count_tokens,
        measured,
        std=constants["std"],
        demonstrations=demonstrations,
        rankings_for_agreement=rankings,
    )
    card = figures | {
        "normalization": constants,
        "base_fingerprint": scorer.models[0].roles.base.fingerprint,
        "simulated": any(ranking.simulated for ranking in rankings),
        "train_rankings": train_rankings,
        "learning_curve": None,
    }
    return card | {"findings": [finding.to_json() for finding in find_faults(card)]}


def finding_lines(card: Mapping[str, Any]) -> tuple[str, ...]:
    """A card's findings, a line each, for the terminal."""
    return tuple(f"{f['level']}: {f['text']}; {f['remedy']}" for f in card["findings"])


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
