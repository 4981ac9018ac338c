"""First schema: annotators, tasks, assignments and append-only rankings."""

import sqlalchemy as sa
from alembic import op

from rlhf.store.migrations.dialects import (
    Refusal,
    boolean_check,
    create_refusal,
    guard,
    is_postgresql,
    refuse,
    refuse_truncate,
    where,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_json = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Create the tables and the triggers that guard them."""
    _create_queue()
    _create_rankings()
    if is_postgresql():
        _guard_postgresql()
    else:
        for statement in _SQLITE_TRIGGERS:
            op.execute(sa.text(statement))


def _create_queue() -> None:
    op.create_table(
        "annotators",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("pseudonym", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.String(64)),
        sa.Column("name_key", sa.String(128), unique=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "tasks",
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
    op.create_index(
        "tasks_open",
        "tasks",
        [sa.text("n_done DESC"), "id"],
        **where("n_done < overlap"),
    )
    op.create_table(
        "assignments",
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
    op.create_index("assignments_mine", "assignments", ["annotator_id", "state"])


def _create_rankings() -> None:
    op.create_table(
        "rankings",
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
        boolean_check("others_worse", "rankings_others_worse"),
        boolean_check("late", "rankings_late"),
        boolean_check("simulated", "rankings_simulated"),
        sa.CheckConstraint("length(request_id) BETWEEN 8 AND 64", name="rankings_request_id"),
    )
    op.create_index("rankings_of_assignment", "rankings", ["assignment_id", "revision"])


_SQLITE_TRIGGERS = (
    # INSERT OR REPLACE deletes rows without firing DELETE triggers, hence the first SELECT.
    """
    CREATE TRIGGER rankings_possible BEFORE INSERT ON rankings BEGIN
      SELECT RAISE(ABORT, 'rankings are append-only') WHERE EXISTS (
        SELECT 1 FROM rankings WHERE id = NEW.id OR request_id = NEW.request_id
          OR (task_id = NEW.task_id AND annotator_id = NEW.annotator_id
              AND revision = NEW.revision));
      SELECT RAISE(ABORT, 'ranks must be a JSON array') WHERE
        CASE WHEN json_valid(NEW.ranks) THEN json_type(NEW.ranks) <> 'array' ELSE 1 END;
      SELECT RAISE(ABORT, 'ranks must hold one entry per candidate') WHERE
        json_array_length(NEW.ranks)
          IS NOT (SELECT n_candidates FROM tasks WHERE tasks.id = NEW.task_id);
      SELECT RAISE(ABORT, 'a rank must be a whole number from 1 to K or null') WHERE EXISTS (
        SELECT 1 FROM json_each(NEW.ranks) AS e WHERE e.type NOT IN ('integer', 'null')
          OR (e.type = 'integer' AND e.value NOT BETWEEN 1 AND json_array_length(NEW.ranks)));
      SELECT RAISE(ABORT, 'ranks must be dense: 1, 2, 3 without gaps') WHERE (
        SELECT coalesce(max(e.value), 0) <> count(DISTINCT e.value)
        FROM json_each(NEW.ranks) AS e);
      SELECT RAISE(ABORT, 'these ranks do not go with this action') WHERE (
        SELECT CASE NEW.action
          WHEN 'rank' THEN NOT (count(e.value) >= 2
            OR (NEW.others_worse AND count(e.value) = 1))
          WHEN 'all_bad' THEN 0
          ELSE count(e.value) > 0 END
        FROM json_each(NEW.ranks) AS e);
      SELECT RAISE(ABORT, 'flags must hold one array per candidate') WHERE
        NEW.flags IS NOT NULL AND CASE WHEN json_valid(NEW.flags) THEN
          json_type(NEW.flags) <> 'array'
          OR json_array_length(NEW.flags) <> json_array_length(NEW.ranks)
          OR EXISTS (SELECT 1 FROM json_each(NEW.flags) AS e WHERE e.type <> 'array')
          ELSE 1 END;
      SELECT RAISE(ABORT, 'strengths must be 1, 2 or 3, one between each two tiers') WHERE
        NEW.strengths IS NOT NULL AND CASE WHEN json_valid(NEW.strengths) THEN
          json_type(NEW.strengths) <> 'array'
          OR json_array_length(NEW.strengths) + 1
            <> (SELECT coalesce(max(e.value), 0) FROM json_each(NEW.ranks) AS e)
          OR EXISTS (SELECT 1 FROM json_each(NEW.strengths) AS e
                     WHERE e.type <> 'integer' OR e.value NOT BETWEEN 1 AND 3)
          ELSE 1 END;
    END
    """,
    """
    CREATE TRIGGER rankings_no_update BEFORE UPDATE ON rankings BEGIN
      SELECT RAISE(ABORT, 'rankings are append-only');
    END
    """,
    """
    CREATE TRIGGER rankings_no_delete BEFORE DELETE ON rankings BEGIN
      SELECT RAISE(ABORT, 'rankings are append-only');
    END
    """,
    # A ranking means nothing without what was shown: both stay as they were.
    """
    CREATE TRIGGER tasks_content_stays
    BEFORE UPDATE OF sha256, prompt, candidates, n_candidates ON tasks BEGIN
      SELECT RAISE(ABORT, 'the content of a task never changes');
    END
    """,
    """
    CREATE TRIGGER assignments_possible BEFORE INSERT ON assignments
    WHEN NEW.shown_order IS NOT NULL BEGIN
      SELECT RAISE(ABORT, 'shown_order must be an order of all candidates') WHERE
        CASE WHEN json_valid(NEW.shown_order) THEN (
          SELECT count(*) IS NOT n OR count(DISTINCT e.value) IS NOT n
            OR min(e.value) IS NOT 0 OR max(e.value) IS NOT n - 1
          FROM json_each(NEW.shown_order) AS e,
            (SELECT n_candidates AS n FROM tasks WHERE tasks.id = NEW.task_id))
        ELSE 1 END;
    END
    """,
    """
    CREATE TRIGGER assignments_order_stays
    BEFORE UPDATE OF task_id, annotator_id, shown_order ON assignments BEGIN
      SELECT RAISE(ABORT, 'what an annotator was shown never changes');
    END
    """,
)


def _guard_postgresql() -> None:
    """Create what the triggers of SQLite are, and refuse TRUNCATE beside them."""
    create_refusal()
    guard("rankings_possible", "rankings", *_POSSIBLE_RANKING)
    guard("assignments_possible", "assignments", _POSSIBLE_ORDER)
    history = "rankings are append-only"
    refuse("rankings_no_update", "rankings", "UPDATE", history)
    refuse("rankings_no_delete", "rankings", "DELETE", history)
    refuse_truncate("rankings", history)
    refuse(
        "tasks_content_stays",
        "tasks",
        "UPDATE OF sha256, prompt, candidates, n_candidates",
        "the content of a task never changes",
    )
    refuse(
        "assignments_order_stays",
        "assignments",
        "UPDATE OF task_id, annotator_id, shown_order",
        "what an annotator was shown never changes",
    )


_RANKS = "json_array_elements_text(NEW.ranks) AS e(value)"
_POSSIBLE_RANKING = tuple(
    Refusal(message, postgresql=condition)
    for message, condition in (
        ("ranks must be a JSON array", "json_typeof(NEW.ranks) IS DISTINCT FROM 'array'"),
        (
            "ranks must hold one entry per candidate",
            "json_array_length(NEW.ranks) IS DISTINCT FROM "
            "(SELECT n_candidates FROM tasks WHERE tasks.id = NEW.task_id)",
        ),
        (
            "a rank must be a whole number from 1 to K or null",
            "EXISTS (SELECT 1 FROM json_array_elements(NEW.ranks) AS e(value) WHERE "
            "e.value::text <> 'null' AND "
            "e.value::text !~ format('^[1-%s]$', json_array_length(NEW.ranks)))",
        ),
        (
            "ranks must be dense: 1, 2, 3 without gaps",
            f"(SELECT coalesce(max(e.value::integer), 0) <> count(DISTINCT e.value) FROM {_RANKS})",
        ),
        (
            "these ranks do not go with this action",
            "(SELECT CASE NEW.action "
            "WHEN 'rank' THEN NOT (count(e.value) >= 2 "
            "OR (NEW.others_worse AND count(e.value) = 1)) "
            "WHEN 'all_bad' THEN false "
            f"ELSE count(e.value) > 0 END FROM {_RANKS})",
        ),
        (
            "flags must hold one array per candidate",
            "NEW.flags IS NOT NULL AND CASE WHEN json_typeof(NEW.flags) = 'array' THEN "
            "json_array_length(NEW.flags) <> json_array_length(NEW.ranks) "
            "OR EXISTS (SELECT 1 FROM json_array_elements(NEW.flags) AS e(value) "
            "WHERE json_typeof(e.value) <> 'array') ELSE true END",
        ),
        (
            "strengths must be 1, 2 or 3, one between each two tiers",
            "NEW.strengths IS NOT NULL AND CASE WHEN json_typeof(NEW.strengths) = 'array' THEN "
            "json_array_length(NEW.strengths) + 1 "
            f"<> (SELECT coalesce(max(e.value::integer), 0) FROM {_RANKS}) "
            "OR EXISTS (SELECT 1 FROM json_array_elements(NEW.strengths) AS e(value) "
            "WHERE e.value::text !~ '^[1-3]$') ELSE true END",
        ),
    )
)
_POSSIBLE_ORDER = Refusal(
    "shown_order must be an order of all candidates",
    postgresql="NEW.shown_order IS NOT NULL AND CASE WHEN json_typeof(NEW.shown_order) = 'array' "
    "THEN (SELECT json_array_length(NEW.shown_order) <> n OR n <> "
    "(SELECT count(DISTINCT e.value::text) FROM json_array_elements(NEW.shown_order) AS e(value) "
    "WHERE e.value::text ~ format('^[0-%s]$', n - 1)) "
    "FROM (SELECT n_candidates AS n FROM tasks WHERE tasks.id = NEW.task_id) AS task) "
    "ELSE true END",
)
