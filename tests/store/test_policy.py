"""Which task comes next: pools, gold, training, priorities, pauses."""

from collections import Counter

import pytest

from rlhf.errors import DataError, StoreError
from rlhf.records import Candidate, Prompt
from rlhf.store import Gold, NewTask, Submission
from rlhf.store.hashes import draw
from rlhf.store.queue import pool_of

GOLD = Gold((1, 2, 3, 4), "**The first** is right.")


def work(store, name, count):
    """Rank so many tasks; give the numbers of their prompts."""
    seen = []
    for _ in range(count):
        held = store.claim(name)
        if held is None:
            break
        seen.append(int(held.prompt.text.split()[1]))
        store.submit(held.id, name, Submission(f"{name}-{held.id:08d}", (1, 2, 3, 4)))
    return seen


@pytest.fixture
def plain(store):
    """A store without a random pool, in which disagreement brings nobody."""
    store.change_settings(random_share=0, max_overlap=0)
    return store


# -- the random pool ------------------------------------------------------------------------------


def test_a_share_of_normal_tasks_becomes_random_by_prompt(store, new_task):
    """1000 prompts at 0.2: 200 expected, standard deviation sqrt(1000 * 0.2 * 0.8) = 12.6."""
    store.add_tasks(new_task(n) for n in range(1000))
    counts = Counter(task.pool for task in store.tasks())
    assert counts.keys() == {"normal", "random"}
    assert abs(counts["random"] - 200) < 4 * 12.6


def test_all_tasks_of_a_prompt_fall_alike(store):
    for number in range(50):
        for version in "ab":
            texts = [f"{version}{place}" for place in range(3)]
            store.add_task(Prompt.parse(f"prompt {number}"), [Candidate(t) for t in texts])
    pools = {}
    for task in store.tasks():
        pools.setdefault(task.prompt, set()).add(task.pool)
    assert all(len(found) == 1 for found in pools.values())
    assert len(set(map(tuple, pools.values()))) == 2


def test_a_larger_share_holds_the_smaller(new_task):
    small = {n for n in range(300) if pool_of(new_task(n), 0.1) == "random"}
    large = {n for n in range(300) if pool_of(new_task(n), 0.4) == "random"}
    assert small < large


@pytest.mark.parametrize("pool", ["gold", "training", "random", "hard"])
def test_other_labels_stay(store, new_task, pool):
    store.change_settings(random_share=1)
    store.add_tasks(new_task(n, pool=pool) for n in range(10))
    assert {task.pool for task in store.tasks()} == {pool}


def test_the_random_pool_does_not_follow_the_split_of_held_out_prompts(new_task):
    """The 100 prompts with the smallest sha256 of 1000 hold about 20 of the 200 random ones."""
    tasks = sorted((new_task(n) for n in range(1000)), key=lambda task: task.prompt.sha256)
    held_out = sum(pool_of(task, 0.2) == "random" for task in tasks[:100])
    assert abs(held_out - 20) < 4 * 4  # sqrt(100 * 0.2 * 0.8) = 4


def test_a_share_of_claims_is_answered_from_the_random_pool(store, new_task):
    """400 claims at 0.25: 100 expected, standard deviation sqrt(400 * 0.25 * 0.75) = 8.7."""
    store.change_settings(random_share=0.25)
    store.add_tasks(new_task(n, pool="random") for n in range(400))
    store.add_tasks(new_task(n, pool="hard") for n in range(400, 800))
    store.add_annotator("ann", "ann")
    seen = work(store, "ann", 400)
    drawn = [draw("random pool first", "ann", str(n)) < 0.25 for n in range(400)]
    assert [number < 400 for number in seen] == drawn
    assert abs(sum(drawn) - 100) < 4 * 8.7


def test_the_random_pool_is_given_in_an_order_of_its_own(store, new_task):
    store.change_settings(random_share=1)
    store.add_tasks(new_task(n, pool="random", priority=n) for n in range(60))
    seen = work(store, "ann", 60)
    lots = [int(task.prompt.text.split()[1]) for task in sorted(store.tasks(), key=_lot(store))]
    assert seen == lots
    assert seen != sorted(seen) != seen[::-1]


