"""The ranking store: tasks, leases, append-only rankings, people and reviews in one database."""

from rlhf.store.checks import gold_share
from rlhf.store.contracts import (
    AddedTasks,
    Assignment,
    Decision,
    Draft,
    Feedback,
    Gold,
    ImportedRankings,
    NewTask,
    OwnRanking,
    Progress,
    RevisionError,
    Settings,
    Standing,
    Submission,
    SubmissionError,
    SubmitResult,
    Task,
)
from rlhf.store.hashes import failure_subject
from rlhf.store.people import Account, AuditEntry, People
from rlhf.store.reviews import Review, ReviewRanking, Reviews, ReviewTask, Verdict
from rlhf.store.snapshot import Covered, Lease, Ranked, RankedTask, Snapshot
from rlhf.store.store import RankingStore

__all__ = [
    "Account",
    "AddedTasks",
    "Assignment",
    "AuditEntry",
    "Covered",
    "Decision",
    "Draft",
    "Feedback",
    "Gold",
    "ImportedRankings",
    "Lease",
    "NewTask",
    "OwnRanking",
    "People",
    "Progress",
    "Ranked",
    "RankedTask",
    "RankingStore",
    "Review",
    "ReviewRanking",
    "ReviewTask",
    "Reviews",
    "RevisionError",
    "Settings",
    "Snapshot",
    "Standing",
    "Submission",
    "SubmissionError",
    "SubmitResult",
    "Task",
    "Verdict",
    "failure_subject",
    "gold_share",
]
