"""Export and import: lossless, idempotent, and one line for what can't be used."""

import json
import time

import pytest

from rlhf.errors import DataError
from rlhf.records import Prompt, Ranking
from rlhf.store import RankingStore, Submission
from rlhf.store.exchange import from_row, to_row


@pytest.fixture
def filled(store, clock, new_task):
    """Four tasks, two people: a full ranking, one with everything, a skip, a correction."""
    meta = {"task": "reply"}
    store.add_tasks([new_task(n, k=3 + n, overlap=2, meta=meta, pool="random") for n in range(4)])
    held = store.claim("ann")
    store.submit(held.id, "ann", Submission("request-1", (3, 1, 1), comment="\u2028 ends"))
    held = store.claim("ann")
    everything = Submission(
        "request-2",
        (2, 1, None, None),
        flags=(("a",), (), (), ("b", "c")),
        strengths=(2,),
        others_worse=True,
        active_ms=5,
        simulated=True,
    )
    store.submit(held.id, "ann", everything)
    held = store.claim("bob")
    store.submit(held.id, "bob", Submission("request-3", action="skip", reason="too_long"))
    held = store.claim("bob")
    clock.now += 1.234
    store.submit(held.id, "bob", Submission("request-4", action="all_bad"))
    store.submit(held.id, "bob", Submission("request-5", (1, 2, 3, 4), replaces=1))
    return store


def test_what_goes_out_comes_in_the_same(filled, tmp_path):
    out = tmp_path / "rankings.jsonl"
    assert filled.export_jsonl(out) == 4
    with RankingStore.open(tmp_path / "other.sqlite") as other:
        assert other.import_jsonl(out).added == 4
        assert list(other.rankings()) == list(filled.rankings())
        assert other.fingerprint() == filled.fingerprint()
        again = tmp_path / "again.jsonl"
        other.export_jsonl(again)
        assert again.read_bytes() == out.read_bytes()
        # Imported tasks are done: nobody is asked again.
        assert other.progress().surplus == 0


def test_importing_twice_or_into_itself_changes_nothing(filled, tmp_path):
    out = tmp_path / "rankings.jsonl"
    filled.export_jsonl(out)
    before = filled.fingerprint()
    result = filled.import_jsonl(out)
    assert (result.added, result.known) == (0, 4)
    assert filled.fingerprint() == before


def test_an_older_export_does_not_undo_a_correction(store, tmp_path, new_task):
    store.add_tasks([new_task(1)])
    held = store.claim("ann")
    store.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4)))
    store.export_jsonl(tmp_path / "old.jsonl")
    store.submit(held.id, "ann", Submission("request-2", (4, 3, 2, 1), replaces=1))
    store.export_jsonl(tmp_path / "new.jsonl")
    with RankingStore.open(tmp_path / "other.sqlite") as other:
        other.import_jsonl(tmp_path / "new.jsonl")
        other.import_jsonl(tmp_path / "old.jsonl")
        assert [ranking.id for ranking in other.rankings()] == ["request-2"]
        assert other.fingerprint() == store.fingerprint()


def test_an_export_says_how_many_people_were_planned(store, tmp_path, new_task):
    """A third one, asked for a disagreement, stays one more than planned."""
    store.add_tasks([new_task(1, overlap=2)])
    for name, ranks in (("ann", (1, 2, 3, 4)), ("bob", (4, 3, 2, 1)), ("cyd", (1, 2, 3, 4))):
        held = store.claim(name)
        own = tuple(ranks[int(text.rsplit(".", 1)[1])] for text in held.completions)
        store.submit(held.id, name, Submission(f"request-{name}", own))
    store.export_jsonl(tmp_path / "out.jsonl")
    with RankingStore.open(tmp_path / "other.sqlite") as other:
        other.import_jsonl(tmp_path / "out.jsonl")
        (task,) = other.snapshot().ranked_tasks.values()
        assert (task.planned, next(other.tasks()).overlap) == (2, 3)
        other.add_tasks([new_task(1, overlap=3)])
        (task,) = other.snapshot().ranked_tasks.values()
        assert task.planned == 3


def test_the_fingerprint_sees_what_is_said_and_not_when(filled, clock, tmp_path):
    before = filled.fingerprint()
    assert before == filled.fingerprint()
    rows = [to_row(ranking) for ranking in filled.rankings()]
    for row in rows:
        row["meta"]["submitted_at"] = "2020-01-01T00:00:00+00:00"
    with RankingStore.open(tmp_path / "other.sqlite") as other:
        other.import_rankings(from_row(row) for row in reversed(rows))
        assert other.fingerprint() == before
    rows[0]["ranks"] = [1, 2, 3]
    with RankingStore.open(tmp_path / "third.sqlite") as other:
        other.import_rankings(map(from_row, rows))
        assert other.fingerprint() != before


