"""Held-out sets that stay held out: by hash of the prompt, never by chance or order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from rlhf.records import Prompt

Item = TypeVar("Item")


def _prompt_of(item: Any) -> Prompt:
    prompt: Prompt = item.prompt
    return prompt


def split_by_prompt(
    items: Iterable[Item], fraction: float, key: Callable[[Item], Prompt] = _prompt_of
) -> tuple[list[Item], list[Item]]:
    """Split into (train, held out) so that no prompt is on both sides.

    A prompt is held out when its sha256, read as a number in [0, 1), is below ``fraction``. So
    the choice depends on nothing but the prompt: order, other rows and seed don't matter, a
    larger fraction holds out a superset, and a prompt held out in one stage is held out in every
    stage with the same fraction. The share of rows is ``fraction`` only on average: a handful of
    prompts may leave the held-out side empty. The train side never is: where every prompt would
    be held out, the one with the largest hash is kept for training.

    Args:
        items: Records; order is kept on both sides.
        fraction: Share of prompts to hold out, in [0, 1); 0 holds out none.
        key: The prompt of an item.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), got {fraction}")
    rows = [(int(key(item).sha256[:16], 16) / 2**64, item) for item in items]
    if not rows:
        return [], []
    bound = min(fraction, max(position for position, _ in rows))
    train = [item for position, item in rows if position >= bound]
    return train, [item for position, item in rows if position < bound]
