"""What the store takes and what it gives: frozen records, and the two ways to refuse a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf.errors import StoreError
from rlhf.records import Candidate, Prompt

ACTIONS = ("rank", "all_bad", "cannot_judge", "skip")
TASK_STATES = ("open", "done", "paused")
UNCOUNTED = ("gold", "training")
"""Pools that everyone gets once; their rankings tell of people, not of answers."""


class SubmissionError(StoreError):
    """A ranking that can't be true: wrong owner, wrong length, impossible ranks."""


class RevisionError(StoreError):
    """A ranking or review of a task of which the person did not see the newest one stored."""


@dataclass(frozen=True, slots=True)
class Gold:
    """The known answer of a task by which people are measured or trained."""

    ranks: tuple[int | None, ...]
    """1 is best, equal is a tie, None is not ranked; in the order of the candidates."""
    explanation: str = ""
    """Markdown that tells why; shown after a training task."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """A prompt and the candidates that people are to rank."""

    prompt: Prompt
    candidates: tuple[Candidate, ...]
    overlap: int = 1
    """How many people rank it."""
    pool: str = "normal"
    """A short label by which its rankings are told apart later.

    Of ``normal`` tasks a share becomes ``random`` (see ``Settings.random_share``). ``gold`` and
    ``training`` tasks go to everyone once. Other labels are handed out as ``normal`` ones are.
    """
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that travel with its rankings as ``meta["task_meta"]``."""
    gold: Gold | None = None
    """The known answer, for the pools ``gold`` and ``training``."""
    priority: float = 0.0
    """Tasks of a higher priority are given first; the random pool ignores it."""


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
    priority: float = 0.0
    paused: bool = False
    """A paused task is given to nobody."""
    gold: Gold | None = None


@dataclass(frozen=True, slots=True)
class AddedTasks:
    """What became of tasks handed to ``add_tasks``."""

    ids: tuple[int | None, ...]
    """Task ids in the order given; None where fewer than two different candidates were left."""
    added: int
    known: int
    skipped: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided about a task; its owner says in which order the candidates are."""

    action: str = "rank"
    ranks: tuple[int | None, ...] = ()
    """One per candidate, dense; None is not ranked."""
    others_worse: bool = False
    flags: tuple[tuple[str, ...], ...] | None = None
    strengths: tuple[int, ...] | None = None
    reason: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """What an annotator had on the screen and did not submit."""

    seq: int
    """Grows with each draft of an assignment."""
    body: Mapping[str, Any]


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
    kind: str = "ranking"
    """``training`` where feedback follows; a gold task looks like any other."""
    revision: int = 0
    """Newest stored revision; 0 when nothing is stored."""
    draft: Draft | None = None
    current: Decision | None = None
    """The newest stored decision, in SHOWN order."""


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
class Feedback:
    """What follows a training task."""

    ranks: tuple[int | None, ...]
    """The known answer, in SHOWN order."""
    explanation: str
    share: float
    """Share of the known pairs that the annotator ordered alike; see ``gold_share``."""
    passed: bool


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """Acknowledgement of a stored ranking; it is on disk."""

    request_id: str
    revision: int
    late: bool
    """True when its place was no longer held; the ranking is kept all the same."""
    assignment_id: int
    feedback: Feedback | None = None
    """For training tasks alone; a skipped one has none."""


@dataclass(frozen=True, slots=True)
class OwnRanking:
    """An annotator's own ranking, everything in SHOWN order."""

    assignment_id: int
    ranking_id: int
    prompt: Prompt
    completions: tuple[str, ...]
    decision: Decision
    revision: int
    submitted_ms: int
    late: bool
    kind: str
    """As in ``Assignment``."""
    notes: tuple[str, ...] = ()
    """What reviewers wrote, oldest first."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts over the whole store; a ranking is counted once however often corrected.

    Tasks of the pools ``gold`` and ``training``, and their rankings, are not counted.
    """

    tasks: int
    open: int
    """Tasks that still need people and are not paused."""
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
    paused: int = 0
    """Tasks that still need people and are paused."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What one annotator may know of the whole; gold and training tasks are not counted."""

    tasks: int
    open: int
    """Tasks that still need people, those on somebody's screen included."""
    mine: int
    """Tasks that this annotator has ranked, of any pool; skipped ones don't count."""
    today: int = 0
    """Those of them ranked since midnight, by the clock of this machine."""
    paused: bool = False
    """True when the annotator gets no task for now."""
    median_active_ms: int | None = None
    """Median time spent on the last 50 that have one."""
    last_hour: int = 0
    """Those ranked in the last hour."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a store hands out its tasks and what its pages show; see ``change_settings``."""

    random_share: float = 0.2
    """Share of ``normal`` tasks, by prompt, that become ``random`` when added, and share of claims
    that are answered from there first."""
    max_overlap: int = 3
    """Up to how many people rank a task over which the first ones disagree; 0 asks no more."""
    gold_every: int = 10
    """Every so many tasks of a person one is a gold task; 0 gives none."""
    training_pass: float = 0.75
    """Share of the known pairs from which a training task is passed."""
    lease_seconds: int = 1800
    """How long a place is held for who took it."""
    flags: tuple[str, ...] = (
        "fails_instruction",
        "wrong",
        "harmful",
        "wrong_language",
        "private_data",
        "cut_off",
    )
    """Labels that an annotator may put on an answer."""
    strengths: bool = False
    """Whether annotators are asked how much better a tier is than the next."""
    guidelines: str = ""
    """Markdown that annotators read."""
    guidelines_version: int = 0
    """Grows with each change of the guidelines."""


@dataclass(frozen=True, slots=True)
class ImportedRankings:
    """What became of imported rankings."""

    added: int
    known: int
    """Rankings that the store held already, by id."""
