"""What the demo trains and is measured on: demonstrations and prompts, by count and seed.

Nothing here overlaps with the base's pretraining corpus, nor ``test`` with ``train``: see
``rlhf.demo.world.split_of``.
"""

from __future__ import annotations

import random

from rlhf.demo.answers import draw_answer
from rlhf.demo.world import TASKS, Split, TaskPrompt, draw_prompt
from rlhf.records import Demonstration, Prompt

GOOD_SHARE = 0.78
"""Share of demonstrations without a flaw: simulated people make mistakes too."""


def prompts(count: int, seed: int, *, split: Split = "train") -> list[TaskPrompt]:
    """Draw distinct prompts, the four tasks in turn.

    The list for a smaller ``count`` is the beginning of that for a larger one.
    """
    rng = random.Random(f"prompts/{split}/{seed}")
    drawn: dict[str, TaskPrompt] = {}
    while len(drawn) < count:
        prompt = draw_prompt(rng, split, TASKS[len(drawn) % len(TASKS)])
        drawn.setdefault(prompt.text, prompt)
    return list(drawn.values())


def demonstrations(
    count: int, seed: int, *, split: Split = "train", good_share: float = GOOD_SHARE
) -> list[Demonstration]:
    """Draw prompts with a simulated person's answer, most of them good."""
    rng = random.Random(f"demonstrations/{split}/{seed}")
    return [
        Demonstration(
            Prompt.parse(prompt.text),
            draw_answer(prompt, rng, good_share=good_share),
            task=prompt.task,
        )
        for prompt in prompts(count, seed, split=split)
    ]
