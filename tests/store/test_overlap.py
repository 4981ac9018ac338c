"""More people where the first ones disagree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.store import Submission, gold_share
from rlhf.store.checks import effective_ranks, pair_orders
from rlhf.store.overlap import wanted_people

ABC = (1, 2, 3)
CBA = (3, 2, 1)


@pytest.mark.parametrize(
    ("said", "overlap", "limit", "wanted"),
    [
        ([], 1, 3, 1),
        ([ABC], 1, 3, 1),
        ([ABC, ABC], 2, 3, 2),
        # Two people: one pair of three opposed is agreement (2 alike, 1 opposed), two are not.
        ([ABC, (2, 1, 3)], 2, 3, 2),
        ([ABC, (3, 1, 2)], 2, 3, 3),
        ([ABC, CBA], 2, 3, 3),
        ([ABC, CBA], 1, 3, 3),
        ([ABC, CBA], 4, 3, 4),
        ([ABC, CBA], 2, 9, 3),
        # As many alike as opposed: tau-b is 0, not below.
        ([(1, 2, None), (1, 2, 2)], 2, 3, 2),
        ([(1, 2, 3, 4), (2, 1, 4, 3)], 2, 3, 2),
        ([(1, 2, 1, 2), (1, 2, 2, 1)], 2, 3, 2),
        # Only answers that both ranked count: of a and b they say the opposite.
        ([(1, 2, None), (2, 1, 3)], 2, 3, 3),
        ([(1, None, None), (None, 1, 2)], 2, 3, 2),
        # Off.
        ([ABC, CBA], 2, 0, 2),
        ([ABC, CBA], 2, 2, 2),
        # Three: every pair has a majority.
        ([ABC, CBA, ABC], 3, 9, 3),
        # Three: b over c is decided, the other two pairs are 1 : 1.
        ([(1, 2, 3), (3, 1, 2), (1, 1, 1)], 3, 9, 4),
        ([(1, 2, 3), (3, 1, 2), (1, 1, 1)], 3, 3, 3),
        # All say that all are equal: that is no dispute.
        ([(1, 1, 1)] * 3, 3, 9, 3),
        # One is still due.
        ([(1, 2, 3), (3, 1, 2), (1, 1, 1)], 4, 9, 4),
        # Four, two against two.
        ([ABC, ABC, CBA, CBA], 4, 9, 5),
        ([ABC, ABC, CBA, CBA], 4, 4, 4),
        ([ABC, ABC, CBA, CBA, ABC], 5, 9, 5),
    ],
)
def test_how_many_people_are_wanted(said, overlap, limit, wanted):
    assert wanted_people(said, overlap, limit) == wanted
    assert wanted_people(said[::-1], overlap, limit) == wanted


@given(st.lists(st.lists(st.none() | st.integers(1, 4), min_size=4, max_size=4), max_size=6),
       st.integers(1, 6), st.integers(0, 6))  # fmt: skip
def test_it_never_wants_fewer_nor_more_than_the_limit(said, overlap, limit):
    wanted = wanted_people(said, overlap, limit)
    assert overlap <= wanted <= max(overlap, limit)
    assert wanted <= max(overlap, len(said) + 1)


def test_pairs_are_told_by_place():
    assert pair_orders((2, None, 1, 2)) == {(0, 2): -1, (0, 3): 0, (2, 3): 1}


def test_the_unranked_are_last_where_others_are_worse():
    assert effective_ranks((None, 1, None, 2), True) == (3, 1, 3, 2)
    assert effective_ranks((None, 1, None, 2), False) == (None, 1, None, 2)
    assert effective_ranks((None, None), True) == (1, 1)


@pytest.mark.parametrize(
    ("known", "ranks", "share"),
    [
        ((1, 2, 3), (1, 2, 3), 1),
        ((1, 2, 3), (3, 2, 1), 0),
        ((1, 2, 3), (2, 1, 3), 2 / 3),
        ((1, 2, 3), (1, 1, 1), 1 / 2),
        ((1, 2, 3), (1, 1, 2), 2.5 / 3),
        ((1, 2, 3), (None, None, None), 1 / 2),
        ((1, 2, 3), (1, None, 2), 2 / 3),
        ((1, 1, 2), (2, 1, 3), 1),
        ((1, None, 2), (2, 1, 3), 1),
        ((1, 1), (1, 2), None),
        ((None, 1), (1, 2), None),
    ],
)
def test_the_share_of_known_pairs(known, ranks, share):
    assert gold_share(known, ranks) == share


def texts_first(held, order):
    """Ranks in shown order for an order of the texts' last letters, best first."""
    return tuple(order.index(text[-1]) + 1 for text in held.completions)


def rank_as(store, name, order, **rest):
    held = store.claim(name)
    if held is None:
        return None
    ranks = texts_first(held, order)
    return store.submit(held.id, name, Submission(f"{name}-{held.id:06d}", ranks, **rest))


def overlap_of(store):
    (task,) = store.tasks()
    return task.overlap


def test_two_people_who_disagree_bring_a_third(store, new_task):
    store.add_tasks([new_task(0, overlap=2)])
    rank_as(store, "ann", "0123")
    assert overlap_of(store) == 2
    rank_as(store, "bob", "3210")
    assert (overlap_of(store), store.progress().open, store.progress().surplus) == (3, 1, 0)
    rank_as(store, "cy", "0123")
    assert (overlap_of(store), store.progress().open) == (3, 0)
    assert rank_as(store, "dee", "0123") is None


def test_two_people_who_agree_are_enough(store, new_task):
    store.add_tasks([new_task(0, overlap=2)])
    rank_as(store, "ann", "0123")
    rank_as(store, "bob", "0132")
    assert (overlap_of(store), store.progress().open) == (2, 0)


def test_a_correction_counts_as_what_it_says_now(store, new_task):
    store.add_tasks([new_task(0, overlap=2)])
    held = store.claim("ann")
    store.submit(held.id, "ann", Submission("request-1", texts_first(held, "0123")))
    rank_as(store, "bob", "0123")
    other = texts_first(held, "3210")
    store.submit(held.id, "ann", Submission("request-2", other, replaces=1))
    assert overlap_of(store) == 3
    back = texts_first(held, "0123")
    store.submit(held.id, "ann", Submission("request-3", back, replaces=2))
    assert overlap_of(store) == 3  # who was asked stays asked


def test_who_ranks_nothing_does_not_disagree(store, new_task):
    store.add_tasks([new_task(0, overlap=3)])
    rank_as(store, "ann", "0123")
    held = store.claim("bob")
    store.submit(held.id, "bob", Submission("request-1", action="cannot_judge"))
    assert overlap_of(store) == 3
    assert rank_as(store, "cy", "3210") is not None
    assert store.progress().open == 0


def test_what_all_bad_ranks_counts_too(store, new_task):
    store.change_settings(max_overlap=4)
    store.add_tasks([new_task(0, overlap=2)])
    rank_as(store, "ann", "0123", action="all_bad")
    rank_as(store, "bob", "3210")
    assert overlap_of(store) == 3


@pytest.mark.parametrize(
    ("settings", "rest"), [({"max_overlap": 0}, {}), ({"gold_every": 1}, {"pool": "gold"})]
)
def test_switched_off_and_never_for_gold(store, new_task, settings, rest):
    store.change_settings(**settings)
    store.add_tasks([new_task(0, overlap=2, **rest)])
    rank_as(store, "ann", "0123")
    rank_as(store, "bob", "3210")
    assert overlap_of(store) == 2
