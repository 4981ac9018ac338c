"""Several reward models on one base, and how far they disagree."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.ops.scores import ensemble_disagreement
from rlhf.records import Prompt, Ranking
from rlhf.reward.model import RewardModel

DISAGREEMENT_FILE = "disagreement.jsonl"


def member_folder(run_folder: Path, number: int) -> Path:
    """Run folder of one member, from 1."""
    return run_folder / f"member_{number}"


def member_folders(run_folder: str | Path) -> list[Path]:
    """Run folders of an ensemble's members in order; the run's own where it is no ensemble."""
    found: list[Path] = []
    while (folder := member_folder(Path(run_folder), len(found) + 1)).is_dir():
        found.append(folder)
    return found or [Path(run_folder)]


def bootstrap(rankings: Sequence[Ranking], seed: int, member: int) -> list[Ranking]:
    """As many prompts as there are, drawn with replacement, each with all of its rankings."""
    by_prompt: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        by_prompt.setdefault(ranking.prompt.sha256, []).append(ranking)
    groups = list(by_prompt.values())
    draw = random.Random(f"bootstrap/{seed}/{member}")
    return [ranking for group in draw.choices(groups, k=len(groups)) for ranking in group]


class Ensemble:
    """Reward models on one base whose mean is one score; also a single one."""

    def __init__(self, models: Sequence[RewardModel]) -> None:
        self.models = tuple(models)

    def score_members(self, pairs: Sequence[tuple[Prompt, str]]) -> Tensor:
        """Normalised scores of every member, float32 (M, B)."""
        return torch.stack([model.score_texts(pairs) for model in self.models])

    def score_texts(self, pairs: Sequence[tuple[Prompt, str]]) -> Tensor:
        """Mean of the members' normalised scores, float32 (B,)."""
        return self.score_members(pairs).mean(dim=0)

    def count_tokens(self, completion: str) -> int:
        """Tokens of a completion with its end token."""
        return self.models[0].count_tokens(completion)

    @property
    def normalization(self) -> dict[str, float]:
        """Mean over the members of what their heads take off (``mean``) and divide by (``std``)."""
        count = len(self.models)
        return {
            "mean": sum(float(model.head.mean) for model in self.models) / count,
            "std": sum(float(model.head.std) for model in self.models) / count,
        }

    def sample_row(self, ranking: Ranking) -> dict[str, Any]:
        """A ranking beside the scores of its completions, for people to read."""
        scores = self.score_texts([(ranking.prompt, text) for text in ranking.completions])
        return {
            "prompt": ranking.prompt.to_json(),
            "completions": list(ranking.completions),
            "ranks": list(ranking.effective_ranks),
            "scores": [round(score, 4) for score in scores.tolist()],
        }

    def disagreements(
        self, tasks: Sequence[tuple[Prompt, tuple[str, ...]]]
    ) -> Iterator[dict[str, Any]]:
        """Yield each prompt with how far the members are apart, for choosing what to rank next.

        ``disagreement`` is the mean over its completions of the standard deviation between
        members; ``best_votes`` the largest share of members that agree on the best completion.
        """
        pairs = [(prompt, text) for prompt, texts in tasks for text in texts]
        if not pairs:
            return
        scores = self.score_members(pairs)
        parts = torch.split(scores, [len(texts) for _, texts in tasks], dim=1)
        for (prompt, texts), own in zip(tasks, parts, strict=True):
            votes = own.argmax(dim=1)
            yield {
                "prompt_sha256": prompt.sha256,
                "prompt": prompt.to_json(),
                "completions": list(texts),
                "scores": [round(x, 4) for x in own.mean(dim=0).tolist()],
                "disagreement": float(ensemble_disagreement(own).mean()),
                "best_votes": float(votes.bincount().max()) / len(own),
            }
