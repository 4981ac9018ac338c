"""Where a store is: a path, or the URL of a file or of a PostgreSQL database."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from rlhf.errors import StoreError
from rlhf.store.engine import Database
from rlhf.store.postgres import SCHEME, PostgresDatabase, postgres_url
from rlhf.store.sqlite import SQLiteDatabase, sqlite_path


def find_place(path_or_url: str | os.PathLike[str]) -> Path | sa.URL:
    """Find the file, or the URL of the database, that a path or a URL names.

    Raises:
        StoreError: If it names neither.
    """
    text = os.fspath(path_or_url)
    scheme, separator, _ = text.partition("://")
    if separator and SCHEME.fullmatch(scheme):
        return postgres_url(text)
    if separator and scheme != "sqlite":
        raise StoreError(
            f"store {scheme}://...: only SQLite and PostgreSQL are supported; give a path, "
            "sqlite:///path or postgresql://user@host/database"
        )
    return sqlite_path(text)


def open_database(path_or_url: str | os.PathLike[str], *, create: bool) -> Database:
    """Open the database of a store, making or upgrading it where needed.

    Raises:
        StoreError: If it is not a store, is of a newer version or can't be used.
    """
    place = find_place(path_or_url)
    if isinstance(place, Path):
        return SQLiteDatabase(place, create=create)
    return PostgresDatabase(place, create=create)
