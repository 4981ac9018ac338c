"""Purging a file: nothing of a deleted row is left in it or beside it, while it is open."""

import pytest

from rlhf.errors import StoreError

NAME = "Zacharias Quill"


def traces(path):
    files = [path, *path.parent.glob(f"{path.name}-*")]
    return [file.name for file in files if NAME.encode() in file.read_bytes()]


@pytest.mark.parametrize("overwrites", [0, 1])
def test_a_purged_file_holds_nothing_of_a_deleted_row(store, path, raw, overwrites):
    """Deleted by this version, or by one that did not overwrite what it deleted."""
    for number in range(200):  # rows on several pages
        store.add_annotator(f"{NAME} {number}")
    with raw.begin() as connection:
        connection.exec_driver_sql(f"PRAGMA secure_delete = {overwrites}")
        connection.exec_driver_sql("DELETE FROM annotators WHERE id > 1")
        connection.exec_driver_sql("UPDATE annotators SET name = NULL, name_key = NULL")
    assert traces(path)
    store._database.purge("annotators")
    assert traces(path) == []
    assert store.add_annotator("eve", "eve-1") == "eve-1"


def test_a_file_that_somebody_reads_all_the_while_is_told(store, path):
    store.add_annotator(NAME)
    with store._database.write() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 50")
    with store._database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM annotators").scalar_one() == 1
        with pytest.raises(StoreError, match=r"not rewritten .*in use"):
            store._database.purge("annotators")
    store._database.purge("annotators")
