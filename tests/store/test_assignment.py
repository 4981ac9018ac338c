"""Leases: who gets what, exactly ``overlap`` times, blind and in an order of their own."""

import threading
from collections import Counter

import pytest

from rlhf.errors import StoreError
from rlhf.store import RankingStore, Submission


def skip(number):
    return Submission(f"request-{number:04d}", action="skip", reason="other")


def rank(number, k=4, **rest):
    return Submission(f"request-{number:04d}", ranks=tuple(range(1, k + 1)), **rest)


def test_a_live_lease_is_given_again_and_extended(store, clock, new_task):
    store.add_tasks([new_task(1), new_task(2)])
    first = store.claim("ann", lease_seconds=100)
    clock.now += 60
    again = store.claim("ann", lease_seconds=100)
    assert (again.id, again.completions) == (first.id, first.completions)
    assert again.lease_until == first.lease_until + 60
    # Asking with a shorter lease takes nothing away.
    assert store.claim("ann", lease_seconds=1).lease_until == again.lease_until


def test_one_person_under_two_spellings_gets_one_place(store, new_task):
    store.add_tasks([new_task(1, overlap=2)])
    assert store.claim("Zoë").id == store.claim("  zoe\u0308 ").id
    assert store.claim("bob").id != store.claim("ZOË").id


def test_exactly_overlap_people_hold_a_task(store, new_task):
    store.add_tasks([new_task(1, overlap=2)])
    assert store.claim("ann").task_id == store.claim("bob").task_id
    assert store.claim("cy") is None


def test_an_expired_lease_frees_its_place_and_keeps_its_order(store, clock, new_task):
    store.add_tasks([new_task(1)])
    first = store.claim("ann", lease_seconds=100)
    assert store.claim("bob") is None
    clock.now += 100
    assert store.claim("bob", lease_seconds=100).task_id == first.task_id
    assert store.claim("ann") is None
    clock.now += 100
    again = store.claim("ann")
    assert (again.id, again.completions) == (first.id, first.completions)


def test_a_late_submit_is_kept_and_counted_as_surplus(store, clock, new_task):
    store.change_settings(max_overlap=0)  # their ranks may differ, as the orders shown do
    store.add_tasks([new_task(1)])
    late = store.claim("ann", lease_seconds=100)
    clock.now += 100
    taken = store.claim("bob", lease_seconds=100)
    assert not store.submit(taken.id, "bob", rank(1)).late
    assert store.submit(late.id, "ann", rank(2)).late
    progress = store.progress()
    assert (progress.rankings, progress.surplus, progress.open) == (2, 1, 0)
    assert [ranking.meta.get("late", False) for ranking in store.rankings()] == [True, False]


def test_a_skipped_task_goes_to_somebody_else_and_never_comes_back(store, new_task):
    store.add_tasks([new_task(1)])
    held = store.claim("ann")
    store.submit(held.id, "ann", skip(1))
    assert store.claim("ann") is None
    assert store.claim("bob").task_id == held.task_id
    assert (store.progress().open, store.progress().skipped) == (1, 1)


def test_nobody_gets_a_task_twice(store, new_task):
    store.add_tasks([new_task(1, overlap=3)])
    store.submit(store.claim("ann").id, "ann", rank(1))
    assert store.claim("ann") is None
    assert store.claim("Ann ") is None


def test_begun_tasks_come_first(store, new_task):
    store.add_tasks([new_task(n, overlap=2, pool="hard") for n in range(3)])
    store.submit(store.claim("ann").id, "ann", rank(1))
    store.submit(store.claim("ann").id, "ann", rank(2))
    held = store.claim("bob")
    assert held.prompt.text in ("prompt 0", "prompt 1")


def test_the_shown_order_is_stored_differs_and_is_reproducible(store, new_task, tmp_path):
    tasks = [new_task(n) for n in range(40)]

    def orders(path):
        with RankingStore.open(path) as other:
            other.add_tasks(tasks)
            other.add_annotator("robot", "robot")
            for number in range(len(tasks)):
                other.submit(other.claim("robot").id, "robot", rank(number))
            return [tuple(ranking.meta["shown_order"]) for ranking in other.rankings()]

    one, two = orders(tmp_path / "one.sqlite"), orders(tmp_path / "two.sqlite")
    assert one == two
    assert all(sorted(order) == [0, 1, 2, 3] for order in one)
    # 40 draws from 24 orders: each place shows each candidate now and then.
    assert all(len({order[place] for order in one}) == 4 for place in range(4))


def test_no_model_name_leaves_with_an_assignment(store, new_task):
    store.add_tasks([new_task(1)])
    assert "model-" not in repr(store.claim("ann"))


@pytest.mark.parametrize("name", ["", "   ", "x" * 65, "a\nb", "\u202eevil", "\ud800", None, 5])
def test_names_that_nobody_has_are_refused(store, name):
    with pytest.raises(StoreError, match="annotator name"):
        store.claim(name)


def test_a_chosen_pseudonym_is_what_rankings_carry(store, new_task):
    store.add_tasks([new_task(1)])
    assert store.add_annotator("Simulated 1", "simulated-1") == "simulated-1"
    assert store.add_annotator("simulated 1") == "simulated-1"
    with pytest.raises(StoreError, match="has the pseudonym"):
        store.add_annotator("simulated 1", "other")
    with pytest.raises(StoreError, match="is another annotator's"):
        store.add_annotator("simulated 2", "simulated-1")
    store.submit(store.claim("simulated 1").id, "simulated 1", rank(1, simulated=True))
    (ranking,) = store.rankings()
    assert (ranking.annotator, ranking.simulated) == ("simulated-1", True)
    assert store.progress().simulated == 1


def test_a_random_pseudonym_hides_the_name(store, new_task):
    store.add_tasks([new_task(1)])
    store.submit(store.claim("Ann Smith").id, "Ann Smith", rank(1))
    (ranking,) = store.rankings()
    assert ranking.annotator == store.pseudonym("ann smith")
    assert ranking.annotator.startswith("annotator-")
    assert "Smith" not in repr(ranking)


def test_many_at_once_give_exactly_overlap_people_per_task(store, new_task):
    """8 threads, 20 tasks, overlap 3; a barrier makes them start together."""
    store.add_tasks([new_task(n, overlap=3) for n in range(20)])
    together = threading.Barrier(8)
    failures = []

    def work(name):
        together.wait()
        try:
            while (held := store.claim(name)) is not None:
                request = f"{name}-{held.id:06d}"
                store.submit(held.id, name, Submission(request, ranks=(1, 2, 3, 4)))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"person{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    pairs = [(ranking.meta["task"], ranking.annotator) for ranking in store.rankings()]
    assert len(set(pairs)) == len(pairs) == 60
    assert set(Counter(task for task, _ in pairs).values()) == {3}
    assert store.progress().surplus == 0