def test_plain_rows_of_others_are_taken(store, tmp_path):
    """No ids, no annotators, ranks with gaps; the same row twice is two people."""
    row = {"prompt": "p", "completions": ["a", "b", "c"], "ranks": [1, 3, 3]}
    lines = [row, row, {**row, "ranks": [3, None, 1], "annotator": "kim"}]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    assert store.import_jsonl(source).added == 3
    assert store.import_jsonl(source).known == 3
    found = {ranking.annotator: ranking.ranks for ranking in store.rankings()}
    assert found == {"unknown-1": (1, 2, 2), "unknown-2": (1, 2, 2), "kim": (2, None, 1)}


def test_completions_in_another_order_are_the_same_task(store):
    one = Ranking(Prompt.parse("p"), ("a", "b", "c"), (1, 2, 3), "x", "ranking-1")
    two = Ranking(Prompt.parse("p"), ("c", "a", "b"), (1, 2, 3), "y", "ranking-2")
    store.import_rankings([one, two])
    assert len(list(store.tasks())) == 1
    assert [ranking.ranks for ranking in store.rankings()] == [(1, 2, 3), (2, 3, 1)]


def test_a_shown_order_follows_its_texts_into_another_order(store):
    shown = {"shown_order": [2, 0, 1]}
    one = Ranking(Prompt.parse("p"), ("a", "b", "c"), (1, 2, 3), "x", "ranking-1", meta=shown)
    two = Ranking(Prompt.parse("p"), ("c", "a", "b"), (1, 2, 3), "y", "ranking-2", meta=shown)
    store.import_rankings([one, two])
    seen = [[r.completions[place] for place in r.meta["shown_order"]] for r in store.rankings()]
    assert seen == [["c", "a", "b"], ["b", "c", "a"]]


def test_equal_completions_with_equal_ranks_merge(store):
    prompt = Prompt.parse("p")
    store.import_rankings([Ranking(prompt, ("a", "b", "a"), (1, 3, 1), "x", "ranking-1")])
    (ranking,) = store.rankings()
    assert (ranking.completions, ranking.ranks) == (("a", "b"), (1, 2))


