"""What both databases behind the store have in common: transactions, errors, migrations.

There is one writing connection a process and one writing transaction at a time in all processes.
Durability is set on every connection and read back: an acknowledged ranking survives a power cut.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import exc

from rlhf.errors import StoreError

APPLICATION_ID = 0x524C4846
"""``RLHF``: the number by which a database is known to be a ranking store."""
BUSY_TIMEOUT_MS = 10_000
"""How long a transaction waits for another process to finish writing."""
MIGRATIONS = Path(__file__).parent / "migrations"


class Database(ABC):
    """Transactions on one store."""

    def __init__(self, place: str, writer: sa.Engine, readers: sa.Engine) -> None:
        self.place = place
        """Where the store is, for messages: a file, or a URL without its password."""
        self._writer = writer
        self._readers = readers

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

    @property
    def warning(self) -> str | None:
        """Say what a person who serves the store should know of it."""
        return None

    @abstractmethod
    def purge(self, *tables: str) -> None:
        """Rewrite tables so that nothing of a deleted row is left in their files."""

    def close(self) -> None:
        """Close every connection; nothing is lost without it."""
        self._readers.dispose()
        self._writer.dispose()

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except exc.IntegrityError:
            raise  # a constraint that our own checks should have met first
        except exc.DBAPIError as error:
            raise StoreError(f"{self.place}: {what} ({self._reason(error)})") from error
        except exc.TimeoutError as error:
            raise StoreError(f"{self.place}: {what} (too many at once; try again)") from error

    def _reason(self, error: exc.DBAPIError) -> str:
        return str(error.orig)


def migrate(connection: sa.Connection, place: str) -> None:
    """Bring the schema to the newest revision, all of it or nothing.

    Raises:
        StoreError: If the schema is newer than this version knows.
    """
    script = ScriptDirectory(MIGRATIONS)
    context = MigrationContext.configure(connection)
    current, head = context.get_current_revision(), script.get_current_head()
    if current == head:
        return
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise StoreError(
            f"{place}: has schema {current}, newer than {head} of this version; upgrade rlhf"
        )
    pending = list(script.iterate_revisions(head, current or "base"))
    with Operations.context(context):
        for revision in reversed(pending):
            revision.module.upgrade()
            context.stamp(script, revision.revision)