def _lot(store):
    with store._database.read() as conn:
        lots = dict(conn.exec_driver_sql("SELECT id, lottery FROM tasks").fetchall())
    return lambda task: lots[task.id]


@pytest.mark.parametrize(("share", "pool"), [(0, "random"), (1, "hard")])
def test_where_one_is_empty_the_other_serves(store, new_task, share, pool):
    store.change_settings(random_share=share)
    store.add_tasks(new_task(n, pool=pool) for n in range(5))
    assert sorted(work(store, "ann", 9)) == [0, 1, 2, 3, 4]


# -- priorities and pauses ------------------------------------------------------------------------


def test_higher_priorities_come_first_then_begun_then_older_tasks(plain, new_task):
    plain.add_tasks(new_task(n, overlap=2) for n in range(4))
    plain.add_tasks([new_task(4, priority=-1), new_task(5, priority=0.5)])
    assert work(plain, "ann", 2) == [5, 0]
    plain.add_tasks([new_task(6, priority=2)])
    assert plain.set_priorities({Prompt.parse("prompt 2").sha256: 1}) == 1
    # 6 has priority 2, 2 has 1; 0 is begun; 1 and 3 are not; 4 has -1.
    assert work(plain, "bob", 9) == [6, 2, 0, 1, 3, 4]


def test_priorities_hold_for_every_task_of_a_prompt(plain):
    for version in "ab":
        plain.add_task(Prompt.parse("p"), [Candidate(f"{version}{n}") for n in range(2)])
    plain.add_task(Prompt.parse("q"), [Candidate("a"), Candidate("b")])
    wanted = {Prompt.parse("p").sha256: 3.5, Prompt.parse("unknown").sha256: 1}
    assert plain.set_priorities(wanted) == 2
    assert [task.priority for task in plain.tasks()] == [3.5, 3.5, 0]
    with pytest.raises(StoreError, match="must be a number"):
        plain.set_priorities({Prompt.parse("p").sha256: float("nan")})


def test_a_paused_task_is_given_to_nobody_and_what_is_begun_may_be_submitted(plain, new_task):
    plain.add_tasks([new_task(0, overlap=2), new_task(1)])
    held = plain.claim("ann")
    plain.pause_task(held.task_id, True)
    assert plain.claim("bob").prompt.text == "prompt 1"
    assert plain.claim("ann") is None
    counts = plain.progress()
    assert (counts.tasks, counts.open, counts.paused, counts.done) == (2, 1, 1, 0)
    assert not plain.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4))).late
    plain.pause_task(held.task_id, False)
    assert work(plain, "cy", 2) == [0]
    assert [entry.kind for entry in plain.people.audit()] == [
        "task_paused",
        "task_paused",
        "settings_changed",
    ]
    with pytest.raises(StoreError, match="no task 77"):
        plain.pause_task(77, True)


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_a_person_who_is_not_active_gets_no_task(plain, new_task, state):
    plain.add_tasks([new_task(0)])
    plain.people.add("Ann", "annotator")
    held = plain.claim("ann")
    plain.people.set_state("ann", state)
    assert plain.claim("ann") is None
    assert plain.standing("ann").paused
    plain.people.set_state("ann", "active")
    assert plain.claim("ann").id == held.id
    assert not plain.standing("ann").paused


# -- gold and training ----------------------------------------------------------------------------


