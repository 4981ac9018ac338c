"""A store of the first version is upgraded with everything in it; the chain over the rankings."""

import hashlib
import json
import sqlite3

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from rlhf.store import RankingStore, Submission
from rlhf.store.engine import MIGRATIONS
from rlhf.store.hashes import CHAINED, chain_link, lottery_of


@pytest.fixture
def old_store(place, monkeypatch):
    """A store as version 0001 made it, with two rankings of one person by raw SQL."""
    monkeypatch.setattr(ScriptDirectory, "get_current_head", lambda self: "0001")
    RankingStore.open(place).close()
    monkeypatch.undo()
    return place


FIRST_ROWS = (
    "INSERT INTO annotators (pseudonym, name, name_key, created_ms) "
    "VALUES ('annotator-1', 'Ann', 'ann', 0)",
    "INSERT INTO tasks (sha256, prompt, candidates, n_candidates, overlap, pool, meta, n_done, "
    'created_ms) VALUES (\'aa\', \'"p"\', \'[{"text": "a", "model": null}, '
    '{"text": "b", "model": null}]\', 2, 1, \'normal\', \'{}\', 1, 0), '
    '(\'bb\', \'"q"\', \'[{"text": "a", "model": null}, '
    '{"text": "b", "model": null}]\', 2, 3, \'normal\', \'{}\', 0, 0)',
    "INSERT INTO assignments (task_id, annotator_id, state, shown_order, lease_until_ms, "
    "created_ms) VALUES (1, 1, 'done', '[1, 0]', 0, 0)",
    "INSERT INTO rankings (request_id, assignment_id, task_id, annotator_id, revision, action, "
    "ranks, others_worse, flags, reason, comment, late, simulated, submitted_ms) VALUES "
    "('request-1', 1, 1, 1, 1, 'rank', '[1, 2]', false, NULL, '', 'é', false, false, 5), "
    "('request-2', 1, 1, 1, 2, 'rank', '[2, 1]', false, '[[], [\"a\"]]', '', '', true, true, 6)",
)


def links(raw):
    with raw.begin() as connection:
        return connection.execute(sa.text("SELECT * FROM rankings ORDER BY id")).mappings().all()


def expected_links(rows):
    found, link = [], ""
    for row in rows:
        link = chain_link(link, row)
        found.append(link)
    return found


def test_an_old_store_is_upgraded_with_what_it_holds(old_store, raw):
    with raw.begin() as connection:
        for statement in FIRST_ROWS:
            connection.execute(sa.text(statement.replace(":", "\\:")))
        if raw.dialect.name == "postgresql":  # numbers given by hand move no sequence
            connection.exec_driver_sql("SELECT setval('assignments_id_seq', 1)")
    with RankingStore.open(old_store) as store:
        (ranking,) = store.rankings()
        assert (ranking.id, ranking.ranks, ranking.flags) == ("request-2", (2, 1), ((), ("a",)))
        assert [task.priority for task in store.tasks()] == [0, 0]
        assert not any(task.paused for task in store.tasks())
        assert store.claim("ann").task_id == 2
        assert store.people.accounts() == ()
    with raw.begin() as connection:
        lots = connection.exec_driver_sql("SELECT lottery FROM tasks ORDER BY id").scalars().all()
        planned = connection.exec_driver_sql("SELECT planned FROM tasks ORDER BY id").scalars()
        assert planned.all() == [1, 2], "of three, the third may have been asked later"
    assert lots == [lottery_of("aa"), lottery_of("bb")]
    rows = links(raw)
    assert [row["chain"] for row in rows] == expected_links(rows)
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), raw.begin() as connection:
        connection.exec_driver_sql("UPDATE rankings SET chain = 'x'")


def test_an_upgraded_store_has_the_schema_of_a_new_one(old_store, path, tmp_path):
    def schema(file):
        with sqlite3.connect(file) as connection:
            return connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")

    RankingStore.open(old_store).close()
    RankingStore.open(tmp_path / "new.sqlite").close()
    assert schema(path).fetchall() == schema(tmp_path / "new.sqlite").fetchall()


