"""Opening a file: durability read back, migrations, and one line for what is not a store.

What is of PostgreSQL alone is in ``test_postgres.py``.
"""

import sqlite3
import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from rlhf.errors import StoreError
from rlhf.store import RankingStore, Submission, engine
from rlhf.store.engine import BUSY_TIMEOUT_MS
from rlhf.store.schema import metadata
from rlhf.store.sqlite import _configurator


def pragmas(connect, names):
    with connect() as connection:
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names}


def test_every_connection_is_durable(store, path):
    """synchronous 2 is FULL: a commit is on disk when it returns."""
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": BUSY_TIMEOUT_MS,
    }
    database = store._database
    assert pragmas(database.write, wanted) == wanted
    assert pragmas(database.read, wanted) == wanted
    assert pragmas(database.read, ["wal_autocheckpoint"]) == {"wal_autocheckpoint": 0}


def test_a_setting_that_does_not_hold_is_refused():
    """An in-memory database can't be WAL: it stays in mode 'memory'."""
    with pytest.raises(StoreError, match=r"refuses PRAGMA journal_mode = wal .*memory"):
        _configurator({"journal_mode": "wal"})(sqlite3.connect(":memory:"), None)


def test_readers_cannot_write(store):
    with pytest.raises(StoreError, match=r"read-?only"), store._database.read() as connection:
        connection.exec_driver_sql("DELETE FROM tasks")


def test_writes_take_the_lock_at_once(store, path):
    """A deferred transaction would begin here and fail later."""
    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    with store._database.write(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()


def test_the_file_is_the_owners_alone(store, path):
    assert path.stat().st_mode & 0o077 == 0


def test_migrations_build_what_the_code_expects(store):
    with store._database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == "0003"
        checks = [
            {check["name"] for check in sa.inspect(connection).get_check_constraints(name)}
            for name in metadata.tables
        ]
    wanted = [
        {str(c.name) for c in table.constraints if isinstance(c, sa.CheckConstraint)}
        for table in metadata.tables.values()
    ]
    assert checks == wanted


def test_reopening_finds_everything(place, new_task):
    with RankingStore.open(place if "://" in place else f"sqlite:///{place}") as store:
        store.add_tasks([new_task(1)])
        store.submit(store.claim("ann").id, "ann", Submission("request-1", (1, 2, 3, 4)))
        before = store.fingerprint()
    with RankingStore.open(place, create=False) as store:
        assert store.fingerprint() == before


def test_two_processes_share_a_store(place, store, new_task):
    store.add_tasks([new_task(1)])
    script = (
        "import sys; from rlhf.store import RankingStore, Submission\n"
        "with RankingStore.open(sys.argv[1], create=False) as store:\n"
        "    store.submit(store.claim('ann').id, 'ann', Submission('request-1', (1, 2, 3, 4)))\n"
        "print([m for m in ('torch', 'gradio', 'datasets', 'numpy') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, place], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert store.progress().rankings == 1


def test_a_newer_schema_is_refused(place, raw):
    RankingStore.open(place).close()
    with raw.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"schema 9999, newer than 0003 .* upgrade rlhf"):
        RankingStore.open(place)


def test_a_half_made_store_is_finished(path):
    """Killed after the mark and before the schema: what is left is an empty store."""
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA application_id = 0x524C4846")
    with RankingStore.open(path) as store:
        assert store.progress().tasks == 0


def test_a_failed_migration_leaves_nothing(place, raw, monkeypatch):
    """The last trigger fails: the tables made before it must not stay."""
    real = engine.MigrationContext.stamp

    def stamp(self, *rest):
        raise RuntimeError("power cut")

    monkeypatch.setattr(engine.MigrationContext, "stamp", stamp)
    with pytest.raises(RuntimeError, match="power cut"):
        RankingStore.open(place)
    with raw.begin() as connection:
        assert sa.inspect(connection).get_table_names() == []
    monkeypatch.setattr(engine.MigrationContext, "stamp", real)
    RankingStore.open(place).close()


def test_what_is_not_a_store_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("notes")
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as raw:
        raw.execute("CREATE TABLE mine (x)")
    for path in (text, foreign):
        before = path.read_bytes()
        with pytest.raises(StoreError, match="is not a ranking store"):
            RankingStore.open(path)
        assert path.read_bytes() == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["foreign.sqlite", "notes.txt"]


@pytest.mark.parametrize(
    ("place", "create", "message"),
    [
        ("missing/store.sqlite", True, "no such folder"),
        ("none.sqlite", False, "no such store"),
        ("empty.sqlite", False, "is empty"),
        (".", True, "is a folder"),
        ("mysql://me:secret@host/db", True, "only SQLite and PostgreSQL"),
        ("sqlite://", True, "names no file"),
        (":memory:", True, "is not a file"),
        ("", True, "is not a file"),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, place, create, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(StoreError, match=message) as caught:
        RankingStore.open(place, create=create)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["empty.sqlite"]


def test_a_full_disk_is_told_and_stores_nothing(store, path, new_task):
    with store._database.write() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match=r"not written; nothing was stored .*full"):
        store.add_tasks([new_task(n) for n in range(500)])
    assert store.progress().tasks == 0
    with store._database.write() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    assert store.add_tasks([new_task(1)]).added == 1
