"""One's own work: standing, past rankings, opening one again to correct it."""

import time

import pytest

from rlhf.store import Decision, RevisionError, Submission, SubmissionError, mine


def answer(store, name, number, **rest):
    held = store.claim(name)
    submission = Submission(f"{name}-{number:06d}", (1, 2, 3, 4), **rest)
    return held, store.submit(held.id, name, submission)


@pytest.fixture
def local_noon(clock):
    """The clock of the test stands at noon, by the clock on the wall of this machine."""
    now = time.localtime(clock.now)
    clock.now = time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 12, 0, 0, 0, 0, -1))
    return clock


def test_what_is_opened_again_shows_what_is_stored(store, new_task):
    store.add_tasks([new_task(1)])
    held = store.claim("ann")
    said = {
        "ranks": (2, 1, None, None),
        "others_worse": True,
        "flags": ((), ("wrong",), (), ("harmful", "cut_off")),
        "strengths": (3,),
        "comment": "close",
    }
    store.submit(held.id, "ann", Submission("request-1", **said))
    again = store.reopen(held.id, "ann")
    assert again.current == Decision(action="rank", reason="", **said)
    assert (again.revision, again.kind, again.draft) == (1, "ranking", None)
    assert (again.id, again.prompt, again.completions) == (held.id, held.prompt, held.completions)


def test_a_correction_replaces_what_was_seen_and_nothing_else(store, new_task):
    store.add_tasks([new_task(1)])
    held, _ = answer(store, "ann", 1)
    for ranks in ((4, 3, 2, 1), (1, 1, 1, 2)):
        seen = store.reopen(held.id, "ann")
        request = f"request-{seen.revision}"
        store.submit(held.id, "ann", Submission(request, ranks, replaces=seen.revision))
        assert store.reopen(held.id, "ann").current.ranks == ranks
    with pytest.raises(RevisionError, match="revision 3"):
        store.submit(held.id, "ann", Submission("request-9", (1, 2, 3, 4), replaces=1))
    assert store.reopen(held.id, "ann").revision == 3


def test_an_open_task_can_be_looked_at_too(store, new_task):
    store.add_tasks([new_task(1)])
    held = store.claim("ann")
    again = store.reopen(held.id, "ann")
    assert (again.id, again.revision, again.current) == (held.id, 0, None)
    assert again.lease_until == held.lease_until


def test_a_skipped_task_can_be_ranked_after_all(store, new_task):
    store.add_tasks([new_task(1)])
    held = store.claim("ann")
    store.submit(held.id, "ann", Submission("request-1", action="skip", reason="too_long"))
    seen = store.reopen(held.id, "ann")
    assert (seen.current.action, seen.current.reason) == ("skip", "too_long")
    sent = Submission("request-2", (1, 2, 3, 4), replaces=1)
    assert not store.submit(held.id, "ann", sent).late
    assert (store.progress().open, store.progress().skipped) == (0, 0)


@pytest.mark.parametrize("taken", ["held", "done"])
def test_but_is_late_when_somebody_took_the_place(store, new_task, taken):
    store.change_settings(max_overlap=0)
    store.add_tasks([new_task(1)])
    held = store.claim("ann")
    store.submit(held.id, "ann", Submission("request-1", action="skip", reason="too_long"))
    other = store.claim("bob")
    if taken == "done":
        store.submit(other.id, "bob", Submission("request-2", (1, 2, 3, 4)))
    sent = Submission("request-3", (1, 2, 3, 4), replaces=1)
    assert store.submit(held.id, "ann", sent).late
    if taken == "held":
        store.submit(other.id, "bob", Submission("request-2", (1, 2, 3, 4)))
    assert store.progress().surplus == 1


def test_the_correction_of_a_late_ranking_is_late(store, clock, new_task):
    store.add_tasks([new_task(1)])
    held = store.claim("ann", lease_seconds=10)
    clock.now += 10
    assert store.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4))).late
    sent = Submission("request-2", (4, 3, 2, 1), replaces=1)
    assert store.submit(held.id, "ann", sent).late
    assert store.own_rankings("ann")[0].late


def test_own_rankings_come_newest_first_page_by_page(store, clock, new_task):
    store.add_tasks(new_task(n, overlap=2) for n in range(5))
    held = []
    for number in range(5):
        clock.now += 1
        held.append(answer(store, "ann", number)[0])
        answer(store, "bob", number)
    first = store.own_rankings("ann", limit=3)
    rest = store.own_rankings("ann", limit=3, before=first[-1].ranking_id)
    assert [own.assignment_id for own in first + rest] == [h.id for h in held[::-1]]
    assert [own.completions for own in first + rest] == [h.completions for h in held[::-1]]
    assert first[0].submitted_ms == round(clock.now * 1000)
    assert store.own_rankings("ann", before=rest[-1].ranking_id) == ()
    assert store.own_rankings("nobody") == ()


