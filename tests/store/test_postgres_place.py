"""URLs of PostgreSQL: what is read from them, what is shown of them, what fails in one line."""

import builtins

import pytest

from rlhf.errors import StoreError
from rlhf.store import RankingStore
from rlhf.store.places import find_place
from rlhf.store.postgres import shown

HIDDEN = "s3cret"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_a_url_is_read(scheme):
    url = find_place(f"{scheme}://me@host:5433/labels?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert url.query["sslmode"] == "require"
    assert shown(url) == "postgresql://me@host:5433/labels"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{HIDDEN}@host:5433/labels",
        f"postgresql://me@host:5433/labels?password={HIDDEN}",
        f"postgresql://me@host:5433/labels?sslpassword={HIDDEN}&sslmode=require",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(text):
    """Commands show and record the URL of their store."""
    message = r"^store postgresql://me@host:5433/labels: leave the password out .*PGPASSWORD"
    with pytest.raises(StoreError, match=message) as caught:
        find_place(text)
    assert HIDDEN not in str(caught.value)


def test_a_socket_and_a_schema_are_shown():
    url = find_place("postgresql://me@/labels?host=/run/pg&options=-csearch_path%3Done")
    assert shown(url) == "postgresql://me@/labels?host=%2Frun%2Fpg&options=-csearch_path%3Done"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"postgresql://me:{HIDDEN}@host:{HIDDEN}/db", "not a URL of PostgreSQL"),
        (f"postgresql+asyncpg://me:{HIDDEN}@host/db", "only SQLite and PostgreSQL"),
        (f"mysql://me:{HIDDEN}@host/db", "only SQLite and PostgreSQL"),
        (f"://me:{HIDDEN}@host/db", "only SQLite and PostgreSQL"),
    ],
)
def test_other_urls_are_refused_in_one_line(text, message):
    with pytest.raises(StoreError, match=message) as caught:
        RankingStore.open(text)
    assert "\n" not in str(caught.value)
    assert HIDDEN not in str(caught.value)


def test_a_missing_driver_is_told(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "psycopg":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StoreError, match=r"needs psycopg: pip install .*\[postgres\]"):
        RankingStore.open("postgresql://me@host/db")


def test_a_server_that_is_down_is_told_in_one_line(monkeypatch):
    """Nothing listens on port 1 of this machine."""
    pytest.importorskip("psycopg")
    monkeypatch.setenv("PGPASSWORD", HIDDEN)
    with pytest.raises(StoreError, match=r"can't be opened .*refused") as caught:
        RankingStore.open("postgresql://me@127.0.0.1:1/db")
    assert "\n" not in str(caught.value)
    assert HIDDEN not in str(caught.value)
