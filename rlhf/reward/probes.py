"""Probes of a reward model: answers that should score below a good one, on held-out prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.records import Demonstration, Prompt, Ranking

PROBE_PROMPTS = 64
VARIANTS = ("empty", "truncated", "repeated", "copied prompt", "thanks", "refusal")

_REPEATS = 4
_THANKS = "Thanks!"
_REFUSAL = "I'm sorry, but I can't help with that."


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt with a good answer and worse ones."""

    prompt: Prompt
    reference: str
    variants: dict[str, str]
    """By name, some or all of ``VARIANTS``."""


def build_probes(
    rankings: Sequence[Ranking],
    demonstrations: Sequence[Demonstration] = (),
    *,
    limit: int = PROBE_PROMPTS,
) -> list[Probe]:
    """Probes of the prompts of rankings, at most ``limit``, in the order of their sha256.

    The reference is the first demonstration of the prompt; without one, the best-ranked
    completion with any text of the first ranking that has such. Prompts with neither are left
    out.
    """
    references: dict[Prompt, str] = {}
    for item in demonstrations:
        references.setdefault(item.prompt, item.completion)
    for ranking in rankings:
        best = _best_completion(ranking)
        if best is not None:
            references.setdefault(ranking.prompt, best)
    asked = sorted({ranking.prompt for ranking in rankings}, key=lambda prompt: prompt.sha256)
    return [
        Probe(prompt, references[prompt], degraded(prompt, references[prompt]))
        for prompt in [prompt for prompt in asked if prompt in references][:limit]
    ]


def degraded(prompt: Prompt, reference: str) -> dict[str, str]:
    """Worse answers by name, in the order of ``VARIANTS``.

    ``truncated`` ends after the first half of the reference's words, rounded down, and is absent
    for fewer than two words; ``copied prompt`` is the last user turn, absent without one.
    """
    words = list(re.finditer(r"\S+", reference))
    asked = [message.content for message in prompt.messages if message.role == "user"]
    texts = {
        "empty": "",
        "truncated": reference[: words[len(words) // 2 - 1].end()] if len(words) > 1 else None,
        "repeated": " ".join([reference] * _REPEATS),
        "copied prompt": asked[-1] if asked else None,
        "thanks": _THANKS,
        "refusal": _REFUSAL,
    }
    return {name: text for name, text in texts.items() if text is not None}


def _best_completion(ranking: Ranking) -> str | None:
    ranked = [
        (rank, text)
        for rank, text in zip(ranking.effective_ranks, ranking.completions, strict=True)
        if rank is not None and text.strip()
    ]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None