def test_an_upgrade_that_fails_leaves_the_old_store(old_store, raw, monkeypatch):
    def fail(*_args):
        raise RuntimeError("power cut")

    with monkeypatch.context() as broken:
        broken.setattr("rlhf.store.hashes._digest", fail)
        with raw.begin() as connection:
            for statement in FIRST_ROWS:
                connection.execute(sa.text(statement.replace(":", "\\:")))
        with pytest.raises(RuntimeError, match="power cut"):
            RankingStore.open(old_store)
        with raw.begin() as connection:
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
            assert found.scalar_one() == "0001"
        assert "accounts" not in sa.inspect(raw).get_table_names()
    RankingStore.open(old_store).close()


def test_there_is_one_line_of_revisions():
    script = ScriptDirectory(MIGRATIONS)
    assert [revision.revision for revision in script.walk_revisions()] == ["0003", "0002", "0001"]


# -- the chain -------------------------------------------------------------------------------------


@pytest.fixture
def filled(store, new_task, tmp_path):
    """Rankings of all kinds: full, corrected, skipped, imported."""
    store.add_tasks(new_task(n, pool="hard") for n in range(3))
    held = store.claim("ann")
    flags = ((), ("wrong",), (), ())
    store.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4), flags=flags))
    corrected = Submission("request-2", (2, 1, None, None), strengths=(3,), replaces=1)
    store.submit(held.id, "ann", corrected)
    held = store.claim("ann")
    skipped = Submission("request-3", action="skip", reason="other", comment="é", active_ms=5)
    store.submit(held.id, "ann", skipped)
    row = '{"prompt": "p", "completions": ["a", "b"], "ranks": [1, 2], "simulated": true}\n'
    (tmp_path / "in.jsonl").write_text(row)
    store.import_jsonl(tmp_path / "in.jsonl")
    return store


def test_every_ranking_is_chained_to_the_one_before(filled, raw):
    rows = links(raw)
    assert len(rows) == 4
    assert [row["chain"] for row in rows] == expected_links(rows)


def test_the_chain_is_the_same_whoever_reads_the_row(filled, raw, path):
    """Plain SQLite gives JSON as text and booleans as numbers, SQLAlchemy values."""
    with sqlite3.connect(path) as plain:
        plain.row_factory = sqlite3.Row
        rows = plain.execute("SELECT * FROM rankings ORDER BY id").fetchall()
    assert [row["chain"] for row in rows] == expected_links(rows)


CHANGES = {
    "request_id": "request-9",
    "annotator_id": 7,
    "task_id": 7,
    "assignment_id": 7,
    "revision": 9,
    "action": "all_bad",
    "ranks": [4, 3, 2, 1],
    "others_worse": True,
    "flags": [["a"], [], [], []],
    "strengths": [2],
    "reason": "because",
    "comment": "x",
    "active_ms": 77,
    "late": True,
    "simulated": True,
    "submitted_ms": 1,
}


@pytest.mark.parametrize("column", CHAINED)
def test_a_changed_column_breaks_the_chain(filled, raw, column):
    rows = [dict(row) for row in links(raw)]
    rows[1][column] = CHANGES[column]
    found = [link == row["chain"] for link, row in zip(expected_links(rows), rows, strict=True)]
    assert found == [True, False, False, False]


def test_a_row_removed_moved_or_put_in_breaks_the_chain(filled, raw):
    rows = [dict(row) for row in links(raw)]
    for wrong in (rows[1:], [rows[0], *rows[2:]], [rows[1], rows[0], *rows[2:]],
                  [rows[0], {**rows[0], "request_id": "request-8"}, *rows[1:]]):  # fmt: skip
        assert expected_links(wrong) != [row["chain"] for row in wrong]


def test_the_columns_of_the_chain_are_all_but_number_and_link(raw, store):
    names = {column["name"] for column in sa.inspect(raw).get_columns("rankings")}
    assert names - set(CHAINED) == {"id", "chain"}


def test_the_formulas_stay():
    """Computed once with hashlib by hand; a store relies on them for ever."""
    row = dict.fromkeys(CHAINED, 0) | {"ranks": "[1, 2]", "flags": None, "strengths": None}
    content = dict.fromkeys(CHAINED, 0) | {
        "ranks": [1, 2], "flags": None, "strengths": None,
        "others_worse": False, "late": False, "simulated": False,
    }  # fmt: skip
    text = "before\x1f" + json.dumps(content, sort_keys=True)
    assert chain_link("before", row) == hashlib.sha256(text.encode()).hexdigest()
    digest = hashlib.sha256(b"lottery\x1faa").hexdigest()
    assert lottery_of("aa") == int(digest[:8], 16) // 2
