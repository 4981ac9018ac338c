"""The database behind the store: one writing connection, a few reading ones.

A transaction that writes begins with ``BEGIN IMMEDIATE``, so that it never fails half-way for
want of the lock; there is one writing connection a process. Durability is set on every
connection and read back: an acknowledged ranking survives a power cut. SQLite files only.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import exc

from rlhf.errors import StoreError

APPLICATION_ID = 0x524C4846
"""``RLHF``: bytes 68 to 71 of the file say that it is a ranking store."""
BUSY_TIMEOUT_MS = 10_000
MIGRATIONS = Path(__file__).parent / "migrations"

_MAGIC = b"SQLite format 3\x00"
_DURABLE: dict[str, str | int] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL
    "foreign_keys": 1,
    "busy_timeout": BUSY_TIMEOUT_MS,
}


class Database:
    """Transactions on one store file."""

    def __init__(self, path: Path, *, create: bool) -> None:
        _prepare(path, create=create)
        self.path = path
        # SQLite before 3.51.3 can corrupt a WAL that two connections checkpoint at once:
        # only the writing connection does.
        self._writer = _engine(path, "BEGIN IMMEDIATE", {}, pool_size=1, max_overflow=0)
        self._readers = _engine(
            path, "BEGIN", {"wal_autocheckpoint": 0, "query_only": 1}, pool_size=4, max_overflow=8
        )
        try:
            with self.write() as connection:
                _migrate(connection, path)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Run a block in one writing transaction; leaving it means: on disk."""
        with self._translated("not written; nothing was stored"), self._writer.begin() as conn:
            yield conn

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Run a block on one snapshot."""
        with self._translated("can't be read"), self._readers.begin() as conn:
            yield conn

    def close(self) -> None:
        """Close every connection; the last one out folds the WAL into the file."""
        self._readers.dispose()
        self._writer.dispose()

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise  # a constraint that our own checks should have met first
        except exc.DBAPIError as error:
            raise StoreError(f"{self.path}: {what} ({error.orig})") from error
        except exc.TimeoutError as error:
            raise StoreError(f"{self.path}: {what} (too many at once; try again)") from error


def sqlite_path(path_or_url: str | os.PathLike[str]) -> Path:
    """Find the file that a path or a ``sqlite:///`` URL names."""
    text = os.fspath(path_or_url)
    if "://" not in text:
        if text in ("", ":memory:"):
            raise StoreError(f"store {text!r} is not a file; give a path such as runs/store.sqlite")
        return Path(text)
    url = sa.make_url(text)
    if url.get_backend_name() != "sqlite":
        raise StoreError(
            f"store {url.render_as_string()!r}: only SQLite is supported; "
            "give a path or sqlite:///path"
        )
    if not url.database or url.database == ":memory:":
        raise StoreError(f"store {text!r} names no file; give sqlite:///path")
    return Path(url.database)


def _prepare(path: Path, *, create: bool) -> None:
    """Refuse what is not ours before SQLite touches it; mark a new file as ours."""
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; a store is a file such as {path / 'store.sqlite'}")
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent}: no such folder; make it first")
    try:
        if not path.exists():
            _make_file(path, create=create)
        header = _header(path)
    except OSError as error:
        raise StoreError(f"{path}: can't be opened ({error.strerror})") from error
    if not header:
        if not create:
            raise StoreError(f"{path}: is empty, not a ranking store; remove it or fill it first")
        _mark(path)
    elif header[:16] != _MAGIC or header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise StoreError(f"{path}: is not a ranking store")


def _make_file(path: Path, *, create: bool) -> None:
    if not create:
        raise StoreError(f"{path}: no such store; `rlhf sample --store {path}` makes one")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return  # another process was faster


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _mark(path: Path) -> None:
    # Before WAL, so that the mark is in the file itself and not only in its log.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    except sqlite3.Error as error:
        raise StoreError(f"{path}: not written ({error})") from error
    finally:
        connection.close()


def _engine(path: Path, begin: str, extra: dict[str, str | int], **pool: Any) -> sa.Engine:
    url = sa.URL.create("sqlite", database=str(path))
    engine = sa.create_engine(url, pool_timeout=30, **pool)
    sa.event.listen(engine, "connect", _configurator({**_DURABLE, **extra}))
    sa.event.listen(engine, "begin", lambda conn: conn.exec_driver_sql(begin))
    return engine


def _configurator(pragmas: dict[str, str | int]) -> Callable[[sqlite3.Connection, object], None]:
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the "begin" event begins, not the driver
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        for name, wanted in pragmas.items():
            connection.execute(f"PRAGMA {name} = {wanted}")
            (seen,) = connection.execute(f"PRAGMA {name}").fetchone()
            if seen != wanted:
                raise StoreError(
                    f"the file system refuses PRAGMA {name} = {wanted} (it stays {seen}); "
                    "put the store on a local disk"
                )

    return configure


def _migrate(connection: sa.Connection, path: Path) -> None:
    """Bring the schema to the newest revision, all of it or nothing."""
    script = ScriptDirectory(MIGRATIONS)
    context = MigrationContext.configure(connection)
    current, head = context.get_current_revision(), script.get_current_head()
    if current == head:
        return
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise StoreError(
            f"{path}: has schema {current}, newer than {head} of this version; upgrade rlhf"
        )
    pending = list(script.iterate_revisions(head, current or "base"))
    with Operations.context(context):
        for revision in reversed(pending):
            revision.module.upgrade()
            context.stamp(script, revision.revision)
