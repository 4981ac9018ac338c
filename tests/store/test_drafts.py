"""Drafts: the newest stays, whoever comes late; the place is held; what is let go comes back."""

import pytest

from rlhf.store import Draft, Submission, SubmissionError

RANKED = Submission("request-1", (1, 2, 3, 4))


@pytest.fixture
def held(store, new_task):
    store.add_tasks([new_task(1)])
    return store.claim("ann", lease_seconds=100)


def test_a_draft_comes_back_with_its_task(store, held):
    body = {"ranks": [1, None, 2, None], "comment": "é\x00\u2028"}
    assert held.draft is None
    assert store.keep_draft(held.id, "ann", 1, body)
    assert store.claim("ann").draft == Draft(1, body)


def test_only_a_newer_draft_replaces_one(store, held):
    assert store.keep_draft(held.id, "ann", 5, {"n": 5})
    assert not store.keep_draft(held.id, "ann", 5, {"n": "again"})
    assert not store.keep_draft(held.id, "ann", 4, {"n": 4})
    assert store.keep_draft(held.id, "ann", 6, {"n": 6})
    assert store.claim("ann").draft == Draft(6, {"n": 6})


def test_a_draft_holds_the_place_for_longer(store, clock, held):
    clock.now += 90
    store.keep_draft(held.id, "ann", 1, {}, lease_seconds=100)
    clock.now += 90
    assert store.claim("bob") is None
    # One that is not kept, as it is older, tells all the same that somebody is there.
    store.keep_draft(held.id, "ann", 0, {}, lease_seconds=100)
    clock.now += 90
    assert store.claim("bob") is None
    store.keep_draft(held.id, "ann", 2, {}, lease_seconds=1)
    clock.now += 9
    assert store.claim("bob") is None
    clock.now += 1
    assert store.claim("bob") is not None


def test_the_lease_is_as_long_as_the_settings_say(store, clock, held):
    store.change_settings(lease_seconds=500)
    store.keep_draft(held.id, "ann", 1, {})
    clock.now += 499
    assert store.claim("bob") is None
    clock.now += 1
    assert store.claim("bob").lease_until == clock.now + 500


def test_a_place_that_was_let_go_is_not_taken_back_by_a_draft(store, clock, held):
    clock.now += 100
    assert store.keep_draft(held.id, "ann", 1, {"late": True})
    assert store.claim("bob").task_id == held.task_id
    assert store.claim("ann") is None


def test_what_was_let_go_with_a_draft_comes_before_anything_else(store, clock, held, new_task):
    store.keep_draft(held.id, "ann", 1, {"n": 1}, lease_seconds=1)
    store.add_tasks([new_task(n, priority=9) for n in range(2, 6)])
    clock.now += 1000
    again = store.claim("ann")
    assert (again.id, again.draft) == (held.id, Draft(1, {"n": 1}))
    assert again.completions == held.completions


def test_without_a_draft_it_waits_its_turn(store, clock, held, new_task):
    store.add_tasks([new_task(2, pool="hard", priority=9)])
    store.change_settings(random_share=0)
    clock.now += 1000
    assert store.claim("ann").prompt.text == "prompt 2"


def test_a_paused_task_does_not_come_back(store, clock, held):
    store.keep_draft(held.id, "ann", 1, {})
    store.pause_task(held.task_id, True)
    assert store.claim("ann") is None
    clock.now += 10_000
    assert store.claim("ann") is None
    store.pause_task(held.task_id, False)
    assert store.claim("ann").draft == Draft(1, {})


def test_a_submit_ends_the_draft(store, held):
    store.keep_draft(held.id, "ann", 7, {})
    store.submit(held.id, "ann", RANKED)
    assert store.reopen(held.id, "ann").draft is None


def test_a_correction_has_a_draft_of_its_own(store, held):
    store.submit(held.id, "ann", RANKED)
    assert store.keep_draft(held.id, "ann", 1, {"n": 1})
    # It outlives an acknowledgement of the ranking that is being corrected.
    store.submit(held.id, "ann", RANKED)
    assert store.reopen(held.id, "ann").draft == Draft(1, {"n": 1})
    assert store.claim("ann") is None
    assert store.progress().open == 0


@pytest.mark.parametrize("who", ["bob", "stranger"])
def test_somebody_elses_assignment_is_like_none(store, held, who, new_task):
    store.add_tasks([new_task(2)])
    store.claim("bob")
    message = "is not one of this annotator's"
    for number in (held.id, 999, 0, -1, 2**70, "1", None, True):
        for ask in (
            lambda n: store.keep_draft(n, who, 1, {}),
            lambda n: store.reopen(n, who),
            lambda n: store.submit(n, who, RANKED),
        ):
            with pytest.raises(SubmissionError, match=message):
                ask(number)


@pytest.mark.parametrize(
    ("seq", "body", "message"),
    [
        (-1, {}, "seq -1"),
        (1.5, {}, "seq 1.5"),
        (True, {}, "seq True"),
        (2**63, {}, "seq"),
        (1, [], "must be a JSON object"),
        (1, {"a": float("nan")}, "as JSON"),
        (1, {"a": object()}, "as JSON"),
        (1, {"a": "\udfff"}, "lone surrogate"),
        (1, {"a": "x" * 32 * 1024}, "larger than 32 kB"),
        (1, {"a": "é" * 16 * 1024}, "larger than 32 kB"),
    ],
)
def test_impossible_drafts_are_refused(store, held, seq, body, message):
    with pytest.raises(SubmissionError, match=message):
        store.keep_draft(held.id, "ann", seq, body)
    assert store.claim("ann").draft is None


def test_the_largest_draft(store, held):
    body = {"a": "x" * (32 * 1024 - len('{"a": ""}'))}
    assert store.keep_draft(held.id, "ann", 2**63 - 1, body)
    assert store.claim("ann").draft.body == body