def test_a_corrected_ranking_is_listed_once_and_as_it_is_now(store, new_task):
    store.add_tasks(new_task(n) for n in range(2))
    held, _ = answer(store, "ann", 1)
    answer(store, "ann", 2)
    sent = Submission("request-1", action="skip", reason="unsure", replaces=1)
    store.submit(held.id, "ann", sent)
    newest, other = store.own_rankings("ann")
    assert (newest.assignment_id, newest.revision) == (held.id, 2)
    assert newest.decision == Decision("skip", (None,) * 4, reason="unsure")
    assert other.decision.ranks == (1, 2, 3, 4)


def test_a_training_task_says_so(store, new_task):
    store.add_tasks([new_task(1, pool="training")])
    answer(store, "ann", 1)
    assert store.own_rankings("ann")[0].kind == "training"


def test_notes_of_reviewers_reach_whom_they_are_about(store, new_task):
    store.add_tasks([new_task(1, overlap=2)])
    answer(store, "ann", 1)
    answer(store, "bob", 2)
    number = store.own_rankings("ann")[0]
    task = store.reopen(number.assignment_id, "ann").task_id

    def review(request, note, ranking_id=None):
        store.reviews.add("bob", task, request_id=request, verdict="send_back", note=note,
                          ranking_id=ranking_id)  # fmt: skip

    review("review-1", "read it all")
    review("review-2", "", number.ranking_id)
    review("review-3", "you alone", number.ranking_id)
    held = store.reopen(number.assignment_id, "ann")
    sent = Submission("request-9", (1, 1, 1, 2), replaces=held.revision)
    store.submit(held.id, "ann", sent)
    assert store.own_rankings("ann")[0].notes == ("read it all", "you alone")
    assert store.own_rankings("bob")[0].notes == ("read it all",)


def test_standing_counts_today_and_the_last_hour(store, local_noon, new_task):
    clock = local_noon
    store.add_tasks(new_task(n) for n in range(9))
    noon = clock.now
    for hours in (-36, -12.1, -11.9, -2, -0.9, 0):
        clock.now = noon + hours * 3600
        answer(store, "ann", round(hours * 10) + 1000)
    held = store.claim("ann")
    store.submit(held.id, "ann", Submission("request-1", action="skip", reason="other"))
    found = store.standing("ann")
    assert (found.mine, found.today, found.last_hour) == (6, 4, 2)
    assert (found.tasks, found.open) == (9, 3)
    stranger = store.standing("somebody else")
    assert (stranger.tasks, stranger.open, stranger.mine, stranger.today) == (9, 3, 0, 0)
    assert stranger.median_active_ms is None


def test_a_correction_is_no_second_ranking_of_today(store, local_noon, new_task):
    store.add_tasks([new_task(1)])
    held, _ = answer(store, "ann", 1)
    store.submit(held.id, "ann", Submission("request-9", (4, 3, 2, 1), replaces=1))
    found = store.standing("ann")
    assert (found.mine, found.today, found.last_hour) == (1, 1, 1)


def test_the_median_time_is_of_the_last_fifty(store, new_task):
    """10 of 1000 ms, then 50 of 1, 2, ..., 50 ms: the median of those is 25.5, rounded to 26."""
    store.add_tasks(new_task(n) for n in range(62))
    for number in range(10):
        answer(store, "ann", number, active_ms=1000)
    assert store.standing("ann").median_active_ms == 1000
    for number in range(50):
        answer(store, "ann", 100 + number, active_ms=number + 1)
    answer(store, "ann", 999)
    assert store.standing("ann").median_active_ms == 26


def test_many_tasks_are_counted_now_and_then(store, new_task, monkeypatch):
    monkeypatch.setattr(mine, "MANY", 3)
    store.add_tasks(new_task(n) for n in range(2))
    assert store.standing("ann").tasks == 2
    store.add_tasks(new_task(n) for n in range(5))
    assert store.standing("ann").tasks == 5
    answer(store, "ann", 1)
    assert (store.standing("ann").open, store.standing("ann").mine) == (5, 1)
    monkeypatch.setattr(mine.time, "monotonic", lambda: float("inf"))
    assert store.standing("ann").open == 4


def test_imported_rankings_were_never_shown(store, new_task, tmp_path):
    """They have no order in which they could be opened again."""
    row = '{"prompt": "p", "completions": ["a", "b"], "ranks": [1, 2], "annotator": "ann"}\n'
    (tmp_path / "in.jsonl").write_text(row)
    store.add_annotator("ann", "ann")
    store.import_jsonl(tmp_path / "in.jsonl")
    assert store.own_rankings("ann") == ()
    with pytest.raises(SubmissionError, match="is not one of"):
        store.reopen(1, "ann")
