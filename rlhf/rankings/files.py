"""Store files, read with plain SQLite: the store's own code would upgrade what it opens."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from rlhf.errors import StoreError
from rlhf.rankings.faults import Verdict, count, find_content_faults, find_schema_faults
from rlhf.store import RankingStore
from rlhf.store.sqlite import is_store_header

_SCHEMA = (
    "SELECT type || ' ' || name, sql FROM sqlite_master "
    "WHERE type IN ('table', 'index', 'trigger') AND name NOT LIKE 'sqlite_%' ORDER BY 1"
)


def verify_file(path: Path, *, older: bool = False) -> Verdict:
    """Check a store's pages, references, schema, tasks and rankings; nothing is changed.

    Args:
        path: The file.
        older: Whether its schema may be of an older version; then only pages and references
            are checked.

    Raises:
        StoreError: If the file is no ranking store.
    """
    checks = [_find_damage, _find_strays]
    if not older:
        checks += [_find_schema_faults, _find_content_faults]
    with closing(_open(path)) as connection:
        connection.execute("BEGIN")  # all checks see one moment
        for check in checks:
            faults = tuple(f"{path}: {fault}" for fault in _run(check, connection))
            if faults:  # what is read from a broken store proves nothing more
                return Verdict({}, faults)
        figures = count(connection.execute, chained=not older)
        return Verdict(figures | {"store": str(path)}, ())


def copy_file(source: Path, path: Path) -> None:
    """Copy one moment of a store into a file of its own, without a log beside it, and sync it.

    Raises:
        StoreError: If the source is no ranking store or can't be read.
        OSError: If the copy can't be written.
    """
    with closing(_open(source)) as connection:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            with closing(sqlite3.connect(path)) as copy:
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise StoreError(f"{source}: not copied ({error})") from error
    sync_file(path)


def close_log(path: Path) -> None:
    """Fold the log of a store that nobody has open into its file, and sync it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    sync_file(path)


def sync_file(path: Path) -> None:
    """Return when the content of a file is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_file(path: Path) -> None:
    """Remove a store file and its logs, where there are any."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    """Open a store for reading."""
    if not path.is_file():
        raise StoreError(f"{path}: no such store; check the path")
    try:
        with path.open("rb") as file:
            header = file.read(100)
        # Not mode=ro, which would leave an empty log beside a store that nobody has open.
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10)
        connection.execute("PRAGMA query_only = 1")
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path}: can't be opened ({error})") from error
    if not is_store_header(header):
        connection.close()
        raise StoreError(f"{path}: is not a ranking store")
    return connection


def _run(
    check: Callable[[sqlite3.Connection], Iterator[str]], connection: sqlite3.Connection
) -> list[str]:
    found: list[str] = []
    try:
        found.extend(check(connection))
    except sqlite3.Error as error:
        found.append(f"can't be read ({error})")
    return found


def _find_damage(connection: sqlite3.Connection) -> Iterator[str]:
    for (message,) in connection.execute("PRAGMA integrity_check"):
        if message != "ok":
            yield f"damaged: {' '.join(message.split())}"


def _find_strays(connection: sqlite3.Connection) -> Iterator[str]:
    for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"{table} row {row} refers to a row of {parent} that is not there"


def _find_schema_faults(connection: sqlite3.Connection) -> Iterator[str]:
    """Compare tables, indexes and triggers with those of a new store."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        RankingStore.open(path).close()
        with closing(_open(path)) as new:
            wanted = dict(new.execute(_SCHEMA).fetchall())
    return find_schema_faults(dict(connection.execute(_SCHEMA).fetchall()), wanted)


def _find_content_faults(connection: sqlite3.Connection) -> Iterator[str]:
    return find_content_faults(connection.execute)
