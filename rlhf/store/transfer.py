"""All rows of a store into another, whatever the two databases are."""

from __future__ import annotations

import sqlalchemy as sa

from rlhf.errors import StoreError
from rlhf.store.engine import Database
from rlhf.store.schema import metadata

_BATCH = 500


def copy_rows(source: Database, target: Database) -> None:
    """Copy every row of one moment, numbers and all, into a store that holds none.

    Both must be of this version's schema. All rows are there afterwards, or none.

    Raises:
        StoreError: If the target holds rows.
    """
    with source.read() as reading, target.write() as writing:
        for table in metadata.sorted_tables:
            if writing.execute(sa.select(table).limit(1)).first() is not None:
                raise StoreError(f"{target.place}: is a store in use; give a new one")
        for table in metadata.sorted_tables:  # what is referred to comes first
            rows = reading.execute(sa.select(table).order_by(*table.primary_key.columns))
            for batch in rows.mappings().partitions(_BATCH):
                writing.execute(table.insert(), [dict(row) for row in batch])
        if writing.dialect.name == "postgresql":
            _count_on(writing)


def _count_on(connection: sa.Connection) -> None:
    """Let new rows get numbers after those that came with their own."""
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
            newest = sa.func.coalesce(sa.func.max(column), 0)
            connection.execute(sa.select(sa.func.setval(sequence, newest + 1, sa.false())))
