"""Verify, backup, restore and erase on both databases, and the way from one to the other."""

import pytest
import sqlalchemy as sa
from old_stores import make_first

from rlhf.cli import main
from rlhf.config import RankingsBackupConfig, RankingsRestoreConfig, RankingsVerifyConfig
from rlhf.errors import StoreError
from rlhf.rankings.upkeep import backup, restore, verify
from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, RankingStore, Submission


def task(number, k=3):
    texts = [f"answer {number}.{place}" for place in range(k)]
    candidates = tuple(Candidate(text, "a model") for text in texts)
    return NewTask(Prompt.parse(f"prompt {number}"), candidates, meta={"n": number})


def fill(place):
    """Two rankings of three tasks, one of them corrected; one lease is open."""
    with RankingStore.open(place) as store:
        store.add_tasks([task(n) for n in range(3)])
        held = store.claim("ann smith")
        store.submit(held.id, "ann smith", Submission("request-1", (1, 2, 2), comment="it's \\ ü"))
        again = Submission("request-2", (2, 1, None), flags=((), ("wrong",), ()), replaces=1)
        store.submit(held.id, "ann smith", again)
        skip = Submission("request-3", action="skip", reason="too_long")
        store.submit(store.claim("ann smith").id, "ann smith", skip)
        store.claim("bob")
        return store.fingerprint()


@pytest.fixture
def filled(place):
    fill(place)
    return place


def faults_of(place):
    return verify(RankingsVerifyConfig(store=place)).faults


def figures_of(place):
    return verify(RankingsVerifyConfig(store=place)).figures


def test_a_whole_store_is_counted_and_left_alone(filled, raw, capsys):
    with RankingStore.open(filled) as store:
        before = store.fingerprint()
    assert main(["rankings", "verify", "--store", filled]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    found = dict(line.split(maxsplit=1) for line in shown.out.splitlines() if line)
    assert (found["tasks"], found["rankings"], found["annotators"]) == ("3", "3", "2")
    with RankingStore.open(filled) as store:
        assert store.fingerprint() == before
    with raw.begin() as connection:
        assert "rlhf_scratch" not in sa.inspect(connection).get_schema_names()


def change(raw, *statements):
    """Change a store behind its back, past triggers and references."""
    with raw.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET session_replication_role = replica")
            for statement in statements:
                connection.exec_driver_sql(statement)
        else:
            connection.exec_driver_sql("PRAGMA foreign_keys = 0")
            guards = connection.exec_driver_sql(
                "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
            ).all()
            for name, _ in guards:
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
            for statement in statements:
                connection.exec_driver_sql(statement)
            for _, definition in guards:
                connection.exec_driver_sql(definition)
        connection.commit()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE tasks SET prompt = '\"other\"' WHERE id = 2", "task 2: its texts are not those"),
        ("UPDATE tasks SET n_done = 5 WHERE id = 1", "task 1: counts 5 people, 1 have ranked it"),
        ("UPDATE rankings SET ranks = '[1, 9, 2]' WHERE id = 2", "ranking 2: does not parse"),
        ("UPDATE rankings SET flags = '1' WHERE id = 2", "ranking 2: flags or strengths"),
        ("UPDATE rankings SET comment = 'no' WHERE id = 1", "ranking 1: it was changed"),
        ("UPDATE rankings SET active_ms = 9 WHERE id = 3", "ranking 3: it was changed"),
        ("DELETE FROM rankings WHERE id = 2", "ranking 3: it was changed, or one before it was"),
        ("UPDATE rankings SET chain = NULL WHERE id = 2", "ranking 2: it was changed"),
        ("DELETE FROM annotators WHERE id = 2", "of annotators that are not there"),
    ],
)
def test_a_change_behind_the_back_is_found(filled, raw, statement, told):
    assert faults_of(filled) == ()
    change(raw, statement)
    first = faults_of(filled)[0].replace("that is not there", "that are not there")
    assert told in first.replace("a row of annotators", "rows of annotators")
    with RankingStore.open(filled) as store:
        assert first.startswith(f"{store.place}: ")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP INDEX assignments_mine", "index assignments_mine is missing"),
        ("ALTER TABLE settings RENAME COLUMN changed_ms TO other_ms", "settings"),
        ("CREATE TABLE more (x INTEGER)", None),
    ],
)
def test_another_schema_is_found(filled, raw, statement, told):
    with raw.begin() as connection:
        connection.exec_driver_sql(statement)
    assert [told in fault for fault in faults_of(filled)][:1] == ([True] if told else [])


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP TRIGGER rankings_no_delete ON rankings", "rankings_no_delete of rankings is miss"),
        ("ALTER TABLE rankings DISABLE TRIGGER rankings_no_update", "no_update of rankings is not"),
        ("ALTER TABLE rankings DISABLE TRIGGER ALL", "enforcement of references of rankings is"),
        (
            "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN RETURN NULL; END $$",
            "function refuse_change is not that of this version",
        ),
        ("ALTER TABLE tasks DROP CONSTRAINT tasks_overlap", "tasks_overlap of tasks is missing"),
        ("ALTER TABLE tasks ALTER pool DROP NOT NULL", "column tasks.pool is not"),
    ],
)
def test_a_guard_of_postgresql_that_is_off_is_found(schema_url, statement, told):
    place = schema_url()
    fill(place)
    url = sa.make_url(place).set(drivername="postgresql+psycopg")
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql(statement)
    assert any(told in fault for fault in faults_of(place))


