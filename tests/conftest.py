"""Fixtures: a tiny model on disk, rows in files, places for stores; no network.

Where RLHF_TEST_POSTGRES_URL names a database, tests that ask for ``dialect``, ``place`` or what is
made of it run a second time on PostgreSQL, each in a schema of its own; ``make test-postgres``
starts a server. (The password of another one goes into PGPASSWORD.) A test that also asks for
``path`` is about the file and runs on SQLite alone, one that asks for ``schema_url`` on PostgreSQL.
"""

import json
import os
import shutil
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch
from tiny_model import make_model, make_tokenizer

from rlhf.store import RankingStore

POSTGRES_URL = os.environ.get("RLHF_TEST_POSTGRES_URL")


def pytest_generate_tests(metafunc):
    wanted = metafunc.fixturenames
    of_one = {"path", "schema_url"} & {*wanted}
    if POSTGRES_URL and "dialect" in wanted and not of_one:
        other = pytest.param("postgresql", marks=pytest.mark.postgres)
        metafunc.parametrize("dialect", ["sqlite", other], indirect=True)


def pytest_collection_modifyitems(items):
    for item in items:
        if "schema_url" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.postgres)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Folder of a two-layer Llama with a chat template."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def write_rows(tmp_path):
    """Write rows as JSONL and give the path."""

    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def dialect(request):
    return getattr(request, "param", "sqlite")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite"


@pytest.fixture
def schema_url():
    """Give, at each call, the URL of a new and empty schema of PostgreSQL."""
    if not POSTGRES_URL:
        pytest.skip("RLHF_TEST_POSTGRES_URL is not set")
    url = sa.make_url(POSTGRES_URL)
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    made = []

    def make():
        made.append(f"test_{uuid.uuid4().hex}")
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {made[-1]}")
        own = url.update_query_dict({"options": f"-csearch_path={made[-1]}"})
        return own.render_as_string(hide_password=False)

    yield make
    with engine.begin() as connection:
        connection.exec_driver_sql("SET client_min_messages = warning")
        for name in made:
            connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def new_place(dialect, tmp_path, request):
    """Give, at each call, where another store can be made: a path or a URL."""
    if dialect == "postgresql":
        return request.getfixturevalue("schema_url")
    return lambda: str(tmp_path / f"{uuid.uuid4().hex}.sqlite")


@pytest.fixture
def place(dialect, tmp_path, new_place):
    """Where the store of the test is, or will be."""
    return new_place() if dialect == "postgresql" else str(tmp_path / "store.sqlite")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """Made once: copying a file is faster than migrating one for every test."""
    made = tmp_path_factory.mktemp("empty") / "store.sqlite"
    RankingStore.open(made).close()
    return made


@pytest.fixture
def empty_place(dialect, place, empty_store):
    """The place of the test, with an empty store there."""
    if dialect == "sqlite":
        shutil.copy(empty_store, place)
    return place


@pytest.fixture
def raw(dialect, place):
    """An engine behind the store's back: ``with raw.begin() as connection: ...``."""
    if dialect == "postgresql":
        url = sa.make_url(place).set(drivername="postgresql+psycopg")
        return sa.create_engine(url, poolclass=sa.NullPool)
    engine = sa.create_engine(sa.URL.create("sqlite", database=place), poolclass=sa.NullPool)
    sa.event.listen(engine, "connect", lambda conn, _: conn.execute("PRAGMA foreign_keys = 1"))
    return engine
