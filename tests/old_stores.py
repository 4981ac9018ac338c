"""Stores as the first version left them, on both databases."""

import sqlite3
from contextlib import closing

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from rlhf.records import Prompt
from rlhf.store.checks import task_sha256
from rlhf.store.engine import APPLICATION_ID, MIGRATIONS
from rlhf.store.postgres import MARK

PROMPT = Prompt.parse("p")
ROWS = (
    "INSERT INTO annotators VALUES (1, 'ann-1', 'Ann', 'ann', 0)",
    "INSERT INTO tasks VALUES (1, '{sha256}', '{prompt}', "
    """'[{{"text": "a", "model": null}}, {{"text": "b", "model": null}}]', """
    "2, 1, 'normal', '{{}}', 1, 0)",
    "INSERT INTO assignments VALUES (1, 1, 1, 'done', '[1, 0]', 5, 0)",
    "INSERT INTO rankings VALUES (1, 'request-1', 1, 1, 1, 1, 'rank', '[2, 1]', {no}, NULL, NULL, "
    "'', 'ok', 7, {no}, {no}, 3)",
    "INSERT INTO rankings VALUES (2, 'request-2', 1, 1, 1, 2, 'rank', '[1, 2]', {no}, NULL, '[2]', "
    "'', '', NULL, {no}, {no}, 4)",
)


def make_first(place):
    """Make a store of the first schema: one task, one person, one ranking corrected once."""
    if "://" in place:
        engine = sa.create_engine(sa.make_url(place).set(drivername="postgresql+psycopg"))
    else:
        with closing(sqlite3.connect(place)) as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        engine = sa.create_engine(sa.URL.create("sqlite", database=place))
    script = ScriptDirectory(MIGRATIONS)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context):
            script.get_revision("0001").module.upgrade()
            context.stamp(script, "0001")
        postgresql = connection.dialect.name == "postgresql"
        values = {
            "sha256": task_sha256(PROMPT, ["a", "b"]),
            "prompt": '"p"',
            "no": "false" if postgresql else "0",
        }
        for row in ROWS:
            connection.exec_driver_sql(row.format(**values))
        if postgresql:
            connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS '{MARK}'")
    engine.dispose()
