"""What is of PostgreSQL alone: durability read back, one writer, schemas that are not ours.

Runs where RLHF_TEST_POSTGRES_URL names a database; ``make test-postgres`` starts one.
"""

import threading

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from rlhf.errors import StoreError
from rlhf.store import RankingStore, Submission
from rlhf.store.postgres import _configurator

HIDDEN = "s3cret"


@pytest.fixture
def place(schema_url):
    return schema_url()


@pytest.fixture
def dialect():
    return "postgresql"


def settings(connect, *names):
    with connect() as connection:
        return [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]


def with_options(url, options):
    url = sa.make_url(url)
    given = url.query["options"]
    url = url.update_query_dict({"options": f"{given} {options}"})
    return url.render_as_string(hide_password=False)


@pytest.mark.parametrize("options", ["-c synchronous_commit=off", "-c synchronous_commit=local"])
def test_every_connection_is_durable_whatever_was_set(place, options):
    with RankingStore.open(with_options(place, options)) as store:
        for connect in (store._database.write, store._database.read):
            assert settings(connect, "synchronous_commit", "fsync") == ["on", "on"]


def test_more_than_durable_is_left_alone(place):
    with RankingStore.open(with_options(place, "-c synchronous_commit=remote_apply")) as store:
        assert settings(store._database.write, "synchronous_commit") == ["remote_apply"]


def test_writers_see_what_is_there_after_they_waited(place):
    """In another isolation a snapshot from before the wait would be read."""
    options = "-c default_transaction_isolation=serializable"
    with RankingStore.open(with_options(place, options)) as store:
        isolation = ("transaction_isolation", "transaction_read_only")
        assert settings(store._database.write, *isolation) == ["read committed", "off"]
        assert settings(store._database.read, *isolation) == ["repeatable read", "on"]


class Server:
    """A connection to a server with a setting that can't be changed."""

    def __init__(self, **fixed):
        self.values = {"synchronous_commit": "on", "fsync": "on", "server_encoding": "UTF8"}
        self.fixed = fixed

    def execute(self, query, values):
        if "set_config(%s" in query:
            self.values[values[0]] = values[1]
        if "current_setting" in query:
            name = values[0] if values else "synchronous_commit"
            self.found = {**self.values, **self.fixed}[name]
        else:
            self.found = "public"
        return self

    def fetchone(self):
        return (self.found,)

    def commit(self):
        pass


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"fsync": "off"}, "has fsync = off; a store needs on"),
        ({"server_encoding": "SQL_ASCII"}, "has server_encoding = SQL_ASCII; a store needs UTF8"),
        ({"synchronous_commit": "off"}, "has synchronous_commit = off; a store needs on"),
        ({"default_transaction_isolation": "serializable"}, "has default_transaction_isolation"),
    ],
)
def test_a_setting_that_does_not_hold_is_refused(fixed, message):
    configure = _configurator({"default_transaction_isolation": "read committed"})
    configure(Server(), None)
    with pytest.raises(StoreError, match=message):
        configure(Server(**fixed), None)


def test_one_writes_at_a_time_and_who_waits_too_long_is_told(store, place, new_task):
    store.add_tasks([new_task(1)])
    with RankingStore.open(place) as other:
        with other._database.write() as connection:
            connection.exec_driver_sql("SET lock_timeout = '200ms'")
        with (
            store._database.write(),
            pytest.raises(StoreError, match=r"nothing was stored \(others are writing; try again"),
        ):
            other.claim("ann")
        assert other.claim("ann") is not None


def test_a_writer_sees_what_the_one_before_stored(store, place, new_task):
    """The second waits for the lock; what it then reads is from after the first's commit."""
    store.add_tasks([new_task(1)])
    with RankingStore.open(place) as other:
        claimed = []
        waiting = threading.Thread(target=lambda: claimed.append(other.claim("bob")))
        with store._database.write() as connection:
            waiting.start()
            waiting.join(0.3)
            assert waiting.is_alive()
            connection.exec_driver_sql("UPDATE tasks SET n_done = overlap")
        waiting.join()
        assert claimed == [None]


def test_stores_in_two_schemas_do_not_wait_for_each_other(store, schema_url, new_task):
    with RankingStore.open(schema_url()) as other, store._database.write():
        assert other.add_tasks([new_task(1)]).added == 1


def test_a_schema_with_other_tables_is_refused_and_left_alone(place, raw):
    with raw.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE mine (x integer)")
    with pytest.raises(StoreError, match=r"not a ranking store: it holds the table 'mine'"):
        RankingStore.open(place)
    with raw.begin() as connection:
        assert sa.inspect(connection).get_table_names() == ["mine"]


def test_the_schema_of_another_program_is_refused(place, raw):
    """One that keeps its versions with Alembic too."""
    with raw.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num text)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('0001')")
    with pytest.raises(StoreError, match="not a ranking store"):
        RankingStore.open(place)


