"""What the store takes and what it gives: frozen records, and the two ways to refuse a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf.errors import StoreError
from rlhf.records import Candidate, Prompt

ACTIONS = ("rank", "all_bad", "cannot_judge", "skip")


class SubmissionError(StoreError):
    """A ranking that can't be true: wrong owner, wrong length, impossible ranks."""


class RevisionError(StoreError):
    """A ranking of a task whose stored ranking is not the one that the annotator saw."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """A prompt and the candidates that people are to rank."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    overlap: int = 1
    """How many people rank it."""
    pool: str = "normal"
    """A short label by which its rankings are told apart later."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that travel with its rankings as ``meta["task_meta"]``."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task as stored; candidates with the same text are merged into one."""

    id: int
    sha256: str
    """Identity by content: the prompt and its candidate texts in any order."""
    prompt: Prompt
    candidates: tuple[Candidate, ...]
    overlap: int
    pool: str
    meta: Mapping[str, Any]
    done: int
    """How many people have ranked it; who skipped it does not count."""


@dataclass(frozen=True, slots=True)
class AddedTasks:
    """What became of tasks handed to ``add_tasks``."""

    ids: tuple[int | None, ...]
    """Task ids in the order given; None where fewer than two different candidates were left."""
    added: int
    known: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """A task as one annotator sees it: blind, in an order of its own."""

    id: int
    task_id: int
    prompt: Prompt
    completions: tuple[str, ...]
    """Candidate texts in SHOWN order; ranks are submitted in this order."""
    lease_until: float
    """Unix time until which nobody else is given this place."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What an annotator decided, everything in SHOWN order."""

    request_id: str
    """Made by the client; sending the same submission again stores nothing twice."""
    ranks: tuple[int | None, ...] = ()
    """1 is best, equal is a tie, None is not ranked; empty means nothing is ranked."""
    action: str = "rank"
    reason: str = ""
    """A short label that says why, for ``skip`` and ``cannot_judge``."""
    comment: str = ""
    flags: tuple[tuple[str, ...], ...] | None = None
    """Per candidate, short labels of what is wrong with it."""
    strengths: tuple[int, ...] | None = None
    """How much better each tier is than the next: 1 slightly, 2 clearly, 3 much."""
    others_worse: bool = False
    """True when every unranked candidate is worse than the ranked ones."""
    active_ms: int | None = None
    """Time spent on the task."""
    simulated: bool = False
    """True when a program decided."""
    replaces: int = 0
    """Revision that this one corrects; 0 for a first ranking."""


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """Acknowledgement of a stored ranking; it is on disk."""

    request_id: str
    revision: int
    late: bool
    """True when the lease had run out; the ranking is kept all the same."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts over the whole store; a ranking is counted once however often corrected."""

    tasks: int
    open: int
    """Tasks that still need people."""
    done: int
    surplus: int
    """Rankings beyond the wanted overlap: submits that came after their lease ran out."""
    rankings: int
    """Current rankings with the action ``rank`` or ``all_bad`` or ``cannot_judge``."""
    simulated: int
    """Those of them that a program made."""
    skipped: int
    by_annotator: Mapping[str, int]
    """``rankings`` by pseudonym."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What one annotator may know of the whole."""

    tasks: int
    open: int
    """Tasks that still need people, those on somebody's screen included."""
    mine: int
    """Tasks that this annotator has ranked; skipped ones don't count."""


@dataclass(frozen=True, slots=True)
class ImportedRankings:
    """What became of imported rankings."""

    added: int
    known: int
    """Rankings that the store held already, by id."""