def test_one_of_three_tasks_is_a_gold_one_and_nobody_can_count_to_it(plain, new_task):
    plain.change_settings(gold_every=3)
    plain.add_tasks(new_task(n, overlap=5) for n in range(40))
    plain.add_tasks(new_task(n, pool="gold", gold=GOLD) for n in range(100, 112))
    places = {}
    for name in ("ann", "bob", "cy"):
        done = work(plain, name, 36)
        places[name] = [at % 3 for at, task in enumerate(done) if task >= 100]
        stretches = [done[at : at + 3] for at in range(0, 36, 3)]
        assert all(sum(task >= 100 for task in stretch) == 1 for stretch in stretches)
        assert len(set(places[name])) > 1
    # By chance alike: once in 3**12 times.
    assert len({tuple(drawn) for drawn in places.values()}) == 3


def test_work_goes_on_when_gold_is_used_up(plain, new_task):
    plain.change_settings(gold_every=2)
    plain.add_tasks(new_task(n) for n in range(6))
    plain.add_tasks([new_task(100, pool="gold", gold=GOLD)])
    assert sorted(work(plain, "ann", 20)) == [*range(6), 100]


def test_no_gold_when_it_is_switched_off(plain, new_task):
    plain.change_settings(gold_every=0)
    plain.add_tasks([new_task(0, pool="gold", gold=GOLD), new_task(1)])
    assert work(plain, "ann", 5) == [1]


def test_a_gold_task_looks_like_any_other(plain, new_task):
    plain.change_settings(gold_every=1)
    plain.add_tasks([new_task(0, pool="gold", gold=GOLD)])
    held = plain.claim("ann")
    assert (held.kind, held.draft, held.current) == ("ranking", None, None)
    result = plain.submit(held.id, "ann", Submission("request-1", (1, 2, 3, 4)))
    assert result.feedback is None
    assert plain.own_rankings("ann")[0].kind == "ranking"


def test_training_comes_before_everything_and_for_everyone(plain, new_task):
    plain.change_settings(gold_every=1)
    plain.add_tasks([new_task(0), new_task(1, pool="gold", gold=GOLD)])
    plain.add_tasks([new_task(n, pool="training", gold=GOLD) for n in (2, 3)])
    assert work(plain, "ann", 9) == [2, 3, 1, 0]
    assert work(plain, "bob", 9) == [2, 3, 1]
    plain.add_tasks([new_task(4, pool="training", gold=GOLD)])
    assert work(plain, "ann", 9) == [4]


def test_gold_and_training_are_not_counted(plain, new_task):
    plain.change_settings(gold_every=1)
    plain.add_tasks([new_task(0), new_task(1, pool="gold", gold=GOLD)])
    plain.add_tasks([new_task(2, pool="training", gold=GOLD)])
    assert (plain.progress().tasks, plain.progress().open) == (1, 1)
    assert (plain.standing("ann").tasks, plain.standing("ann").open) == (1, 1)
    work(plain, "ann", 3)
    work(plain, "bob", 3)
    counts = plain.progress()
    assert (counts.rankings, counts.surplus, counts.open, counts.done) == (1, 0, 0, 1)
    assert sum(counts.by_annotator.values()) == 1
    assert plain.standing("ann").mine == 3


def test_their_rankings_are_given_only_when_asked_for(plain, new_task):
    plain.change_settings(gold_every=1)
    plain.add_tasks([new_task(0), new_task(1, pool="gold", gold=GOLD)])
    plain.add_tasks([new_task(2, pool="training", gold=GOLD)])
    before = plain.fingerprint()
    work(plain, "ann", 2)
    assert plain.fingerprint() == before
    work(plain, "ann", 1)

    def pools(**asked):
        return [ranking.meta["pool"] for ranking in plain.rankings(**asked)]

    assert pools() == ["normal"]
    assert pools(gold=True) == ["normal", "gold", "training"]
    assert (pools(pool="gold"), pools(pool="training")) == (["gold"], ["training"])


