"""Rankings: the right ranks on the right candidates, once, for ever."""

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import exc

from rlhf.records import Candidate, Prompt
from rlhf.store import RankingStore, RevisionError, Submission, SubmissionError
from rlhf.store.checks import dense_ranks, shuffled
from rlhf.store.history import content_of


@pytest.fixture
def held(store, new_task):
    store.add_tasks([new_task(1, overlap=2)])
    return store.claim("ann")


def by_text(ranking):
    return dict(zip(ranking.completions, ranking.ranks, strict=True))


@pytest.mark.parametrize("k", range(2, 10))
def test_ranks_given_in_shown_order_land_on_their_candidates(tmp_path, k):
    """Give each text the rank that its name says, by what the annotator SEES."""
    with RankingStore.open(tmp_path / "s.sqlite") as store:
        for number in range(24):
            texts = [f"rank {place + 1}" for place in range(k)]
            store.add_task(Prompt.parse(f"p{number}"), [Candidate(text) for text in texts])
        for number in range(24):
            held = store.claim("ann")
            ranks = tuple(int(text.removeprefix("rank ")) for text in held.completions)
            flags = tuple((f"flag-{rank}",) for rank in ranks)
            store.submit(held.id, "ann", Submission(f"request-{number}", ranks, flags=flags))
        orders = set()
        for ranking in store.rankings():
            assert by_text(ranking) == {f"rank {n}": n for n in range(1, k + 1)}
            assert ranking.flags == tuple((f"flag-{rank}",) for rank in ranking.ranks)
            shown = [ranking.completions[place] for place in ranking.meta["shown_order"]]
            assert sorted(shown) == sorted(ranking.completions)
            orders.add(tuple(ranking.meta["shown_order"]))
    assert len(orders) > 1


@given(st.integers(2, 9), st.data())
def test_any_ranking_survives_any_shuffle(k, data):
    shown = shuffled(k, str(data.draw(st.integers())))
    ranks = data.draw(st.lists(st.none() | st.integers(1, k), min_size=k, max_size=k))
    content = content_of(Submission("request-1", tuple(ranks)), shown)
    dense = dense_ranks(ranks)
    assert [content["ranks"][candidate] for candidate in shown] == list(dense)


@given(st.lists(st.none() | st.integers(1, 9), max_size=9))
def test_dense_ranks_keep_order_and_ties_without_gaps(ranks):
    dense = dense_ranks(ranks)
    pairs = [(r, d) for r, d in zip(ranks, dense, strict=True) if r is not None]
    assert [d is None for d in dense] == [r is None for r in ranks]
    assert sorted({d for _, d in pairs}) == list(range(1, len({r for r, _ in pairs}) + 1))
    assert all((r < s) == (d < e) for r, d in pairs for s, e in pairs)


def test_ties_gaps_and_unranked_candidates(store, held):
    store.submit(held.id, "ann", Submission("request-1", (4, 2, 2, None), others_worse=True))
    (ranking,) = store.rankings()
    assert [by_text(ranking)[text] for text in held.completions] == [2, 1, 1, None]
    assert ranking.others_worse


def test_the_best_of_all_is_a_ranking(store, held):
    store.submit(held.id, "ann", Submission("request-1", (None, 3, None, None), others_worse=True))
    (ranking,) = store.rankings()
    assert [by_text(ranking)[text] for text in held.completions] == [None, 1, None, None]


