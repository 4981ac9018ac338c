"""What is shown of tasks, rankings and texts: never where a text came from, nor whose it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from labeling_ui.api.wire import Json
from labeling_ui.render import direction, render
from rlhf.records import Prompt
from rlhf.store import Assignment, Decision

_CACHED_LENGTH = 8_000


def task_json(assignment: Assignment) -> Json:
    """Give a task as its annotator sees it, in shown order."""
    draft = assignment.draft
    return {
        "assignment": assignment.id,
        "kind": assignment.kind,
        "revision": assignment.revision,
        "prompt": prompt_json(assignment.prompt),
        "completions": [text_json(text) for text in assignment.completions],
        "current": assignment.current and decision_json(assignment.current),
        "draft": draft and {"seq": draft.seq, "body": dict(draft.body)},
    }


def prompt_json(prompt: Prompt) -> list[Json]:
    """Give the turns of a prompt."""
    return [{"role": turn.role, **text_json(turn.content)} for turn in prompt.messages]


def text_json(text: str) -> Json:
    """Give a text as it is, as safe HTML, and the direction in which it reads."""
    return {"text": text, "html": safe_html(text), "dir": direction(text)}


def safe_html(text: str) -> str:
    """Format a text; short ones are remembered, as a task is shown to several people."""
    return _remembered(text) if len(text) <= _CACHED_LENGTH else render(text)


def decision_json(decision: Decision, order: Sequence[int] | None = None) -> Json:
    """Give a decision; ``order`` says which of its places stands at each shown place."""
    ranks, flags = list(decision.ranks), decision.flags
    if order is not None:
        ranks = rearranged(ranks, order)
        flags = flags and tuple(flags[place] for place in order)
    return {
        "action": decision.action,
        "ranks": ranks,
        "others_worse": decision.others_worse,
        "flags": flags and [list(raised) for raised in flags],
        "strengths": decision.strengths and list(decision.strengths),
        "reason": decision.reason,
        "comment": decision.comment,
    }


def rearranged(ranks: Sequence[Any], order: Sequence[int]) -> list[Any]:
    """Put one value per candidate into another order; no values stay none."""
    return [ranks[place] for place in order] if ranks else []


@lru_cache(maxsize=1024)
def _remembered(text: str) -> str:
    return render(text)
