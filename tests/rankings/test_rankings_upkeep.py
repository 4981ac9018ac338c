"""Verify and backup: a fault is one line, a copy is whole or absent."""

import sqlite3
from contextlib import closing

import pytest

from rlhf.cli import main
from rlhf.config import RankingsBackupConfig
from rlhf.errors import StoreError
from rlhf.rankings.files import verify_file
from rlhf.rankings.upkeep import backup
from rlhf.store import RankingStore


def change(path, *statements):
    """Change a store behind its back."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_whole_store_is_counted(people_store, capsys):
    assert main(["rankings", "verify", "--store", str(people_store)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    found = dict(line.split() for line in shown.out.splitlines() if line)
    assert (found["tasks"], found["rankings"], found["annotators"]) == ("3", "7", "3")
    with closing(sqlite3.connect(people_store)) as connection:
        last = "SELECT chain FROM rankings WHERE id = (SELECT max(id) FROM rankings)"
        assert connection.execute(last).fetchone() == (found["chain"],)


def test_verify_leaves_the_file_as_it_is(people_store):
    before = people_store.read_bytes()
    files = sorted(people_store.parent.iterdir())
    assert verify_file(people_store).faults == ()
    assert people_store.read_bytes() == before
    assert sorted(people_store.parent.iterdir()) == files


def test_a_store_in_use_is_whole(people_store):
    with RankingStore.open(people_store) as store:
        store.add_annotator("new")
        assert verify_file(people_store).figures["annotators"] == 4


NO_TRIGGERS = [
    f"DROP TRIGGER {name}"
    for name in ("rankings_no_delete", "rankings_no_update", "tasks_content_stays")
]
FAULTS = {
    "trigger": (["DROP TRIGGER rankings_no_delete"], ["trigger rankings_no_delete is missing"]),
    "triggers": (
        NO_TRIGGERS[:2],
        ["trigger rankings_no_delete is missing", "trigger rankings_no_update is missing"],
    ),
    "reference": (
        ["PRAGMA foreign_keys = 0", "DELETE FROM annotators WHERE pseudonym = 'eve'"],
        ["refers to a row of annotators that is not there"],
    ),
    "count": (["UPDATE tasks SET n_done = 5 WHERE id = 1"], ["task 1: counts 5 people, 3 have"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_a_line_and_status_2(name: str, people_store, capsys):
    statements, told = FAULTS[name]
    change(people_store, *statements)
    assert main(["rankings", "verify", "--store", str(people_store)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == len(told)
    for line, text in zip(lines, told, strict=True):
        assert line.startswith(f"error: {people_store}: ")
        assert text in line


def rewritten(path, trigger, statement):
    """Change what a trigger guards, and put the trigger back."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT sql FROM sqlite_master WHERE name = ?"
        (definition,) = connection.execute(query, (trigger,)).fetchone()
        connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(statement)
        connection.execute(definition)
        connection.commit()


def test_a_changed_text_and_a_changed_ranking_are_found(people_store):
    statement = """UPDATE tasks SET prompt = '"other"' WHERE id = 2"""
    rewritten(people_store, "tasks_content_stays", statement)
    statement = "UPDATE rankings SET ranks = '[1, 9, 2]' WHERE id = 1"
    rewritten(people_store, "rankings_no_update", statement)
    first, second, third = verify_file(people_store).faults
    assert "task 2: its texts are not those of its sha256" in first
    assert "ranking 1: does not parse (rank 9 is not a whole number" in second
    assert "ranking 1: it was changed, or one before it was removed or changed" in third


def test_damaged_pages_are_found(people_store, capsys):
    content = bytearray(people_store.read_bytes())
    content[4096 * 3 :] = b"\x5a" * len(content[4096 * 3 :])
    people_store.write_bytes(content)
    assert main(["rankings", "verify", "--store", str(people_store)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {people_store}: ")


@pytest.mark.parametrize("command", ["verify", "backup"])
def test_what_is_no_store_is_told_in_one_line(command: str, tmp_path, capsys):
    rest = ["--output", str(tmp_path / "copy")] if command == "backup" else []
    (tmp_path / "text").write_text("not a store")
    for name, told in (("none", "no such store"), ("text", "is not a ranking store")):
        assert main(["rankings", command, "--store", str(tmp_path / name), *rest]) == 2
        shown = capsys.readouterr().err
        assert told in shown
        assert shown.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_backup_of_a_store_in_use_says_the_same(people_store, tmp_path):
    copy = tmp_path / "copy.sqlite"
    with RankingStore.open(people_store) as store:
        store.add_annotator("new")
        figures = backup(RankingsBackupConfig(store=str(people_store), output=str(copy)))
        before = store.fingerprint()
    assert (figures["rankings"], figures["annotators"]) == (7, 4)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert not [path for path in tmp_path.iterdir() if "copy.sqlite" in path.name and path != copy]
    with RankingStore.open(copy, create=False) as restored:
        assert restored.fingerprint() == before


def test_a_backup_never_replaces_a_file(people_store, tmp_path):
    copy = tmp_path / "copy.sqlite"
    copy.write_text("mine")
    with pytest.raises(StoreError, match="is there already; give a new name"):
        backup(RankingsBackupConfig(store=str(people_store), output=str(copy)))
    assert copy.read_text() == "mine"


def test_a_store_with_a_fault_is_not_backed_up(people_store, tmp_path):
    change(people_store, "DROP TRIGGER rankings_no_delete")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StoreError, match=r"not backed up: .*rankings_no_delete is missing"):
        backup(RankingsBackupConfig(store=str(people_store), output=str(tmp_path / "copy")))
    assert sorted(tmp_path.iterdir()) == before
    missing = tmp_path / "none" / "copy"
    with pytest.raises(StoreError, match="can't be written"):
        backup(RankingsBackupConfig(store=str(people_store), output=str(missing)))