def test_everything_that_was_said_comes_back(store, clock, held):
    store.submit(
        held.id,
        "ann",
        Submission(
            "request-1",
            (1, 2, 3, 3),
            comment="close \u200f call",
            flags=((), ("off_topic", "harmful"), (), ()),
            strengths=(3, 1),
            active_ms=61_500,
            simulated=True,
        ),
    )
    (ranking,) = store.rankings()
    assert (ranking.id, ranking.action, ranking.strengths) == ("request-1", "rank", (3, 1))
    flagged = held.completions[1]
    assert dict(zip(ranking.completions, ranking.flags, strict=True))[flagged] == (
        "off_topic",
        "harmful",
    )
    assert ranking.meta["comment"] == "close \u200f call"
    assert ranking.meta["active_ms"] == 61_500
    assert ranking.meta["submitted_at"] == "2027-01-15T08:00:00.000Z"
    assert ranking.meta["models"] == [f"model-{n}" for n in range(4)]
    assert (ranking.meta["revision"], ranking.meta["pool"]) == (1, "normal")


@pytest.mark.parametrize(
    "submission",
    [
        Submission("request-1", action="all_bad"),
        Submission("request-1", (1, 2, 2, None), action="all_bad"),
        Submission("request-1", action="cannot_judge", reason="no_knowledge"),
        Submission("request-1", action="skip", reason="too_long"),
    ],
)
def test_other_actions(store, held, submission):
    store.submit(held.id, "ann", submission)
    (ranking,) = store.rankings()
    assert (ranking.action, ranking.meta.get("reason", "")) == (
        submission.action,
        submission.reason,
    )


def test_the_same_request_is_stored_once(store, clock, held):
    submission = Submission("request-1", (1, 2, 3, 4))
    first = store.submit(held.id, "ann", submission)
    clock.now += 10_000
    assert store.submit(held.id, "ann", submission) == first
    assert len(list(store.rankings())) == store.progress().rankings == 1


def test_a_request_id_stands_for_one_ranking(store, held):
    store.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4)))
    with pytest.raises(SubmissionError, match="another ranking"):
        store.submit(held.id, "ann", Submission("request-1", (4, 3, 2, 1)))
    other = store.claim("bob")
    with pytest.raises(SubmissionError, match="another ranking"):
        store.submit(other.id, "bob", Submission("request-1", (1, 2, 3, 4)))


def test_a_correction_is_a_revision_and_the_first_stays(store, raw, held):
    store.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4)))
    with pytest.raises(RevisionError, match="revision 1 of your ranking, not 0"):
        store.submit(held.id, "ann", Submission("request-2", (4, 3, 2, 1)))
    again = store.submit(held.id, "ann", Submission("request-2", (4, 3, 2, 1), replaces=1))
    assert again.revision == 2
    (ranking,) = store.rankings()
    assert [by_text(ranking)[text] for text in held.completions] == [4, 3, 2, 1]
    assert store.progress().rankings == 1
    assert len(history(raw)) == 2


def test_correcting_to_a_skip_opens_the_task_again(store, held):
    store.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4)))
    assert [task.done for task in store.tasks()] == [1]
    store.submit(held.id, "ann", Submission("request-2", action="skip", replaces=1))
    assert [task.done for task in store.tasks()] == [0]


