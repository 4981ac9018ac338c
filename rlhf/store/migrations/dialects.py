"""What migrations say differently to SQLite and to PostgreSQL: checks, indexes, triggers.

A trigger here refuses: it raises an integrity error with a message, and nothing of its statement
is stored. Call these inside ``upgrade()``; the connection of the migration tells the dialect::

    op.create_table("audit", ..., boolean_check("late", "audit_late"))
    op.create_index("open", "tasks", ["id"], **where("n_done < overlap"))
    append_only("audit", ["id"])
    refuse("audit_stays", "audit", "UPDATE OF kind, data", "an audit entry never changes")
    guard("reviews_possible", "reviews", Refusal("ranks must be an array", sqlite=..., ...))

A change of these helpers must not change what an earlier migration made: ``verify`` compares the
schema of a store, letter by letter, with that of a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from alembic import op


@dataclass(frozen=True, slots=True)
class Refusal:
    """A condition under which a new row is refused; ``NEW`` is the row.

    Conditions are tried in order: one may rely on those before it. NULL refuses nothing.
    """

    message: str
    sqlite: str = "0"
    postgresql: str = "false"


def is_postgresql() -> bool:
    """Say whether the migration runs on PostgreSQL; otherwise it is SQLite."""
    return op.get_bind().dialect.name == "postgresql"


def boolean_check(column: str, name: str) -> sa.CheckConstraint:
    """Let a Boolean column hold nothing but true and false; SQLite would take any number."""
    values = "false, true" if is_postgresql() else "0, 1"
    return sa.CheckConstraint(f"{column} IN ({values})", name=name)


def where(condition: str) -> dict[str, Any]:
    """Give the arguments that make an index one over the rows of a condition."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def append_only(table: str, *unique: Sequence[str]) -> None:
    """Let rows be added to a table and never be changed or removed.

    Args:
        table: Its triggers are named after it: ``TABLE_no_update``, ``TABLE_no_delete`` and, by
            dialect, ``TABLE_no_replace`` or ``TABLE_no_truncate``.
        unique: The columns of its primary key and of each unique constraint, the ways by which
            INSERT OR REPLACE of SQLite finds a row to delete, without firing DELETE triggers.
    """
    message = f"{table} are append-only"
    refuse(f"{table}_no_update", table, "UPDATE", message)
    refuse(f"{table}_no_delete", table, "DELETE", message)
    if is_postgresql():
        refuse_truncate(table, message)
    elif unique:
        same = (" AND ".join(f"{name} = NEW.{name}" for name in names) for names in unique)
        found = " OR ".join(f"({names})" for names in same)
        taken = f"EXISTS (SELECT 1 FROM {table} WHERE {found})"
        guard(f"{table}_no_replace", table, Refusal(message, sqlite=taken))


def refuse(name: str, table: str, event: str, message: str) -> None:
    """Refuse an event on each row of a table: ``UPDATE``, ``DELETE`` or ``UPDATE OF a, b``."""
    if is_postgresql():
        _execute(
            f"CREATE TRIGGER {name} BEFORE {event} ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {_REFUSE}({_quoted(message)})"
        )
    else:
        _execute(
            f"CREATE TRIGGER {name} BEFORE {event} ON {table} BEGIN\n"
            f"  SELECT RAISE(ABORT, {_quoted(message)});\nEND"
        )


def refuse_truncate(table: str, message: str) -> None:
    """Refuse TRUNCATE on PostgreSQL, which fires no DELETE trigger."""
    _execute(
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {_REFUSE}({_quoted(message)})"
    )


def guard(name: str, table: str, *refusals: Refusal) -> None:
    """Refuse new rows of a table that meet a condition."""
    if is_postgresql():
        checks = "".join(
            f"  IF ({refusal.postgresql}) THEN\n"
            f"    RAISE EXCEPTION {_quoted(refusal.message.replace('%', '%%'))}"
            " USING ERRCODE = 'integrity_constraint_violation';\n"
            "  END IF;\n"
            for refusal in refusals
        )
        _create_function(name, f"{checks}  RETURN NEW;\n")
        _execute(
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
        )
    else:
        checks = "".join(
            f"  SELECT RAISE(ABORT, {_quoted(refusal.message)}) WHERE {refusal.sqlite};\n"
            for refusal in refusals
        )
        _execute(f"CREATE TRIGGER {name} BEFORE INSERT ON {table} BEGIN\n{checks}END")


def create_refusal() -> None:
    """Create the function behind ``refuse`` on PostgreSQL; the first migration does."""
    _create_function(
        _REFUSE,
        "  RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';\n",
    )


_REFUSE = "refuse_change"


def _create_function(name: str, body: str) -> None:
    _execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n{body}END\n$$"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _execute(statement: str) -> None:
    # As it stands: colons and percent signs in it are no parameters.
    op.get_bind().exec_driver_sql(statement, execution_options={"no_parameters": True})
