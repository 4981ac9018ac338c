"""Stores on PostgreSQL, read without upgrading them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rlhf.rankings.faults import Query, Verdict, count, find_content_faults, find_schema_faults
from rlhf.store.engine import migrate
from rlhf.store.postgres import PostgresDatabase

if TYPE_CHECKING:
    from sqlalchemy import URL

_SCRATCH = "rlhf_scratch"
_HERE = "quote_ident(current_schema())::regnamespace"
_SCHEMA = f"""
    SELECT 'column ' || relname || '.' || attname,
      concat_ws(' ', format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'NOT NULL' END,
        pg_get_expr(adbin, adrelid))
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
      LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = {_HERE} AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'constraint ' || conname || ' of ' || relname,
      concat_ws(' ', pg_get_constraintdef(pg_constraint.oid),
        CASE WHEN NOT convalidated THEN 'not validated' END)
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid WHERE connamespace = {_HERE}
    UNION ALL
    SELECT 'index ' || relname,
      replace(pg_get_indexdef(indexrelid), quote_ident(current_schema()) || '.', '')
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE relnamespace = {_HERE}
    UNION ALL
    SELECT 'trigger ' || tgname || ' of ' || relname,
      pg_get_triggerdef(pg_trigger.oid, true) || ' ' || tgenabled::text
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = {_HERE} AND NOT tgisinternal
    UNION ALL
    SELECT 'enforcement of references of ' || relname, string_agg(DISTINCT tgenabled::text, ' ')
    FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = {_HERE} AND tgisinternal GROUP BY relname
    UNION ALL
    SELECT 'function ' || proname, prosrc FROM pg_proc WHERE pronamespace = {_HERE}
"""
_REFERENCES = f"""
    SELECT conrelid::regclass::text, confrelid::regclass::text,
      (SELECT array_agg(quote_ident(attname) ORDER BY place)
       FROM unnest(conkey) WITH ORDINALITY AS one(number, place)
       JOIN pg_attribute ON attrelid = conrelid AND attnum = number),
      (SELECT array_agg(quote_ident(attname) ORDER BY place)
       FROM unnest(confkey) WITH ORDINALITY AS one(number, place)
       JOIN pg_attribute ON attrelid = confrelid AND attnum = number)
    FROM pg_constraint WHERE connamespace = {_HERE} AND contype = 'f' ORDER BY conname
"""


def verify_url(url: URL) -> Verdict:
    """Check a store's references, schema, tasks and rankings; nothing is changed.

    A new store to compare with is made and taken back in one transaction: the user of the URL
    needs the right to create schemas in the database.

    Raises:
        StoreError: If the schema is no ranking store, or can't be read.
    """
    with closing(PostgresDatabase(url, create=False, upgrade=False)) as database:
        for check in (_find_schema_faults, _find_strays, _find_content_faults):
            faults = tuple(f"{database.place}: {fault}" for fault in check(database))
            if faults:  # what is read from a broken store proves nothing more
                return Verdict({}, faults)
        with database.read() as connection:
            figures = count(connection.exec_driver_sql)
        return Verdict(figures | {"store": database.place}, ())


def _find_schema_faults(database: PostgresDatabase) -> Iterator[str]:
    """Compare tables, indexes, triggers and functions with those of a new store."""
    with database.scratch() as connection:
        found = _definitions(connection.exec_driver_sql)
        connection.exec_driver_sql(f"CREATE SCHEMA {_SCRATCH}")
        connection.exec_driver_sql(f"SET LOCAL search_path = {_SCRATCH}")
        migrate(connection, database.place)
        wanted = _definitions(connection.exec_driver_sql)
    return find_schema_faults(found, wanted)


def _definitions(query: Query) -> dict[str, str]:
    return {row[0]: row[1] for row in query(_SCHEMA)}


def _find_strays(database: PostgresDatabase) -> Iterator[str]:
    with database.read() as connection:
        for table, parent, columns, keys in connection.exec_driver_sql(_REFERENCES).all():
            given = " AND ".join(f"a.{column} IS NOT NULL" for column in columns)
            same = " AND ".join(f"a.{a} = b.{b}" for a, b in zip(columns, keys, strict=True))
            strays: Any = connection.exec_driver_sql(
                f"SELECT count(*) FROM {table} AS a WHERE {given} "
                f"AND NOT EXISTS (SELECT 1 FROM {parent} AS b WHERE {same})"
            ).scalar_one()
            if strays:
                yield f"{table}: {strays} rows refer to rows of {parent} that are not there"


def _find_content_faults(database: PostgresDatabase) -> Iterator[str]:
    with database.read() as connection:
        yield from find_content_faults(connection.exec_driver_sql)