def test_tables_of_other_schemas_are_never_met(schema_url):
    """The search path names a store behind an empty schema: the empty one is taken."""
    behind, first = schema_url(), schema_url()
    RankingStore.open(behind).close()
    name = behind.rpartition("_path%3D")[2]
    both = sa.make_url(first)
    both = both.update_query_dict({"options": f"{both.query['options']},{name}"})
    text = both.render_as_string(hide_password=False)
    with pytest.raises(StoreError, match="holds no ranking store"):
        RankingStore.open(text, create=False)
    with RankingStore.open(text) as store:
        store.add_annotator("ann")
    with RankingStore.open(behind) as store:
        assert store.pseudonym("ann") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database": "no_such_database"}, "can't be opened .*no_such_database.* does not exist"),
        ({"username": "no_such_role"}, 'can\'t be opened .*"no_such_role"'),
        ({"options": "-csearch_path=nowhere"}, "search path names no schema"),
        ({"nonsense": "1"}, "can't be opened .*nonsense"),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_line(place, monkeypatch, change, message):
    url = sa.make_url(place)
    query = {key: value for key, value in change.items() if key in ("options", "nonsense")}
    url = url.set(**{key: value for key, value in change.items() if key not in query})
    url = url.update_query_dict(query)
    monkeypatch.setenv("PGPASSWORD", HIDDEN)
    with pytest.raises(StoreError, match=message) as caught:
        RankingStore.open(url.render_as_string(hide_password=False))
    assert "\n" not in str(caught.value)
    assert HIDDEN not in str(caught.value)


def test_a_wrong_password_is_told_without_it(place, raw, monkeypatch):
    """The server of ``make test-postgres`` asks this role for its password."""
    with raw.begin() as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS rlhf_locked")
        connection.exec_driver_sql("CREATE ROLE rlhf_locked LOGIN PASSWORD 'right'")
    url = sa.make_url(place).set(username="rlhf_locked")
    monkeypatch.setenv("PGPASSWORD", HIDDEN)
    with pytest.raises(StoreError) as caught:
        RankingStore.open(url.render_as_string(hide_password=False))
    assert HIDDEN not in str(caught.value)
    if "password" not in str(caught.value):
        pytest.skip("the server asks for no password")
    assert "password authentication failed" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_user_who_may_not_create_is_told(place, raw):
    with raw.begin() as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS rlhf_weak")
        connection.exec_driver_sql("CREATE ROLE rlhf_weak LOGIN")
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO rlhf_weak")
    url = sa.make_url(place).set(username="rlhf_weak")
    try:
        with pytest.raises(StoreError, match=r"can't be opened \(permission denied for schema"):
            RankingStore.open(url.render_as_string(hide_password=False))
    finally:
        with raw.begin() as connection:
            connection.exec_driver_sql("DROP OWNED BY rlhf_weak; DROP ROLE rlhf_weak")


@pytest.mark.parametrize("table", ["rankings", "tasks", "assignments", "annotators", "audit"])
def test_history_cannot_be_truncated(store, raw, new_task, table):
    """TRUNCATE fires no DELETE trigger."""
    store.add_tasks([new_task(1)])
    store.submit(store.claim("ann").id, "ann", Submission("request-1", (1, 2, 3, 4)))
    before = store.fingerprint()
    with pytest.raises(exc.IntegrityError, match="append-only"), raw.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE {table} CASCADE")
    assert store.fingerprint() == before


def cut_connections(raw):
    with raw.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'rlhf' AND pid <> pg_backend_pid()"
        )


def test_a_server_that_was_restarted_is_found_again(store, raw, new_task):
    store.add_tasks([new_task(1)])
    cut_connections(raw)
    assert store.progress().tasks == 1
    assert store.claim("ann") is not None


def break_off(store, raw, *statements):
    """Lose the server in the middle of a writing transaction."""
    with store._database.write() as connection:
        connection.exec_driver_sql("UPDATE annotators SET name = name")
        cut_connections(raw)
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_connection_that_breaks_is_told_and_nothing_is_stored(store, raw, new_task):
    with pytest.raises(StoreError, match=r"not written; nothing was stored \(") as caught:
        break_off(store, raw, "SELECT 1")
    assert "\n" not in str(caught.value)
    assert store.add_tasks([new_task(1)]).added == 1


def test_a_connection_that_breaks_at_the_end_leaves_it_open(store, raw):
    """Nobody can know whether the commit arrived: a claim of either kind could be false."""
    with pytest.raises(StoreError, match="may or may not be stored; send it again"):
        break_off(store, raw)


def test_a_failed_statement_of_a_row_is_told_without_its_values(store):
    with (
        pytest.raises(StoreError) as caught,
        store._database.write() as connection,
    ):
        connection.exec_driver_sql(f"SELECT CAST('{HIDDEN}' AS json)")
    assert "invalid input syntax for type json" in str(caught.value)
    assert HIDDEN not in str(caught.value)


def test_purging_rewrites_the_files_of_a_table(store, raw):
    def node():
        with raw.begin() as connection:
            return connection.exec_driver_sql("SELECT pg_relation_filenode('annotators')").scalar()

    store.add_annotator("ann", "ann-1")
    before = node()
    store._database.purge("annotators")
    assert node() != before
    assert store.pseudonym("ann") == "ann-1"
    store.add_annotator("bob")
