"""``rlhf rankings verify`` and ``backup``: is a store whole, and a copy of it that is.

Read here with plain SQLite, without the store's own code, which would upgrade what it opens.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rlhf.config import RankingsBackupConfig, RankingsVerifyConfig
from rlhf.errors import DataError, StoreError
from rlhf.records import Prompt, Ranking
from rlhf.store import RankingStore
from rlhf.store.checks import task_sha256
from rlhf.store.engine import APPLICATION_ID, sqlite_path

Figures = dict[str, float | str]

_COUNTED = ("tasks", "rankings", "annotators")
_SCHEMA = (
    "SELECT type || ' ' || name, sql FROM sqlite_master "
    "WHERE type IN ('table', 'index', 'trigger') AND name NOT LIKE 'sqlite_%' ORDER BY 1"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a store."""

    figures: Figures
    faults: tuple[str, ...]
    """One line per fault; empty for a store that is whole."""


def verify(config: RankingsVerifyConfig) -> Verdict:
    """Check a store's pages, references, schema, tasks and rankings; nothing is changed.

    Raises:
        StoreError: If the file is no ranking store.
    """
    return verify_file(sqlite_path(config.store))


def verify_file(path: Path) -> Verdict:
    """Check one store file; see ``verify``."""
    with closing(_open(path)) as connection:
        connection.execute("BEGIN")  # all checks see one moment
        faults: list[str] = []
        for check in (_find_damage, _find_strays, _find_schema_faults, _find_content_faults):
            faults += [f"{path}: {fault}" for fault in _run(check, connection)]
            if faults:  # what is read from a broken store proves nothing more
                return Verdict({}, tuple(faults))
        return Verdict(_counts(connection) | {"store": str(path)}, ())


def backup(config: RankingsBackupConfig) -> Figures:
    """Copy a store that may be in use; the copy appears whole and verified, or not at all.

    Raises:
        StoreError: If the output exists, can't be written, or the copy has a fault.
    """
    source, output = sqlite_path(config.store), Path(config.output)
    if output.exists():
        raise StoreError(f"--output: {output} is there already; give a new name")
    partial = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    with closing(_open(source)) as connection:
        try:
            _copy(connection, partial)
            verdict = verify_file(partial)
            if verdict.faults:
                fault = verdict.faults[0].removeprefix(f"{partial}: ")
                raise StoreError(f"{source}: not backed up: {fault}")
            partial.replace(output)
        except OSError as error:
            raise StoreError(f"{output}: can't be written ({error.strerror})") from error
        except sqlite3.Error as error:
            raise StoreError(f"{source}: not backed up ({error})") from error
        finally:
            _remove(partial)
    return verdict.figures | {"store": str(source), "backup": str(output)}


# -- opening and copying --------------------------------------------------------------------------


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
    if header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        connection.close()
        raise StoreError(f"{path}: is not a ranking store")
    return connection


def _copy(connection: sqlite3.Connection, path: Path) -> None:
    """Copy one moment of a store into a file of its own, without a log beside it, and sync it."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(path)) as copy:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


# -- checks ---------------------------------------------------------------------------------------


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
    found = dict(connection.execute(_SCHEMA).fetchall())
    for name, definition in wanted.items():
        if name not in found:
            yield f"{name} is missing; restore a backup"
        elif found[name] != definition:
            yield f"{name} is not that of this version; upgrade an older store, or restore a backup"


def _find_content_faults(connection: sqlite3.Connection) -> Iterator[str]:
    """Read every task and every ranking, corrected ones included."""
    for number, sha256, prompt, candidates, done, counted in connection.execute(
        "SELECT t.id, sha256, prompt, candidates, n_done, (SELECT count(*) FROM assignments AS a "
        "WHERE a.task_id = t.id AND a.state = 'done') FROM tasks AS t ORDER BY t.id"
    ):
        if _task_hash(prompt, candidates) != sha256:
            yield f"task {number}: its texts are not those of its sha256"
        if done != counted:
            yield f"task {number}: counts {done} people, {counted} have ranked it"
    for number, prompt, candidates, ranks, flags, strengths in connection.execute(
        "SELECT r.id, prompt, candidates, ranks, flags, strengths FROM rankings AS r "
        "JOIN tasks AS t ON t.id = r.task_id ORDER BY r.id"
    ):
        fault = _ranking_fault(prompt, candidates, ranks, (flags, strengths))
        if fault:
            yield f"ranking {number}: {fault}"


def _task_hash(prompt: str, candidates: str) -> str | None:
    try:
        return task_sha256(Prompt.parse(json.loads(prompt)), _texts(candidates))
    except (DataError, KeyError, TypeError, ValueError):
        return None


def _ranking_fault(
    prompt: str, candidates: str, ranks: str, optional: tuple[str | None, ...]
) -> str | None:
    try:
        Ranking(Prompt.parse(json.loads(prompt)), _texts(candidates), tuple(json.loads(ranks)))
        for value in optional:
            if value is not None and not isinstance(json.loads(value), list):
                return "flags or strengths are no list"
    except (DataError, KeyError, TypeError, ValueError) as error:
        return f"does not parse ({error})"
    return None


def _texts(candidates: str) -> tuple[str, ...]:
    return tuple(candidate["text"] for candidate in json.loads(candidates))


def _counts(connection: sqlite3.Connection) -> Figures:
    return {
        name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _COUNTED
    }
