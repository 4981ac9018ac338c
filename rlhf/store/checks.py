"""Pure checks and arithmetic of rankings: nothing here knows of a database."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rlhf.errors import DataError, StoreError
from rlhf.records import MAX_CANDIDATES, Candidate, Prompt, Ranking
from rlhf.store.contracts import (
    ACTIONS,
    UNCOUNTED,
    Gold,
    NewTask,
    Submission,
    SubmissionError,
)
from rlhf.store.hashes import folded

MAX_COMMENT = 4_000
MAX_NAME = 64
MAX_OVERLAP = 100
MAX_DRAFT = 32 * 1024
"""Bytes of a draft as JSON."""
MAX_TEXT = 200_000
MAX_ACTIVE_MS = 7 * 24 * 3600 * 1000

_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{8,64}")


def dense_ranks(ranks: Sequence[int | None]) -> tuple[int | None, ...]:
    """Close the gaps between tiers: ``[1, 3, 3, None]`` becomes ``(1, 2, 2, None)``."""
    tiers = sorted({rank for rank in ranks if rank is not None})
    dense = {rank: position for position, rank in enumerate(tiers, start=1)}
    return tuple(None if rank is None else dense[rank] for rank in ranks)


def annotator_key(name: str) -> str:
    """Give what makes two spellings of a name the same person's.

    Raises:
        StoreError: If no person's name looks like this.
    """
    if not isinstance(name, str):
        raise StoreError(f"annotator name {name!r} is not text")
    shown = unicodedata.normalize("NFC", name).strip()
    if not 1 <= len(shown) <= MAX_NAME or not shown.isprintable():
        raise StoreError(f"annotator name {name[:80]!r} must be 1 to {MAX_NAME} printable letters")
    return folded(name)


def shuffled(n_candidates: int, *seed: str) -> tuple[int, ...]:
    """Give a blind order: which candidate stands at each shown place."""
    order = list(range(n_candidates))
    random.Random("\x1f".join(seed)).shuffle(order)
    return tuple(order)


def merge_candidates(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Merge candidates with the same text, in order of appearance.

    Models that wrote the same text are named together: ``"sft + ppo"``.
    """
    models: dict[str, list[str]] = {}
    for candidate in candidates:
        wrote = models.setdefault(candidate.text, [])
        if candidate.model is not None and candidate.model not in wrote:
            wrote.append(candidate.model)
    return tuple(Candidate(text, " + ".join(wrote) or None) for text, wrote in models.items())


def effective_ranks(ranks: Sequence[int | None], others_worse: bool) -> tuple[int | None, ...]:
    """Put the unranked last, tied, where all others were called worse."""
    last = max((rank for rank in ranks if rank is not None), default=0) + 1
    return tuple(last if rank is None and others_worse else rank for rank in ranks)


def pair_orders(ranks: Sequence[int | None]) -> dict[tuple[int, int], int]:
    """Give, for each pair of ranked candidates, 1 (first better), -1 (second better) or 0 (tie)."""
    ranked = [(place, rank) for place, rank in enumerate(ranks) if rank is not None]
    return {
        (one, other): (first < second) - (first > second)
        for (one, first), (other, second) in combinations(ranked, 2)
    }


def gold_share(gold_ranks: Sequence[int | None], ranks: Sequence[int | None]) -> float | None:
    """Give the share of the known answer's strict pairs that somebody ordered the same way.

    A tie, or a pair of which one side is not ranked, counts half. None where the known answer
    has no strict pair.
    """
    known = {pair: order for pair, order in pair_orders(gold_ranks).items() if order}
    given = pair_orders(ranks)
    agreement = [1 + order * given.get(pair, 0) for pair, order in known.items()]
    return sum(agreement) / 2 / len(agreement) if agreement else None


def check_gold(gold: Gold, pool: str) -> None:
    """Refuse a known answer that can't be one; the number of ranks is the caller's to check.

    Raises:
        DataError: With what it must be.
    """
    if pool not in UNCOUNTED:
        raise DataError(f"a known answer goes with pool 'gold' or 'training', not {pool!r}")
    if any(rank is not None and type(rank) is not int for rank in gold.ranks):
        raise DataError("the ranks of a known answer must be whole numbers or null")
    if gold_share(gold.ranks, gold.ranks) is None:
        raise DataError("a known answer must put at least one candidate above another")
    if not is_text(gold.explanation) or len(gold.explanation) > MAX_COMMENT:
        raise DataError(f"an explanation must be text of at most {MAX_COMMENT} characters")


def task_sha256(prompt: Prompt, texts: Sequence[str]) -> str:
    """Identity of a task by content, whatever the order of its candidates."""
    content = json.dumps([prompt.sha256, sorted(texts)])
    return hashlib.sha256(content.encode()).hexdigest()


