"""Reviews: what a reviewer decides about a task."""

import threading

import pytest
import sqlalchemy as sa

from rlhf.store import Decision, RevisionError, Submission, SubmissionError


@pytest.fixture
def task(store, new_task):
    """A task that ann and bob ranked, each in their own shown order: (1, 2, 3, -) on screen."""
    store.change_settings(max_overlap=0)
    store.add_tasks([new_task(1, overlap=2, pool="hard"), new_task(2, pool="hard")])
    store.change_settings(random_share=0)
    store.add_annotator("rita")
    for name in ("ann", "bob"):
        held = store.claim(name)
        said = Submission(f"{name}-ranks", (1, 2, 3, None), others_worse=True, active_ms=9)
        store.submit(held.id, name, said)
    return held.task_id


def add(store, task, number=1, verdict="send_back", **rest):
    return store.reviews.add("rita", task, request_id=f"review-{number}", verdict=verdict, **rest)


def test_a_task_is_opened_in_the_order_of_its_candidates(store, task):
    opened = store.reviews.open_task(task)
    assert opened.completions == tuple(f"answer 1.{n}" for n in range(4))
    assert opened.prompt.text == "prompt 1"
    expected = {ranking.annotator: ranking for ranking in store.rankings()}
    assert len(opened.rankings) == 2
    for found in opened.rankings:
        ranking = expected[found.annotator]
        assert found.decision == Decision("rank", ranking.ranks, others_worse=True)
        assert found.active_ms == 9
    assert "model-" not in repr(opened)


def test_only_current_rankings_are_shown(store, task):
    own = store.own_rankings("ann")[0]
    sent = Submission("request-2", (4, 3, 2, 1), replaces=1)
    store.submit(own.assignment_id, "ann", sent)
    opened = store.reviews.open_task(task)
    assert len(opened.rankings) == 2
    assert own.ranking_id not in [ranking.ranking_id for ranking in opened.rankings]


def test_an_accepted_ranking_decides_with_its_unranked_last(store, task):
    first, second = store.reviews.open_task(task).rankings
    made = add(store, task, verdict="accept", ranking_id=second.ranking_id, note="good")
    assert (made.reviewer, made.note) == (store.pseudonym("rita"), "good")
    assert store.reviews.of_task(task) == (made,)
    (verdict,) = store.reviews.verdicts()
    said = second.decision.ranks
    assert verdict.ranks == tuple(4 if rank is None else rank for rank in said)
    assert verdict.task_sha256 == next(store.rankings()).meta["task"]
    assert verdict.completions == store.reviews.open_task(task).completions
    assert (verdict.verdict, verdict.review_id) == ("accept", made.id)
    assert first.ranking_id != second.ranking_id


def test_an_accepted_ranking_stays_what_it_was_when_it_is_corrected(store, task):
    first = store.reviews.open_task(task).rankings[0]
    add(store, task, verdict="accept", ranking_id=first.ranking_id)
    before = store.reviews.verdicts()
    own = store.own_rankings("ann")[0]
    sent = Submission("request-2", (4, 3, 2, 1), replaces=1)
    store.submit(own.assignment_id, "ann", sent)
    assert store.reviews.verdicts() == before


def test_the_newest_review_stands(store, task):
    first = store.reviews.open_task(task).rankings[0]
    add(store, task, 1, "accept", ranking_id=first.ranking_id)
    add(store, task, 2, "override", ranks=[4, 2, 2, None])
    (verdict,) = store.reviews.verdicts()
    assert (verdict.verdict, verdict.ranks) == ("override", (2, 1, 1, None))
    add(store, task, 3)
    assert store.reviews.verdicts() == ()
    assert [review.verdict for review in store.reviews.of_task(task)] == [
        "accept",
        "override",
        "send_back",
    ]


def test_sending_back_asks_one_more_person(store, task):
    assert store.claim("cy").prompt.text == "prompt 2"
    add(store, task)
    assert store.claim("dee").task_id == task
    assert store.claim("eve") is None


def test_sending_back_counts_from_the_people_there_are(store, clock, new_task):
    """Overlap 1, and two have ranked it, one of them late: a third is asked."""
    store.change_settings(max_overlap=0, random_share=0)
    store.add_tasks([new_task(1)])
    held = [store.claim("ann", lease_seconds=1)]
    clock.now += 1
    held.append(store.claim("bob"))
    for name, mine in zip(("ann", "bob"), held, strict=True):
        store.submit(mine.id, name, Submission(f"{name}-ranks", (1, 2, 3, 4)))
    store.add_annotator("rita")
    add(store, held[0].task_id)
    (stored,) = store.tasks()
    assert (stored.overlap, stored.done) == (3, 2)


def test_the_same_request_is_stored_once(store, task):
    made = add(store, task, note="again")
    assert add(store, task, note="again") == made
    assert [stored.overlap for stored in store.tasks()] == [3, 1]
    with pytest.raises(SubmissionError, match="stands for another review"):
        add(store, task, note="other")
    store.add_annotator("sam")
    with pytest.raises(SubmissionError, match="stands for another review"):
        store.reviews.add(
            "sam", task, request_id="review-1", verdict="send_back", note="again"
        )  # fmt: skip


