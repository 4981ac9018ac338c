"""Tables of the current schema; ``migrations`` builds them and holds the triggers.

Identity lives in ``annotators`` alone; everything else knows a number. ``rankings`` is
append-only: a correction is a row with a higher revision. Times are milliseconds since 1970.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
_json = sa.JSON(none_as_null=True)

annotators = sa.Table(
    "annotators",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("pseudonym", sa.String(64), nullable=False, unique=True),
    sa.Column("name", sa.String(64)),
    sa.Column("name_key", sa.String(128), unique=True),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("prompt", _json, nullable=False),
    sa.Column("candidates", _json, nullable=False),
    sa.Column("n_candidates", sa.Integer, nullable=False),
    sa.Column("overlap", sa.Integer, nullable=False),
    sa.Column("pool", sa.String(32), nullable=False),
    sa.Column("meta", _json, nullable=False),
    sa.Column("n_done", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.CheckConstraint("n_candidates BETWEEN 2 AND 9", name="tasks_n_candidates"),
    sa.CheckConstraint("overlap >= 1", name="tasks_overlap"),
    sa.CheckConstraint("n_done >= 0", name="tasks_n_done"),
)
# The queue: tasks that somebody has begun come first, so that agreement is known early.
sa.Index(
    "tasks_open",
    tasks.c.n_done.desc(),
    tasks.c.id,
    sqlite_where=tasks.c.n_done < tasks.c.overlap,
)

assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id"), nullable=False),
    sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("shown_order", _json),
    sa.Column("lease_until_ms", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("task_id", "annotator_id", name="assignments_once"),
    sa.UniqueConstraint("id", "task_id", "annotator_id", name="assignments_whole"),
    sa.CheckConstraint("state IN ('leased', 'done', 'skipped')", name="assignments_state"),
)
sa.Index("assignments_mine", assignments.c.annotator_id, assignments.c.state)

rankings = sa.Table(
    "rankings",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("request_id", sa.String(64), nullable=False, unique=True),
    sa.Column("assignment_id", sa.Integer, nullable=False),
    sa.Column("task_id", sa.Integer, nullable=False),
    sa.Column("annotator_id", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("ranks", _json, nullable=False),
    sa.Column("others_worse", sa.Boolean, nullable=False),
    sa.Column("flags", _json),
    sa.Column("strengths", _json),
    sa.Column("reason", sa.String(40), nullable=False),
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("active_ms", sa.BigInteger),
    sa.Column("late", sa.Boolean, nullable=False),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("submitted_ms", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(
        ["assignment_id", "task_id", "annotator_id"],
        ["assignments.id", "assignments.task_id", "assignments.annotator_id"],
        name="rankings_assignment",
    ),
    sa.UniqueConstraint("task_id", "annotator_id", "revision", name="rankings_revision"),
    sa.CheckConstraint("revision >= 1", name="rankings_revision_positive"),
    sa.CheckConstraint(
        "action IN ('rank', 'all_bad', 'cannot_judge', 'skip')", name="rankings_action"
    ),
    sa.CheckConstraint("active_ms IS NULL OR active_ms >= 0", name="rankings_active_ms"),
    sa.CheckConstraint("others_worse IN (0, 1)", name="rankings_others_worse"),
    sa.CheckConstraint("late IN (0, 1)", name="rankings_late"),
    sa.CheckConstraint("simulated IN (0, 1)", name="rankings_simulated"),
    sa.CheckConstraint("length(request_id) BETWEEN 8 AND 64", name="rankings_request_id"),
)
sa.Index("rankings_of_assignment", rankings.c.assignment_id, rankings.c.revision)
