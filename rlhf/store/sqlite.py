"""A store in one SQLite file.

A transaction that writes begins with ``BEGIN IMMEDIATE``, so that it never fails half-way for
want of the lock.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rlhf.errors import StoreError
from rlhf.store.disks import remote_file_system
from rlhf.store.engine import APPLICATION_ID, BUSY_TIMEOUT_MS, Database, migrate

_SAFE = (3, 51, 3)
"""Before it, two processes that move the log into the file at once can damage it."""
_MAGIC = b"SQLite format 3\x00"
_DURABLE: dict[str, str | int] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL
    "foreign_keys": 1,
    "busy_timeout": BUSY_TIMEOUT_MS,
}


class SQLiteDatabase(Database):
    """Transactions on one store file, whose bytes 68 to 71 say that it is one."""

    def __init__(self, path: Path, *, create: bool) -> None:
        _prepare(path, create=create)
        # SQLite before 3.51.3 can corrupt a WAL that two connections checkpoint at once:
        # only the writing connection does.
        super().__init__(
            str(path),
            _engine(path, "BEGIN IMMEDIATE", {"secure_delete": 1}, pool_size=1, max_overflow=0),
            _engine(
                path,
                "BEGIN",
                {"wal_autocheckpoint": 0, "query_only": 1},
                pool_size=4,
                max_overflow=8,
            ),
        )
        self.path = path
        try:
            with self.write() as connection:
                migrate(connection, self.place)
        except BaseException:
            self.close()
            raise

    @property
    def warning(self) -> str | None:
        """Say what speaks against several processes, where this machine's SQLite is old."""
        if sqlite3.sqlite_version_info >= _SAFE:
            return None
        return (
            f"SQLite {sqlite3.sqlite_version} has a fault, mended in {'.'.join(map(str, _SAFE))}, "
            "that can damage a store which two processes write at once: sample and import while "
            "the page is not running, or use PostgreSQL"
        )

    def purge(self, *tables: str) -> None:
        """Rewrite the whole file, and empty its log.

        Raises:
            StoreError: If somebody else reads or writes all the while.
        """
        with (
            self._translated("not rewritten"),
            closing(self._writer.raw_connection()) as pooled,
            closing(pooled.cursor()) as cursor,
        ):
            try:
                cursor.execute("VACUUM")
                busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.Error as error:
                raise StoreError(f"{self.place}: not rewritten ({error})") from error
        if busy:
            raise StoreError(f"{self.place}: not rewritten (in use; try again)")


def sqlite_path(text: str) -> Path:
    """Find the file that a path or a ``sqlite:///`` URL names."""
    if "://" not in text:
        if text in ("", ":memory:"):
            raise StoreError(f"store {text!r} is not a file; give a path such as runs/store.sqlite")
        return Path(text)
    url = sa.make_url(text)
    if not url.database or url.database == ":memory:":
        raise StoreError(f"store {text!r} names no file; give sqlite:///path")
    return Path(url.database)


def is_store_header(header: bytes) -> bool:
    """Say whether the first 100 bytes of a file are those of a ranking store."""
    return header[:16] == _MAGIC and header[68:72] == APPLICATION_ID.to_bytes(4, "big")


def _prepare(path: Path, *, create: bool) -> None:
    """Refuse what is not ours before SQLite touches it; mark a new file as ours."""
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; a store is a file such as {path / 'store.sqlite'}")
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent}: no such folder; make it first")
    remote = remote_file_system(path.parent)
    if remote is not None:
        raise StoreError(
            f"{path}: lies on {remote}, where SQLite can lose rankings; put the store on a local "
            "disk, or give the URL of a PostgreSQL database"
        )
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
    elif not is_store_header(header):
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
