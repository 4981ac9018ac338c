"""A store in one schema of a PostgreSQL database: the first of the search path, or ``public``.

A transaction that writes takes a lock that is the schema's alone and lasts until its end: one
writes at a time, as with ``BEGIN IMMEDIATE`` of SQLite. It takes the lock in READ COMMITTED, so
that what it reads is from after the wait. Readers see one snapshot and can't write. Settings are
those of a connection: a pooler in between must not share one among transactions.

The comment of the table ``alembic_version`` says that a schema is ours. It is written in the same
transaction as the tables, so a schema is whole or empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from rlhf.errors import StoreError
from rlhf.store.engine import APPLICATION_ID, BUSY_TIMEOUT_MS, Database, migrate

MARK = "ranking store of rlhf"
SCHEME = re.compile(r"postgres(ql)?(\+psycopg)?")

_LOCK = (
    f"SELECT pg_advisory_xact_lock({APPLICATION_ID}, "
    "quote_ident(current_schema())::regnamespace::oid::integer)"
)
_SYNCHRONOUS = ("on", "remote_apply")
_LOST = "the connection broke: it may or may not be stored; send it again"
_CONNECTING = {
    "connect_timeout": 10,
    "client_encoding": "utf8",
    "fallback_application_name": "rlhf",
}
_WRITING = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "lock_timeout": f"{BUSY_TIMEOUT_MS // 1000}s",
    # A machine that vanishes while it writes must not block the others for hours.
    "idle_in_transaction_session_timeout": "10min",
}
_READING = {
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
}
_TABLES = """
    SELECT relname, obj_description(pg_class.oid, 'pg_class') FROM pg_class
    WHERE relnamespace = quote_ident(current_schema())::regnamespace
      AND relkind IN ('r', 'p', 'v', 'm', 'f')
      AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
    ORDER BY relname
"""


class PostgresDatabase(Database):
    """Transactions on one schema."""

    def __init__(self, url: sa.URL, *, create: bool, upgrade: bool = True) -> None:
        """Open a schema.

        Args:
            url: As ``postgres_url`` gives it.
            create: Whether an empty schema becomes a store.
            upgrade: Whether a store of an older version is upgraded.
        """
        super().__init__(
            shown(url),
            _engine(url, _WRITING, pool_size=1, max_overflow=0),
            _engine(url, _READING, pool_size=4, max_overflow=8),
        )
        sa.event.listen(self._writer, "begin", lambda conn: conn.exec_driver_sql(_LOCK))
        try:
            with self._translated("can't be opened"), self._writer.begin() as connection:
                is_new = self._is_new(connection, create=create)
                if upgrade:
                    migrate(connection, self.place)
                if is_new:
                    connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS '{MARK}'")
        except BaseException:
            self.close()
            raise

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Run a block in one writing transaction; leaving it means: on disk."""
        finished = False
        with self._translated("not written; nothing was stored"):
            try:
                with self._writer.begin() as conn:
                    yield conn
                    finished = True
            except exc.DBAPIError as error:
                if finished and error.connection_invalidated:
                    raise StoreError(f"{self.place}: {_LOST}") from error
                raise

    def purge(self, *tables: str) -> None:
        """Rewrite tables; the server's log and backups keep deleted rows until they are recycled.

        Raises:
            StoreError: If somebody else reads or writes them all the while.
        """
        with self._translated("not rewritten"):
            engine = self._writer.execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect() as conn:
                for table in tables:
                    conn.exec_driver_sql(f'VACUUM FULL "{table}"')

    @contextmanager
    def scratch(self) -> Iterator[sa.Connection]:
        """Run a block whose changes, those of the schema included, are all taken back."""
        with (
            self._translated("can't be compared"),
            self._writer.connect() as conn,
            conn.begin() as transaction,
        ):
            try:
                yield conn
            finally:
                transaction.rollback()

    def _is_new(self, connection: sa.Connection, *, create: bool) -> bool:
        """Refuse a schema that is not ours; say whether it is empty."""
        tables: dict[str, str | None] = {
            row[0]: row[1] for row in connection.exec_driver_sql(_TABLES)
        }
        if not tables and not create:
            raise StoreError(
                f"{self.place}: holds no ranking store; check the URL, or make one with "
                "`rlhf sample --store`"
            )
        if tables and tables.get("alembic_version") != MARK:
            raise StoreError(
                f"{self.place}: is not a ranking store: it holds the table {min(tables)!r}; "
                "give a database of its own"
            )
        return not tables

    def _reason(self, error: exc.DBAPIError) -> str:
        """Give the first line: the others may hold values of rows."""
        lines = str(error.orig).strip().splitlines()
        if getattr(error.orig, "sqlstate", None) == "55P03":
            return "others are writing; try again"
        return lines[0] if lines else type(error.orig).__name__


