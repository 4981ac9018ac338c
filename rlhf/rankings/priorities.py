"""``rlhf rankings prioritise``: first the prompts of which a reward model knows least."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from rlhf.config import RankingsPrioritiseConfig
from rlhf.data.rows import read_rows
from rlhf.errors import DataError, StoreError
from rlhf.store import RankingStore

Figures = dict[str, float | str]


def prioritise(config: RankingsPrioritiseConfig) -> Figures:
    """Give the tasks of a store priorities from a file of the reward stage.

    Of several rows of a prompt the highest counts; the random pool ignores priorities.

    Raises:
        DataError: With ``file:line`` of the first row that can't be used.
        StoreError: If no task is of these prompts.
    """
    path = Path(config.disagreement)
    priorities: dict[str, float] = {}
    for row in read_rows(path):
        try:
            prompt, value = _sha256(row.fields), _VALUES[config.by](row.fields)
        except DataError as error:
            raise DataError(f"{row.place}: {error}") from None
        priorities[prompt] = max(value, priorities.get(prompt, -math.inf))
    if not priorities:
        raise DataError(f"{path}: has no rows")
    with RankingStore.open(config.store, create=False) as store:
        changed = store.set_priorities(priorities)
    if not changed:
        raise StoreError(
            f"{config.store}: no task is of a prompt of {path}; give the reward run's file of this "
            "store"
        )
    return {
        "by": config.by,
        "prompts": len(priorities),
        "tasks": changed,
        "lowest": min(priorities.values()),
        "highest": max(priorities.values()),
        "store": config.store,
    }


def pair_entropy(scores: Iterable[float]) -> float:
    """Mean entropy in bits of which of two completions is better, by Bradley and Terry's model.

    1 where the scores are equal, near 0 where they are far apart.
    """
    entropies = [_binary_entropy(abs(one - other)) for one, other in combinations(scores, 2)]
    return sum(entropies) / len(entropies)


def _binary_entropy(margin: float) -> float:
    # With p = 1 / (1 + e) and e = exp(-margin): neither term loses digits at large margins.
    e = math.exp(-margin)
    return (math.log1p(e) + margin * e / (1 + e)) / math.log(2)


def _sha256(fields: Mapping[str, Any]) -> str:
    value = fields.get("prompt_sha256")
    if not isinstance(value, str):
        raise DataError("'prompt_sha256' is missing; give the reward run's disagreement.jsonl")
    return value


def _disagreement(fields: Mapping[str, Any]) -> float:
    return _number("disagreement", fields.get("disagreement"))


def _entropy(fields: Mapping[str, Any]) -> float:
    if "entropy" in fields:
        return _number("entropy", fields["entropy"])
    scores = fields.get("scores")
    if not isinstance(scores, list) or len(scores) < 2:
        raise DataError("'entropy', or 'scores' of two completions or more, is missing")
    return pair_entropy([_number("scores", score) for score in scores])


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{name!r} must hold numbers, not {value!r:.40}")
    return float(value)


_VALUES = {"disagreement": _disagreement, "entropy": _entropy}