def check_task(task: NewTask, candidates: Sequence[Candidate]) -> None:
    """Refuse a task that could not be shown or stored; ``candidates`` are the merged ones.

    Raises:
        DataError: If a text, a count or a label is out of bounds.
    """
    texts = tuple(candidate.text for candidate in candidates)
    if len(texts) < 2:
        raise DataError(
            f"a task needs 2 to {MAX_CANDIDATES} different candidates; "
            f"the {len(task.candidates)} given are {len(texts)} after merging equal texts"
        )
    Ranking(task.prompt, texts, (None,) * len(texts))  # knows the bounds of counts and texts
    longest = max(len(task.prompt.text), *(len(text) for text in texts))
    if longest > MAX_TEXT:
        raise DataError(f"a text of {longest} characters is too long to rank (limit {MAX_TEXT})")
    if task.overlap < 1:
        raise DataError(f"overlap {task.overlap!r} must be a whole number from 1")
    if not _LABEL.fullmatch(task.pool) or len(task.pool) > 32:
        raise DataError(f"pool {task.pool!r} must be a short label such as 'normal'")
    if type(task.priority) not in (int, float) or not math.isfinite(task.priority):
        raise DataError(f"priority {task.priority!r} must be a number")
    if task.gold is not None:
        check_gold(task.gold, task.pool)
    check_json("meta", task.meta)


def check_json(name: str, value: Mapping[str, Any]) -> None:
    """Refuse what JSON can't hold, NaN included."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{name} can't be stored as JSON ({error})") from None


def check_submission(submission: Submission, n_candidates: int) -> None:
    """Refuse a submission that can't be true of ``n_candidates`` candidates.

    Raises:
        SubmissionError: With the value seen and what it must be.
    """
    check_request_id(submission.request_id)
    if submission.action not in ACTIONS:
        raise SubmissionError(f"action {submission.action!r} is not one of {', '.join(ACTIONS)}")
    _check_ranks(submission, n_candidates)
    _check_strengths(submission)
    _check_flags(submission.flags, n_candidates)
    _check_rest(submission)


def check_request_id(request_id: str) -> None:
    """Refuse what no client of ours makes up."""
    if not _is_match(_REQUEST_ID, request_id):
        raise SubmissionError("request_id must be 8 to 64 letters, digits, '.', '_', ':' or '-'")


def _check_ranks(submission: Submission, n_candidates: int) -> None:
    ranks = submission.ranks
    if len(ranks) not in (0, n_candidates):
        raise SubmissionError(f"{len(ranks)} ranks for {n_candidates} candidates; give one each")
    for rank in ranks:
        if rank is not None and (type(rank) is not int or not 1 <= rank <= n_candidates):
            raise SubmissionError(f"rank {rank!r} is not a whole number from 1 to {n_candidates}")
    ranked = sum(rank is not None for rank in ranks)
    if submission.action in ("skip", "cannot_judge") and ranked:
        raise SubmissionError(f"action {submission.action!r} goes with no ranks")
    if submission.action == "rank" and ranked < 2 and not (ranked and submission.others_worse):
        raise SubmissionError("rank at least two candidates, or one and say the rest is worse")


def _check_strengths(submission: Submission) -> None:
    if submission.strengths is None:
        return
    tiers = len({rank for rank in submission.ranks if rank is not None})
    if len(submission.strengths) != tiers - 1:
        raise SubmissionError(
            f"{len(submission.strengths)} strengths for {tiers} tiers; give one between each two"
        )
    if any(type(value) is not int or not 1 <= value <= 3 for value in submission.strengths):
        raise SubmissionError("a strength must be 1 (slightly), 2 (clearly) or 3 (much better)")


def _check_flags(flags: tuple[tuple[str, ...], ...] | None, n_candidates: int) -> None:
    if flags is None:
        return
    if len(flags) != n_candidates:
        raise SubmissionError(f"flags for {len(flags)} of {n_candidates} candidates; give all")
    for raised in flags:
        if len(raised) > 16 or not all(is_label(flag) for flag in raised):
            raise SubmissionError("a flag must be a short label such as 'off_topic'")


def _check_rest(submission: Submission) -> None:
    comment, reason = submission.comment, submission.reason
    if not is_text(comment) or len(comment) > MAX_COMMENT:
        raise SubmissionError(f"comment must be text of at most {MAX_COMMENT} characters")
    if reason != "" and not is_label(reason):
        raise SubmissionError("reason must be a short label such as 'too_long'")
    active = submission.active_ms
    if active is not None and (type(active) is not int or not 0 <= active <= MAX_ACTIVE_MS):
        raise SubmissionError(f"active_ms {active!r} must be milliseconds, at most a week")
    if type(submission.replaces) is not int or submission.replaces < 0:
        raise SubmissionError(f"replaces {submission.replaces!r} must be a revision number or 0")
    for name in ("others_worse", "simulated"):
        if type(getattr(submission, name)) is not bool:
            raise SubmissionError(f"{name} must be true or false")


def is_label(value: object) -> bool:
    """Say whether a value is a short label such as ``off_topic``."""
    return _is_match(_LABEL, value)


def is_text(value: object) -> bool:
    """Say whether a value is text that every store can hold: no NUL, no lone surrogate."""
    return isinstance(value, str) and not any(
        letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value
    )


def _is_match(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