def test_a_reviewer_who_missed_the_newest_review_is_refused(store, task):
    """Two had opened it before anybody decided: the second send-back would ask two more."""
    first = add(store, task, 1, seen=0)
    for seen in (0, first.id + 1):
        with pytest.raises(RevisionError, match="reviewed this task meanwhile"):
            add(store, task, 2, seen=seen)
    assert store.reviews.of_task(task) == (first,)
    assert [stored.overlap for stored in store.tasks()] == [3, 1]
    second = add(store, task, 2, "override", ranks=[4, 3, 2, 1], seen=first.id)
    assert store.reviews.of_task(task) == (first, second)


def test_a_review_sent_again_is_no_news_to_itself(store, task):
    made = add(store, task, 1, seen=0)
    add(store, task, 2, seen=made.id)
    assert add(store, task, 1, seen=0) == made
    assert len(store.reviews.of_task(task)) == 2


def test_reviews_of_other_tasks_are_no_news(store, task):
    other = next(stored.id for stored in store.tasks() if stored.id != task)
    add(store, other, 1)
    assert add(store, task, 2, seen=0).task_id == task


def test_of_reviewers_at_one_time_one_decides(store, task):
    together, made, refused = threading.Barrier(8), [], []

    def work(number):
        together.wait()
        try:
            made.append(add(store, task, number, seen=0))
        except RevisionError as error:
            refused.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (1, 7)
    assert store.reviews.of_task(task) == tuple(made)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"verdict": "fine"}, "verdict 'fine' is not one of"),
        ({"verdict": "accept"}, "needs the ranking"),
        ({"verdict": "accept", "ranking_id": 99}, "not a current one of this task"),
        ({"verdict": "override"}, "ranks go with"),
        ({"ranks": [1, 2, 3, 4]}, "ranks go with"),
        ({"verdict": "override", "ranks": [1, 2, 3]}, "3 ranks for 4 candidates"),
        ({"verdict": "override", "ranks": [1, 1, 1, None]}, "one candidate above another"),
        (
            {"verdict": "override", "ranks": [1, 2, 3, 5]},
            "rank 5 is not a whole number from 1 to 4",
        ),
        ({"verdict": "override", "ranks": [1, 2, 3, "4"]}, "rank '4'"),
        ({"note": "x" * 4001}, "at most 4000"),
        ({"note": None}, "a note must be text"),
        ({"task": 99}, "no task 99"),
        ({"task": "1"}, "no task '1'"),
        ({"task": 2**70}, "no task"),
        ({"task": 2**70, "seen": 0}, "no task"),
        ({"request_id": "short"}, "request_id must be"),
        ({"reviewer": "nobody"}, "reviewer 'nobody' is not known"),
    ],
)
def test_impossible_reviews_are_refused(store, task, given, message):
    values = {"reviewer": "rita", "task": task, "request_id": "review-1", "verdict": "send_back"}
    values |= given
    reviewer, number = values.pop("reviewer"), values.pop("task")
    with pytest.raises(SubmissionError, match=message):
        store.reviews.add(reviewer, number, **values)
    assert store.reviews.of_task(task) == ()


def test_only_an_order_can_be_accepted(store, task):
    own = store.own_rankings("ann")[0]
    sent = Submission("request-2", action="cannot_judge", replaces=1)
    store.submit(own.assignment_id, "ann", sent)
    number = store.own_rankings("ann")[0].ranking_id
    with pytest.raises(SubmissionError, match="only a ranking with an order"):
        add(store, task, verdict="accept", ranking_id=number)
    with pytest.raises(SubmissionError, match="not a current one"):
        add(store, task, verdict="accept", ranking_id=own.ranking_id)


@pytest.mark.parametrize(
    "statement", ["UPDATE reviews SET note = 'x'", "DELETE FROM reviews", "DELETE FROM rankings"]
)
def test_reviews_are_append_only(store, task, raw, statement):
    add(store, task)
    before = store.reviews.of_task(task)
    with pytest.raises(sa.exc.IntegrityError), raw.begin() as connection:
        connection.exec_driver_sql(statement)
    assert store.reviews.of_task(task) == before


@pytest.mark.parametrize(
    "columns",
    [
        {"verdict": "'fine'"},
        {"verdict": "'accept'"},
        {"verdict": "'override'"},
        {"ranks": "'[1,2,3,4]'"},
        {"request_id": "'review-1'"},
        {"task_id": "99"},
        {"reviewer_id": "99"},
    ],
)
def test_the_database_refuses_what_can_not_be(store, task, raw, columns):
    add(store, task)
    row = {
        "request_id": "'review-2'",
        "task_id": str(task),
        "reviewer_id": "1",
        "verdict": "'send_back'",
        "note": "''",
        "created_ms": "0",
    } | columns
    statement = f"INSERT INTO reviews ({','.join(row)}) VALUES ({','.join(row.values())})"
    with pytest.raises(sa.exc.IntegrityError), raw.begin() as connection:
        connection.exec_driver_sql(statement)
    assert len(store.reviews.of_task(task)) == 1