IMPOSSIBLE = [
    (Submission("short", (1, 2, 3, 4)), "request_id"),
    (Submission("x" * 65, (1, 2, 3, 4)), "request_id"),
    (Submission("bad id \n", (1, 2, 3, 4)), "request_id"),
    (Submission("request-1", (1, 2, 3)), "3 ranks for 4"),
    (Submission("request-1", (1, 2, 3, 4, 4)), "5 ranks for 4"),
    (Submission("request-1", (1, 2, 3, 5)), "rank 5"),
    (Submission("request-1", (0, 1, 2, 3)), "rank 0"),
    (Submission("request-1", (1, 2, 3, True)), "rank True"),
    (Submission("request-1", (1, 2, 3, 1.0)), "rank 1.0"),
    (Submission("request-1", (1, 2, 3, "4")), "rank '4'"),
    (Submission("request-1"), "at least two"),
    (Submission("request-1", (1, None, None, None)), "at least two"),
    (Submission("request-1", (None,) * 4, others_worse=True), "at least two"),
    (Submission("request-1", (1, 2, 3, 4), action="skip"), "no ranks"),
    (Submission("request-1", (1, None, None, None), action="cannot_judge"), "no ranks"),
    (Submission("request-1", (1, 2, 3, 4), action="love"), "action"),
    (Submission("request-1", (1, 2, 3, 4), strengths=(1,)), "1 strengths for 4"),
    (Submission("request-1", (1, 2, 2, 2), strengths=(4,)), "a strength"),
    (Submission("request-1", (1, 2, 3, 4), flags=((),)), "flags for 1"),
    (Submission("request-1", (1, 2, 3, 4), flags=(("A b",), (), (), ())), "a flag"),
    (Submission("request-1", (1, 2, 3, 4), comment="x" * 4001), "comment"),
    (Submission("request-1", (1, 2, 3, 4), comment="\ud800"), "comment"),
    (Submission("request-1", (1, 2, 3, 4), comment="a\x00"), "comment"),
    (Submission("request-1", action="skip", reason="A long story"), "reason"),
    (Submission("request-1", (1, 2, 3, 4), active_ms=-1), "active_ms"),
    (Submission("request-1", (1, 2, 3, 4), active_ms=10**12), "active_ms"),
    (Submission("request-1", (1, 2, 3, 4), replaces=-1), "replaces"),
    (Submission("request-1", (1, 2, 3, 4), others_worse=1), "others_worse"),
]


@pytest.mark.parametrize(("submission", "message"), IMPOSSIBLE)
def test_impossible_rankings_are_refused(store, held, submission, message):
    with pytest.raises(SubmissionError, match=message):
        store.submit(held.id, "ann", submission)
    assert list(store.rankings()) == []


@pytest.mark.parametrize("assignment", [0, -1, 99, 2**70, True, "1", None, 1.0])
def test_a_foreign_assignment_is_refused(store, held, assignment):
    store.claim("bob")
    for name in ("bob", "stranger"):
        wrong = held.id if assignment == 99 else assignment
        with pytest.raises(SubmissionError, match=r"assignment"):
            store.submit(wrong, name, Submission("request-1", (1, 2, 3, 4)))
    assert list(store.rankings()) == []


GOOD = {
    "request_id": "request-9",
    "assignment_id": 1,
    "task_id": 1,
    "annotator_id": 1,
    "revision": 1,
    "action": "rank",
    "ranks": "[1,2,2,null]",
    "others_worse": False,
    "flags": None,
    "strengths": None,
    "reason": "",
    "comment": "",
    "late": False,
    "simulated": False,
    "submitted_ms": 1,
}


def insert(raw, verb="INSERT", **changed):
    row = {**GOOD, **changed}
    values = ", ".join(f":{name}" for name in row)
    with raw.begin() as connection:
        connection.execute(
            sa.text(f"{verb} INTO rankings ({', '.join(row)}) VALUES ({values})"), row
        )


@pytest.fixture
def refused(dialect):
    """What the database raises; PostgreSQL also says that a value is not of the column's type."""
    return exc.IntegrityError if dialect == "sqlite" else exc.DBAPIError


def test_a_possible_row_enters_by_raw_sql(raw, held):
    insert(raw, strengths="[2]", flags='[["a"],[],[],[]]')