ROW = {"prompt": "p", "completions": ["a", "b"], "ranks": [1, 2], "id": "ranking-1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[1]", "JSON object"),
        ("{", "not JSON"),
        ('{"prompt": NaN}', "not JSON"),
        ('{"prompt": "p"}', "'completions' is missing"),
        (json.dumps({**ROW, "rank": 1}), "unknown key 'rank'"),
        (json.dumps({**ROW, "ranks": [1, 3]}), "rank 3"),
        (json.dumps({**ROW, "ranks": [1]}), "1 entries"),
        (json.dumps({**ROW, "ranks": [1, None]}), "at least two"),
        (json.dumps({**ROW, "completions": "ab"}), "'completions' must be list"),
        (json.dumps({**ROW, "completions": ["a", "a"]}), "ranks not"),
        (json.dumps({**ROW, "completions": ["a", "a"], "ranks": [1, 1]}), "same text"),
        (json.dumps({**ROW, "completions": ["a", 1]}), "must be text"),
        (json.dumps({**ROW, "completions": ["a", "\ud800"]}), "surrogate"),
        (json.dumps({**ROW, "id": "x"}), "request_id"),
        (json.dumps({**ROW, "annotator": "x" * 65}), "annotator"),
        (json.dumps({**ROW, "action": "love"}), "action"),
        (json.dumps({**ROW, "strengths": [7]}), "a strength"),
        (json.dumps({**ROW, "flags": [1, 2]}), "'flags'"),
        (json.dumps({**ROW, "meta": {"revision": 0}}), "revision"),
        (json.dumps({**ROW, "meta": {"revision": 2**31}}), "from 1 to 2147483647"),
        (json.dumps({**ROW, "meta": {"revision": True}}), "revision"),
        (json.dumps({**ROW, "meta": {"models": ["m"]}}), "models"),
        (json.dumps({**ROW, "meta": {"models": [1, 2]}}), "'models' must be text or null"),
        (json.dumps({**ROW, "meta": {"models": ["m", "\0"]}}), "'models' must be text or null"),
        (json.dumps({**ROW, "meta": {"shown_order": [0, 0]}}), "shown_order"),
        (json.dumps({**ROW, "meta": {"shown_order": ["0", 1]}}), "shown_order"),
        (json.dumps({**ROW, "meta": {"submitted_at": "noon"}}), "submitted_at"),
        (json.dumps({**ROW, "meta": {"submitted_at": "9999-12-31T23:59:59-14:00"}}), "to 2100"),
        (json.dumps({**ROW, "meta": {"submitted_at": "0001-01-01T00:00:00+14:00"}}), "from 1970"),
        (json.dumps({**ROW, "meta": {"submitted_at": "1970-01-01T00:00:00+00:01"}}), "from 1970"),
        (json.dumps({**ROW, "meta": {"submitted_at": "2100-01-01T00:00:01Z"}}), "to 2100"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_stored(store, tmp_path, row, message):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({**ROW, "id": "ranking-0"}) + "\n" + row + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        store.import_jsonl(source)
    assert str(caught.value).startswith(f"{source}:2: ")
    assert "\n" not in str(caught.value)
    assert store.progress().tasks == 0


def test_two_rankings_under_one_id_are_refused(store):
    one = from_row(ROW | {"annotator": "x"})
    store.import_rankings([one])
    with pytest.raises(DataError, match="another ranking's"):
        store.import_rankings([from_row(ROW | {"annotator": "x", "ranks": [2, 1]})])
    with pytest.raises(DataError, match="another ranking's"):
        store.import_rankings([from_row(ROW | {"annotator": "y"})])


@pytest.fixture
def far_away(monkeypatch):
    """A machine whose clock is not that of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2024-02-03T04:05:06", "2024-02-03T04:05:06.000Z"),
        ("2024-02-03T04:05:06-05:00", "2024-02-03T09:05:06.000Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        ("2099-12-31T19:00:00-05:00", "2100-01-01T00:00:00.000Z"),
    ],
)
def test_a_time_without_an_offset_is_utc_wherever_it_is_read(store, far_away, given, kept):
    store.import_rankings([from_row(ROW | {"meta": {"submitted_at": given}})])
    assert [ranking.meta["submitted_at"] for ranking in store.rankings()] == [kept]


def test_models_of_equal_completions_are_checked_too(store):
    row = {"prompt": "p", "completions": ["a", "b", "a"], "ranks": [1, 2, 1]}
    with pytest.raises(DataError, match="'models' must be text or null"):
        store.import_rankings([from_row(row | {"meta": {"models": ["m", None, 3]}})])


def test_two_rankings_of_one_revision_are_refused(store, tmp_path):
    row = ROW | {"annotator": "x", "meta": {"revision": 1}}
    source = tmp_path / "in.jsonl"
    source.write_text(f"{json.dumps(row)}\n{json.dumps(row | {'id': 'ranking-2'})}\n")
    with pytest.raises(DataError, match=r"in\.jsonl:2: meta 'revision' 1 .*'ranking-1'"):
        store.import_jsonl(source)
    assert store.progress().tasks == 0


def test_no_revision_follows_the_highest_one(store):
    row = ROW | {"annotator": "x"}
    store.import_rankings([from_row(row | {"meta": {"revision": 2**31 - 1}})])
    with pytest.raises(DataError, match="from 1 to 2147483647"):
        store.import_rankings([from_row(row | {"id": "ranking-2"})])


def test_missing_and_unreadable_files(store, tmp_path):
    with pytest.raises(DataError, match="can't be read"):
        store.import_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl:1: is not UTF-8"):
        store.import_jsonl(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match="can't be written"):
        store.export_jsonl(tmp_path / "no" / "out.jsonl")


def test_filters(filled):
    assert [ranking.id for ranking in filled.rankings(simulated=True)] == ["request-2"]
    assert len(list(filled.rankings(simulated=False))) == 3
    assert len(list(filled.rankings(pool="random"))) == 4
    assert list(filled.rankings(pool="normal")) == []


def test_a_reader_sees_one_moment(filled):
    """What is submitted while somebody reads is not in what they read."""
    reading = filled.rankings()
    next(reading)
    held = filled.claim("cy")
    filled.submit(held.id, "cy", Submission("request-9", action="all_bad"))
    assert len(list(reading)) == 3
    assert len(list(filled.rankings())) == 5


def test_nameless_rankings_of_two_files_replace_nothing(store, tmp_path):
    """Each is somebody's own, though both files number from the start."""
    for name, ranks in (("one", [1, 2]), ("two", [2, 1])):
        row = {"prompt": "p", "completions": ["x", "y"], "ranks": ranks}
        (tmp_path / name).write_text(json.dumps(row))
        assert store.import_jsonl(tmp_path / name).added == 1
    assert {ranking.annotator: ranking.ranks for ranking in store.rankings()} == {
        "unknown-1": (1, 2),
        "unknown-2": (2, 1),
    }
    assert store.import_jsonl(tmp_path / "one").known == 1
