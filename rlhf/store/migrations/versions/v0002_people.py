"""Second schema: people, drafts, reviews, settings, and what the assignment of tasks goes by."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from rlhf.store.hashes import CHAINED, chain_link, lottery_of
from rlhf.store.migrations.dialects import append_only, is_postgresql, refuse, where

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_json = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Add columns, tables and triggers; give rows that are there their new columns."""
    _extend_tasks()
    _extend_rankings()
    _create_people()
    _create_desk()


def _extend_tasks() -> None:
    for column in (
        sa.Column("priority", sa.Double, nullable=False, server_default="0"),
        sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("gold", _json),
        sa.Column("lottery", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("tasks", column)
    _draw_lots()
    op.drop_index("tasks_open", "tasks")
    not_paused = "NOT paused" if is_postgresql() else "paused = 0"
    in_queue = f"n_done < overlap AND {not_paused}"
    op.create_index(
        "tasks_open",
        "tasks",
        [sa.text("priority DESC"), sa.text("n_done DESC"), "id", "overlap", "paused", "pool"],
        **where(f"{in_queue} AND pool <> 'random' AND pool <> 'gold' AND pool <> 'training'"),
    )
    op.create_index(
        "tasks_random",
        "tasks",
        ["lottery", "id", "n_done", "overlap", "paused", "pool"],
        **where(f"{in_queue} AND pool = 'random'"),
    )
    for pool in ("gold", "training"):
        op.create_index(f"tasks_{pool}", "tasks", ["id"], **where(f"pool = '{pool}'"))
    op.create_index("tasks_counted", "tasks", ["n_done", "overlap", "paused", "pool"])


def _extend_rankings() -> None:
    op.add_column("rankings", sa.Column("chain", sa.String(64)))
    of_table = " ON rankings" if is_postgresql() else ""
    op.execute(sa.text(f"DROP TRIGGER rankings_no_update{of_table}"))
    _chain_rankings()
    refuse("rankings_no_update", "rankings", "UPDATE", "rankings are append-only")
    op.create_index("rankings_mine", "rankings", ["annotator_id", "id"])
    op.create_index("rankings_lately", "rankings", ["annotator_id", "submitted_ms"])


def _create_people() -> None:
    op.create_table(
        "accounts",
        sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.Text),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint("role IN ('annotator', 'reviewer', 'admin')", name="accounts_role"),
        sa.CheckConstraint("state IN ('active', 'paused', 'disabled')", name="accounts_state"),
    )
    op.create_table(
        "sessions",
        sa.Column("token_sha256", sa.String(64), primary_key=True),
        sa.Column("annotator_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("sessions_of_person", "sessions", ["annotator_id"])
    op.create_table(
        "login_failures",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("login_failures_of_subject", "login_failures", ["subject", "at_ms"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("actor_id", sa.Integer, sa.ForeignKey("annotators.id")),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("data", _json, nullable=False),
    )
    append_only("audit", ["id"])


def _create_desk() -> None:
    op.create_table(
        "drafts",
        sa.Column("assignment_id", sa.Integer, sa.ForeignKey("assignments.id"), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("body", _json, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("request_id", sa.String(64), nullable=False, unique=True),
        sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id"), nullable=False),
        sa.Column("reviewer_id", sa.Integer, sa.ForeignKey("annotators.id"), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("ranking_id", sa.Integer, sa.ForeignKey("rankings.id")),
        sa.Column("ranks", _json),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint(
            "verdict IN ('accept', 'override', 'send_back')", name="reviews_verdict"
        ),
        sa.CheckConstraint("verdict <> 'accept' OR ranking_id IS NOT NULL", name="reviews_accept"),
        sa.CheckConstraint("(verdict = 'override') = (ranks IS NOT NULL)", name="reviews_override"),
    )
    op.create_index("reviews_of_task", "reviews", ["task_id", "id"])
    append_only("reviews", ["id"], ["request_id"])
    op.create_table(
        "settings",
        sa.Column("key", sa.String(40), primary_key=True),
        sa.Column("value", _json, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
    )


def _draw_lots() -> None:
    """Give the tasks that are there their place in the random pool, should they enter it."""
    bind = op.get_bind()
    tasks = sa.table("tasks", sa.column("id"), sa.column("sha256"), sa.column("lottery"))
    rows = bind.execute(sa.select(tasks.c.id, tasks.c.sha256)).all()
    _update(tasks, "lottery", [(row.id, lottery_of(row.sha256)) for row in rows])


def _chain_rankings() -> None:
    """Chain the rankings that are there, in the order of their ids."""
    rankings = sa.table("rankings", *map(sa.column, (*CHAINED, "id", "chain")))
    query = sa.select(*(rankings.c[name] for name in ("id", *CHAINED))).order_by(rankings.c.id)
    links: list[tuple[int, str]] = []
    link = ""
    for row in op.get_bind().execute(query).all():
        link = chain_link(link, row._asdict())
        links.append((row.id, link))
    _update(rankings, "chain", links)


def _update(table: sa.TableClause, column: str, values: Sequence[tuple[int, object]]) -> None:
    statement = table.update().where(table.c.id == sa.bindparam("row"))
    statement = statement.values({column: sa.bindparam("new")})
    if values:
        op.get_bind().execute(statement, [{"row": row, "new": new} for row, new in values])