@pytest.mark.parametrize(
    "changed",
    [
        {"ranks": "[1,2,3]"},
        {"ranks": "[1,2,3,4,4]"},
        {"ranks": "[1,2,3,5]"},
        {"ranks": "[0,1,2,3]"},
        {"ranks": "[1,3,3,4]"},
        {"ranks": "[2,2,2,2]"},
        {"ranks": '[1,2,3,"4"]'},
        {"ranks": "[1,2,3,1.5]"},
        {"ranks": "[1,2,3,true]"},
        {"ranks": "[1,2,3,[1]]"},
        {"ranks": '{"a":1,"b":2,"c":3,"d":4}'},
        {"ranks": "no json"},
        {"ranks": "4"},
        {"ranks": None},
        {"ranks": "[null,null,null,null]"},
        {"ranks": "[1,null,null,null]"},
        {"action": "skip"},
        {"action": "cannot_judge"},
        {"action": "love", "ranks": "[null,null,null,null]"},
        {"task_id": 2},
        {"annotator_id": 2},
        {"assignment_id": 7},
        {"revision": 0},
        {"strengths": "[1,1]"},
        {"strengths": "[9]"},
        {"strengths": "x"},
        {"flags": "[[],[]]"},
        {"flags": "[1,2,3,4]"},
        {"flags": "x"},
        {"late": 2},
        {"others_worse": 5},
        {"request_id": "short"},
        {"active_ms": -1},
    ],
)
def test_impossible_rows_are_refused_by_the_database_itself(raw, held, store, refused, changed):
    with pytest.raises(refused):
        insert(raw, **changed)
    assert list(store.rankings()) == []


@pytest.mark.parametrize(
    "order",
    ["[0,1,2]", "[0,1,2,4]", "[0,1,1,3]", "[1,2,3,4]", '[0,1,2,"3"]', "[0,1,2,null]", "3", "{}"],
)
def test_an_impossible_shown_order_is_refused_by_the_database_itself(raw, held, store, order):
    store.add_annotator("bob")
    statement = sa.text(
        "INSERT INTO assignments (task_id, annotator_id, state, shown_order, lease_until_ms, "
        "created_ms) VALUES (1, 2, 'leased', :shown_order, 0, 0)"
    )
    with pytest.raises(exc.IntegrityError, match="order of all"), raw.begin() as connection:
        connection.execute(statement, {"shown_order": order})
    with raw.begin() as connection:
        connection.execute(statement, {"shown_order": "[3,1,0,2]"})


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ranks=st.lists(st.none() | st.integers(-1, 6), max_size=6),
    action=st.sampled_from(["rank", "all_bad", "cannot_judge", "skip"]),
    others_worse=st.booleans(),
)
def test_what_our_checks_pass_the_database_passes(store, raw, held, ranks, action, others_worse):
    """The two guards agree: no submission gets past the first and fails at the second."""
    revision = len(history(raw))
    request_id = f"request-{revision:06d}"
    submission = Submission(
        request_id, tuple(ranks), action, others_worse=others_worse, replaces=revision
    )
    try:
        store.submit(held.id, "ann", submission)
    except SubmissionError:
        pass
    except exc.IntegrityError as error:
        pytest.fail(f"{submission} passed the checks but not the database: {error}")


def history(raw):
    with raw.begin() as connection:
        return connection.exec_driver_sql("SELECT id FROM rankings").all()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE rankings SET ranks = '[4,3,2,1]'",
        "UPDATE rankings SET comment = 'x' WHERE id = 1",
        "DELETE FROM rankings",
        "UPDATE tasks SET candidates = '[]'",
        "UPDATE tasks SET prompt = '\"x\"'",
        "UPDATE assignments SET shown_order = '[0,1,2,3]'",
        "DELETE FROM assignments",
        "DELETE FROM tasks",
        "DELETE FROM annotators",
    ],
)
def test_history_cannot_be_changed(store, raw, held, statement):
    store.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4)))
    before = store.fingerprint()
    with pytest.raises(exc.IntegrityError), raw.begin() as connection:
        connection.exec_driver_sql(statement)
    assert store.fingerprint() == before


@pytest.mark.parametrize("changed", [{"request_id": "request-1"}, {"id": 1}, {}])
def test_replacing_is_no_way_around(store, path, raw, held, changed):
    store.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4)))
    before = store.fingerprint()
    for verb in ("INSERT OR REPLACE", "REPLACE"):
        with pytest.raises(exc.IntegrityError, match="append-only"):
            insert(raw, verb, **changed)
    assert store.fingerprint() == before