def test_a_training_task_answers_with_what_is_right(plain, new_task):
    """Pairs of 1 < 2 = 3 < 4: 12, 13, 14, 24, 34. The person says 2 < 1 < 3 and leaves 4 out.

    12 is wrong, 13 right, and the three pairs with 4 count half: (0 + 1 + 1.5) / 5 = 0.5.
    """
    plain.add_tasks([new_task(0, pool="training", gold=Gold((1, 2, 2, 4), "why"))])
    held = plain.claim("ann")
    assert held.kind == "training"
    by_text = {"answer 0.0": 2, "answer 0.1": 1, "answer 0.2": 3, "answer 0.3": None}
    known = {"answer 0.0": 1, "answer 0.1": 2, "answer 0.2": 2, "answer 0.3": 3}
    ranks = tuple(by_text[text] for text in held.completions)
    sent = Submission("request-1", ranks)
    result = plain.submit(held.id, "ann", sent)
    assert result.assignment_id == held.id
    assert result.feedback.ranks == tuple(known[text] for text in held.completions)
    assert (result.feedback.share, result.feedback.passed) == (0.5, False)
    assert result.feedback.explanation == "why"
    assert plain.submit(held.id, "ann", sent) == result
    # Said that the one left out is worse: 14, 24 and 34 are right, 4 of 5 pairs.
    better = Submission("request-2", ranks, others_worse=True, replaces=1)
    feedback = plain.submit(held.id, "ann", better).feedback
    assert (feedback.share, feedback.passed) == (0.8, True)
    skipped = Submission("request-3", action="skip", replaces=2)
    assert plain.submit(held.id, "ann", skipped).feedback is None


def test_the_bar_of_training_is_a_setting(plain, new_task):
    plain.change_settings(training_pass=0.5)
    plain.add_tasks([new_task(0, pool="training", gold=GOLD)])
    held = plain.claim("ann")
    unsure = Submission("request-1", action="cannot_judge")
    feedback = plain.submit(held.id, "ann", unsure).feedback
    assert (feedback.share, feedback.passed) == (0.5, True)


# -- known answers --------------------------------------------------------------------------------


def test_a_known_answer_follows_its_texts(store):
    """Equal candidates merge, and a task known in another order keeps its own."""

    def task(*texts, ranks):
        candidates = tuple(map(Candidate, texts))
        return NewTask(Prompt.parse("p"), candidates, pool="gold", gold=Gold(ranks, "e"))

    store.add_tasks([task("a", "b", "a", "c", ranks=(5, 2, 5, None))])
    (stored,) = store.tasks()
    assert stored.gold == Gold((2, 1, None), "e")
    store.add_tasks([task("c", "b", "a", ranks=(1, 2, 3))])
    (stored,) = store.tasks()
    assert stored.gold == Gold((3, 2, 1), "e")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ({"gold": GOLD}, "goes with pool 'gold' or 'training', not 'normal'"),
        ({"gold": Gold((1, 1, 1, None)), "pool": "gold"}, "at least one candidate above"),
        ({"gold": Gold((1, 2)), "pool": "gold"}, "2 ranks for 4 candidates"),
        ({"gold": Gold((1, 2, 3, 4.5)), "pool": "gold"}, "whole numbers"),
        ({"gold": Gold((1, 2, 3, 4), "\ud800"), "pool": "training"}, "explanation must be text"),
        ({"priority": float("inf")}, "priority inf must be a number"),
        ({"priority": "high"}, "priority 'high' must be a number"),
    ],
)
def test_impossible_additions_are_refused(store, new_task, rest, message):
    with pytest.raises(DataError, match=message):
        store.add_tasks([new_task(0, **rest)])
    assert list(store.tasks()) == []


def test_a_normal_task_never_turns_into_a_gold_one(store, new_task):
    store.add_tasks([new_task(0, pool="hard")])
    with pytest.raises(DataError, match=r"task 1: a task of pool 'hard' is there already"):
        store.add_tasks([new_task(0, pool="gold", gold=GOLD)])
    same_text = NewTask(
        Prompt.parse("p"), (Candidate("a"), Candidate("b"), Candidate("a")), pool="gold",
        gold=Gold((1, 2, 3)),
    )  # fmt: skip
    with pytest.raises(DataError, match="two candidates of the same text differently"):
        store.add_tasks([same_text])
