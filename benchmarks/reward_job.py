"""The job of ``reward_vs_trl.py``: rankings of random tokens. Standard library only."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from job import FIRST_WORD

Row = dict[str, Any]
"""``prompt``: token ids; ``answers``: token ids of each answer, best first. No end tokens."""


@dataclass(frozen=True, slots=True)
class RewardJob:
    """What a worker is told; it lies in its folder as JSON."""

    base: str
    """Model and tokenizer, as transformers saves them."""
    rows: list[Row]
    """In the order they are trained on."""
    candidates: int
    """Answers per prompt."""
    prompts_per_step: int
    learning_rate: float
    seed: int
    lora_rank: int
    lora_alpha: int
    held_out: list[Row]
    """Scored after training; may be empty."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return len(self.rows) // self.prompts_per_step

    @property
    def comparisons(self) -> int:
        """Pairs of one step."""
        return self.prompts_per_step * pairs_of(self.candidates)

    def write(self, folder: Path) -> None:
        """Put it into a worker's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "reward_job.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what ``write`` wrote."""
        return cls(**json.loads((folder / "reward_job.json").read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class Planted:
    """Rankings by a hidden utility: a sum of word weights, and noise."""

    words: int = 32
    """Different words; each has a weight, normal with standard deviation 1."""
    prompt_tokens: int = 16
    answer_tokens: int = 24
    candidates: int = 4
    noise: float = 0.3
    """Standard deviation of the noise, as a share of the utility's own."""
    train: int = 400
    """Prompts."""
    held_out: int = 200

    def rows(self, seed: int) -> tuple[list[Row], list[Row], float]:
        """Training rows, held-out rows, and the held-out pair accuracy of the utility itself."""
        draw = random.Random(f"planted/{seed}")
        weights = {FIRST_WORD + at: draw.gauss(0, 1) for at in range(self.words)}
        noise = self.noise * math.sqrt(self.answer_tokens)

        def row() -> Row:
            prompt = draw.choices(list(weights), k=self.prompt_tokens)
            answers = [draw.choices(list(weights), k=self.answer_tokens) for _ in range(count)]
            felt = [sum(weights[word] for word in own) + draw.gauss(0, noise) for own in answers]
            order = sorted(range(count), key=lambda at: -felt[at])
            return {"prompt": prompt, "answers": [answers[at] for at in order]}

        count = self.candidates
        rows = [row() for _ in range(self.train + self.held_out)]
        train, held_out = rows[: self.train], rows[self.train :]
        utility = [[sum(weights[word] for word in own) for own in r["answers"]] for r in held_out]
        return train, held_out, pair_accuracy(utility)


def random_rows(
    *, vocab: int, count: int, candidates: int, prompt_tokens: int, answer_tokens: int
) -> list[Row]:
    """Rankings of random words, with nothing to learn."""
    draw = random.Random(candidates)
    words = range(FIRST_WORD, vocab)
    return [
        {
            "prompt": draw.choices(words, k=prompt_tokens),
            "answers": [draw.choices(words, k=answer_tokens) for _ in range(candidates)],
        }
        for _ in range(count)
    ]


def pairs_of(candidates: int) -> int:
    """Comparisons in a ranking without ties."""
    return candidates * (candidates - 1) // 2


def expanded(rows: Sequence[Row], end: int) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids of every comparison, the better one first: prompt, answer, end token."""
    for row in rows:
        for better, worse in combinations(row["answers"], 2):
            yield [*row["prompt"], *better, end], [*row["prompt"], *worse, end]


def pair_accuracy(scores: Sequence[Sequence[float]]) -> float:
    """Share of comparisons in which the better answer, which comes first, scores more."""
    pairs = [pair for own in scores for pair in combinations(own, 2)]
    return sum(better > worse for better, worse in pairs) / len(pairs)
