"""Tables of the current schema; ``migrations`` builds them and holds the triggers.

Identity lives in ``annotators`` alone; everything else knows a number. ``rankings`` is
append-only: a correction is a row with a higher revision. ``reviews`` and ``audit`` are too.
Times are milliseconds since 1970.
"""

from __future__ import annotations

from typing import Any

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
    sa.Column("priority", sa.Double, nullable=False, server_default="0"),
    sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("gold", _json),
    sa.Column("lottery", sa.Integer, nullable=False, server_default="0"),
    # Wanted from the start; ``overlap`` may be more, for what the first people said.
    sa.Column("planned", sa.Integer, nullable=False, server_default="1"),
    sa.CheckConstraint("n_candidates BETWEEN 2 AND 9", name="tasks_n_candidates"),
    sa.CheckConstraint("overlap >= 1", name="tasks_overlap"),
    sa.CheckConstraint("n_done >= 0", name="tasks_n_done"),
)
# Literals, not parameters: an index over some rows serves only a query that says the same.
needs_people = tasks.c.n_done < tasks.c.overlap
in_random_pool = tasks.c.pool == sa.literal_column("'random'")
in_gold_pool = tasks.c.pool == sa.literal_column("'gold'")
in_training_pool = tasks.c.pool == sa.literal_column("'training'")
in_normal_pool = sa.and_(
    tasks.c.pool != sa.literal_column("'random'"),
    tasks.c.pool != sa.literal_column("'gold'"),
    tasks.c.pool != sa.literal_column("'training'"),
)
is_counted = sa.and_(
    tasks.c.pool != sa.literal_column("'gold'"), tasks.c.pool != sa.literal_column("'training'")
)
in_queue = sa.and_(needs_people, ~tasks.c.paused)


def _index(name: str, *columns: Any, condition: sa.ColumnElement[bool]) -> sa.Index:
    return sa.Index(name, *columns, sqlite_where=condition, postgresql_where=condition)


# Tasks that somebody has begun come first, so that agreement is known early. What stands after
# the id lets a search pass over a task without reading it.
_index(
    "tasks_open",
    tasks.c.priority.desc(),
    tasks.c.n_done.desc(),
    tasks.c.id,
    tasks.c.overlap,
    tasks.c.paused,
    tasks.c.pool,
    condition=sa.and_(in_queue, in_normal_pool),
)
_index(
    "tasks_random",
    tasks.c.lottery,
    tasks.c.id,
    tasks.c.n_done,
    tasks.c.overlap,
    tasks.c.paused,
    tasks.c.pool,
    condition=sa.and_(in_queue, in_random_pool),
)
_index("tasks_gold", tasks.c.id, condition=in_gold_pool)
_index("tasks_training", tasks.c.id, condition=in_training_pool)
# For counting alone: no query looks a task up by how many people it had.
sa.Index("tasks_counted", tasks.c.n_done, tasks.c.overlap, tasks.c.paused, tasks.c.pool)

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
    sa.Column("chain", sa.String(64)),
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
sa.Index("rankings_mine", rankings.c.annotator_id, rankings.c.id)
sa.Index("rankings_lately", rankings.c.annotator_id, rankings.c.submitted_ms)

drafts = sa.Table(
    "drafts",
    metadata,
    sa.Column("assignment_id", sa.ForeignKey("assignments.id"), primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("body", _json, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("annotator_id", sa.ForeignKey("annotators.id"), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("password_hash", sa.Text),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.CheckConstraint("role IN ('annotator', 'reviewer', 'admin')", name="accounts_role"),
    sa.CheckConstraint("state IN ('active', 'paused', 'disabled')", name="accounts_state"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_sha256", sa.String(64), primary_key=True),
    sa.Column("annotator_id", sa.ForeignKey("annotators.id"), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
)
sa.Index("sessions_of_person", sessions.c.annotator_id)

login_failures = sa.Table(
    "login_failures",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
)
sa.Index("login_failures_of_subject", login_failures.c.subject, login_failures.c.at_ms)

reviews = sa.Table(
    "reviews",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("request_id", sa.String(64), nullable=False, unique=True),
    sa.Column("task_id", sa.ForeignKey("tasks.id"), nullable=False),
    sa.Column("reviewer_id", sa.ForeignKey("annotators.id"), nullable=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("ranking_id", sa.ForeignKey("rankings.id")),
    sa.Column("ranks", _json),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.CheckConstraint("verdict IN ('accept', 'override', 'send_back')", name="reviews_verdict"),
    sa.CheckConstraint("verdict <> 'accept' OR ranking_id IS NOT NULL", name="reviews_accept"),
    sa.CheckConstraint("(verdict = 'override') = (ranks IS NOT NULL)", name="reviews_override"),
)
sa.Index("reviews_of_task", reviews.c.task_id, reviews.c.id)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("actor_id", sa.ForeignKey("annotators.id")),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("data", _json, nullable=False),
)

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("key", sa.String(40), primary_key=True),
    sa.Column("value", _json, nullable=False),
    sa.Column("changed_ms", sa.BigInteger, nullable=False),
)


def is_current() -> sa.ColumnElement[bool]:
    """Say in SQL that no newer revision of a row of ``rankings`` is stored."""
    newer = rankings.alias("newer")
    return ~(
        sa.select(newer.c.id)
        .where(
            newer.c.assignment_id == rankings.c.assignment_id,
            newer.c.revision > rankings.c.revision,
        )
        .exists()
    )