def postgres_url(text: str) -> sa.URL:
    """Read a URL; the scheme of ``text`` is one of ``SCHEME``.

    Raises:
        StoreError: If it is no URL or holds a password, which the settings of a run, a message or
            the list of processes would show.
    """
    try:
        url = sa.make_url(text)
    except (exc.ArgumentError, ValueError):
        # Without the text, in which a password may stand.
        raise StoreError(
            "store: is not a URL of PostgreSQL; give postgresql://user@host:5432/database"
        ) from None
    if url.password is not None or {"password", "sslpassword"} & set(url.query):
        raise StoreError(
            f"store {shown(url)}: leave the password out of the URL, which is written down in many "
            "places; put it into PGPASSWORD or ~/.pgpass"
        )
    return url.set(drivername="postgresql+psycopg")


def shown(url: sa.URL) -> str:
    """Give a URL as messages may show it: without passwords."""
    safe = {key: url.query[key] for key in ("host", "port", "options") if key in url.query}
    plain = url.set(drivername="postgresql", query=safe)
    return plain._replace(password=None).render_as_string()


def _engine(url: sa.URL, settings: Mapping[str, str], **pool: Any) -> sa.Engine:
    options = {
        "connect_timeout": 10,
        "client_encoding": "utf8",
        "fallback_application_name": "rlhf",
    }
    given = {key: value for key, value in options.items() if key not in url.query}
    try:
        engine = sa.create_engine(
            url, connect_args=given, pool_pre_ping=True, pool_timeout=30, **pool
        )
    except ImportError:
        raise StoreError(
            "a store on PostgreSQL needs psycopg: pip install 'rlhf-from-rankings[postgres]'"
        ) from None
    sa.event.listen(engine, "connect", _configurator(settings))
    return engine


def _configurator(settings: Mapping[str, str]) -> Callable[[Any, object], None]:
    """Give what makes a new connection durable and ours; what does not hold is refused."""

    def configure(connection: Any, _record: object) -> None:
        def ask(query: str, *values: str) -> Any:
            return connection.execute(query, values).fetchone()[0]

        if ask("SELECT current_schema()") is None:
            raise StoreError("the search path names no schema that exists; make one first")
        # Alone, so that a table of that name in another schema is never met.
        ask("SELECT set_config('search_path', quote_ident(current_schema()), false)")
        synchronous = ask("SELECT current_setting('synchronous_commit')")
        wanted = dict(settings)
        wanted["synchronous_commit"] = synchronous if synchronous in _SYNCHRONOUS else "on"
        for name, value in wanted.items():
            ask("SELECT set_config(%s, %s, false)", name, value)
        connection.commit()
        for name, value in (wanted | {"fsync": "on", "server_encoding": "UTF8"}).items():
            seen = ask("SELECT current_setting(%s)", name)
            if seen != value:
                raise StoreError(f"the server has {name} = {seen}; a store needs {value}")
        connection.commit()

    return configure