def test_a_backup_is_a_file_that_says_the_same(filled, tmp_path):
    copy = tmp_path / "copy.sqlite"
    with RankingStore.open(filled) as store:  # in use
        before = store.fingerprint()
        figures = backup(RankingsBackupConfig(store=filled, output=str(copy)))
        assert figures["store"] == store.place
    assert (figures["tasks"], figures["rankings"], figures["annotators"]) == (3, 3, 2)
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if "copy.sqlite" in path.name] == [copy.name]
    with RankingStore.open(copy, create=False) as restored:
        assert restored.fingerprint() == before


def test_a_store_with_a_fault_is_not_backed_up(filled, raw, tmp_path):
    files = sorted(tmp_path.iterdir())
    with pytest.raises(StoreError, match=r"can't be written|no such folder"):
        backup(RankingsBackupConfig(store=filled, output=str(tmp_path / "none" / "copy")))
    change(raw, "UPDATE tasks SET n_done = 5 WHERE id = 1")
    with pytest.raises(StoreError, match=r"not backed up: .*counts 5 people"):
        backup(RankingsBackupConfig(store=filled, output=str(tmp_path / "copy.sqlite")))
    assert sorted(tmp_path.iterdir()) == files


def rows_of(place):
    with RankingStore.open(place, create=False) as store, store._database.read() as connection:
        names = sorted(sa.inspect(connection).get_table_names())
        return {
            name: sorted(map(repr, connection.exec_driver_sql(f"SELECT count(*) FROM {name}")))
            for name in names
        }


@pytest.mark.parametrize("target", ["file", "same"])
def test_a_backup_is_restored_and_work_goes_on(filled, new_place, tmp_path, target):
    """From a file into a file, and from PostgreSQL into both."""
    copy = tmp_path / "copy.sqlite"
    backup(RankingsBackupConfig(store=filled, output=str(copy)))
    content = copy.read_bytes()
    place = str(tmp_path / "restored.sqlite") if target == "file" else new_place()
    figures = restore(RankingsRestoreConfig(backup=str(copy), store=place))
    with RankingStore.open(filled) as before, RankingStore.open(place, create=False) as after:
        assert figures["fingerprint"] == before.fingerprint() == after.fingerprint()
        assert list(after.tasks()) == list(before.tasks())
        assert list(after.rankings()) == list(before.rankings())
        assert after.progress() == before.progress()
        assert rows_of(place) == rows_of(filled)
        assert after.claim("bob").id == before.claim("bob").id
        # New rows get numbers of their own.
        assert after.add_tasks([task(9)]).ids == (4,)
        held = after.claim("eve")
        after.submit(held.id, "eve", Submission("request-9", (1, 2, 3)))
    assert faults_of(place) == ()
    assert copy.read_bytes() == content


def test_the_backup_of_a_file_goes_into_postgresql(path, tmp_path, schema_url):
    said, place, copy = fill(path), schema_url(), tmp_path / "copy.sqlite"
    backup(RankingsBackupConfig(store=str(path), output=str(copy)))
    restore(RankingsRestoreConfig(backup=str(copy), store=place))
    with RankingStore.open(place, create=False) as store:
        assert store.fingerprint() == said


def test_a_store_in_use_is_never_restored_over(filled, tmp_path):
    copy = tmp_path / "copy.sqlite"
    backup(RankingsBackupConfig(store=filled, output=str(copy)))
    with pytest.raises(StoreError, match=r"is there already|is a store in use"):
        restore(RankingsRestoreConfig(backup=str(copy), store=filled))
    assert figures_of(filled)["rankings"] == 3


def test_a_damaged_backup_is_told_and_leaves_nothing(path, tmp_path):
    fill(path)
    copy, target = tmp_path / "copy.sqlite", tmp_path / "restored.sqlite"
    backup(RankingsBackupConfig(store=str(path), output=str(copy)))
    content = bytearray(copy.read_bytes())
    content[4096 * 3 :] = b"\x5a" * len(content[4096 * 3 :])
    copy.write_bytes(content)
    with pytest.raises(StoreError, match=r"copy\.sqlite: not (restored: damaged|copied)"):
        restore(RankingsRestoreConfig(backup=str(copy), store=str(target)))
    assert not [item for item in tmp_path.iterdir() if "restored" in item.name]
    for missing in ("none.sqlite", "."):
        with pytest.raises(StoreError, match="no such store"):
            restore(RankingsRestoreConfig(backup=str(tmp_path / missing), store=str(target)))


def test_a_backup_of_an_older_version_is_upgraded_in_the_copy(path, tmp_path):
    target = tmp_path / "restored.sqlite"
    make_first(str(path))
    content = path.read_bytes()
    figures = restore(RankingsRestoreConfig(backup=str(path), store=str(target)))
    assert (figures["annotators"], figures["rankings"]) == (1, 2)
    assert path.read_bytes() == content
    assert faults_of(str(target)) == ()


def test_an_older_store_is_told_and_whole_once_it_was_opened(place):
    make_first(place)
    assert any("upgrade an older store" in fault for fault in faults_of(place))
    RankingStore.open(place).close()
    assert faults_of(place) == ()


def test_an_erased_person_leaves_rankings_and_no_name(filled, raw, capsys, tmp_path):
    with RankingStore.open(filled) as store:
        pseudonym = store.pseudonym("ann smith")
        before = store.fingerprint()
    assert main(["rankings", "erase", "--store", filled, "--annotator", "Ann Smith"]) == 0
    assert pseudonym in capsys.readouterr().out
    with RankingStore.open(filled) as store:
        assert store.pseudonym("ann smith") is None
        assert store.fingerprint() == before
    with raw.begin() as connection:
        kept = [str(row) for row in connection.exec_driver_sql("SELECT * FROM annotators")]
    assert len(kept) == 2
    assert not [row for row in kept if "smith" in row.lower()]
    for file in tmp_path.iterdir():
        assert b"smith" not in file.read_bytes().lower()
    assert faults_of(filled) == ()
