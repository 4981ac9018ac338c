"""The ranking store: tasks, leases and append-only rankings in one SQLite file."""

from rlhf.store.contracts import (
    AddedTasks,
    Assignment,
    ImportedRankings,
    NewTask,
    Progress,
    RevisionError,
    Standing,
    Submission,
    SubmissionError,
    SubmitResult,
    Task,
)
from rlhf.store.store import RankingStore

__all__ = [
    "AddedTasks",
    "Assignment",
    "ImportedRankings",
    "NewTask",
    "Progress",
    "RankingStore",
    "RevisionError",
    "Standing",
    "Submission",
    "SubmissionError",
    "SubmitResult",
    "Task",
]
