"""The rules of assignment against a model of them, over whatever people and clocks may do.

The model knows what each person was given and when, and counts for itself; it takes only the
wanted overlap from the store, which raises it where people disagree (see test_overlap.py).
"""

import shutil
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rlhf.records import Candidate, Prompt
from rlhf.store import Gold, NewTask, RankingStore, Submission

PEOPLE = ("ann", "bob", "cy", "dee")
POOLS = ("normal", "random", "hard", "gold", "training")
LEASE = 100.0
K = 3


@dataclass
class Held:
    """An assignment as the model knows it."""

    person: str
    task: int
    until: float
    state: str = "leased"
    revision: int = 0
    drafted: bool = False
    on_time: bool = True


@dataclass
class Known:
    """A task as the model knows it."""

    pool: str
    paused: bool = False
    held: dict = field(default_factory=dict)

    @property
    def counted(self):
        return self.pool not in ("gold", "training")

    @property
    def done(self):
        return [held for held in self.held.values() if held.state == "done"]

    def others_on_it(self, person, now):
        return sum(
            held.state == "leased" and held.until > now
            for held in self.held.values()
            if held.person != person
        )


class Assigning(RuleBasedStateMachine):
    """People claim, rank, skip, correct, leave and come back late; tasks and people pause."""

    assignments = Bundle("assignments")

    def __init__(self, place):
        super().__init__()
        self.now = 1_800_000_000.0
        self.store = RankingStore.open(place, clock=lambda: self.now)
        self.tasks = {}
        self.held = {}
        self.paused = set()
        self.requests = count()

    def teardown(self):
        try:
            self.everybody_works_until_nothing_is_left()
        finally:
            self.store.close()

    # -- what happens -----------------------------------------------------------------------------

    @initialize(share=st.sampled_from([0, 0.3, 1]), limit=st.sampled_from([0, 3, 4]),
                gold_every=st.sampled_from([0, 1, 3]))  # fmt: skip
    def begin(self, share, limit, gold_every):
        self.store.change_settings(random_share=share, max_overlap=limit, gold_every=gold_every)
        for name in PEOPLE:
            self.store.people.add(name, "annotator")

    @rule(pools=st.lists(st.sampled_from(POOLS), min_size=1, max_size=3),
          overlap=st.integers(1, 3))  # fmt: skip
    def add(self, pools, overlap):
        start = len(self.tasks)
        added = self.store.add_tasks(
            NewTask(
                Prompt.parse(f"prompt {number}"),
                tuple(Candidate(f"{number}.{place}") for place in range(K)),
                overlap=overlap,
                pool=pool,
                gold=Gold((1, 2, 3)) if pool in ("gold", "training") else None,
            )
            for number, pool in enumerate(pools, start)
        )
        self.tasks |= {number: Known(pool) for number, pool in zip(added.ids, pools, strict=True)}

    @rule(target=assignments, person=st.sampled_from(PEOPLE))
    def claim(self, person):
        given = self.store.claim(person, lease_seconds=LEASE)
        if given is None:
            assert person in self.paused or not self.free_for(person)
            return None
        assert person not in self.paused
        task = self.tasks[given.task_id]
        assert not task.paused
        mine = task.held.get(person)
        live = [held for held in self.held_by(person) if held.until > self.now]
        if live:  # what one holds is given again
            assert mine in live
        elif task.counted:
            people = len(task.done) + task.others_on_it(person, self.now)
            assert people < self.overlap(given.task_id)
        if mine is None:
            mine = task.held[person] = self.held[given.id] = Held(person, given.task_id, 0)
        assert mine is self.held[given.id]
        assert mine.state == "leased"
        assert (given.draft is not None) == mine.drafted
        assert (given.revision, given.current) == (0, None)
        mine.until = max(mine.until, self.now + LEASE)
        return given.id

    @rule(number=assignments, action=st.sampled_from(["rank", "rank", "rank", "skip", "all_bad"]),
          ranks=st.permutations(range(1, K + 1)), again=st.booleans())  # fmt: skip
    def submit(self, number, action, ranks, again):
        """Rank or skip what was given, however long ago, or correct what was said of it."""
        if number is None:
            return
        mine = self.held[number]
        task = self.tasks[mine.task]
        late = mine.state == "leased" and mine.until <= self.now
        if mine.state == "skipped" and action != "skip":
            people = len(task.done) + task.others_on_it(mine.person, self.now)
            late = task.counted and people >= self.overlap(mine.task)
        elif mine.state != "leased":
            late = not mine.on_time
        request = f"request-{next(self.requests):06d}"
        given = tuple(ranks) if action == "rank" else ()
        sent = Submission(request, given, action=action, replaces=mine.revision)
        result = self.store.submit(number, mine.person, sent)
        assert (result.revision, result.late) == (mine.revision + 1, late)
        mine.revision += 1
        mine.state = "skipped" if action == "skip" else "done"
        mine.on_time = not late
        mine.drafted = False
        if again:
            assert self.store.submit(number, mine.person, sent) == result

    @rule(number=assignments)
    def draft(self, number):
        if number is None or self.held[number].state != "leased":
            return
        mine = self.held[number]
        seq = next(self.requests)
        assert self.store.keep_draft(number, mine.person, seq, {}, lease_seconds=LEASE)
        mine.drafted = True
        if mine.until > self.now:
            mine.until = self.now + LEASE

    @rule(seconds=st.sampled_from([1, LEASE / 2, LEASE, 3 * LEASE]))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), paused=st.booleans())
    def pause_task(self, data, paused):
        number = data.draw(st.sampled_from(sorted(self.tasks)))
        self.store.pause_task(number, paused)
        self.tasks[number].paused = paused

    @rule(person=st.sampled_from(PEOPLE), paused=st.booleans())
    def pause_person(self, person, paused):
        self.store.people.set_state(person, "paused" if paused else "active")
        (self.paused.add if paused else self.paused.discard)(person)

    # -- what holds -------------------------------------------------------------------------------

    @invariant()
    def on_time_nobody_is_too_many(self):
        overlaps = self.overlaps()
        for number, task in self.tasks.items():
            if task.counted:
                assert sum(held.on_time for held in task.done) <= overlaps[number]

    @invariant()
    def the_store_counts_what_happened(self):
        overlaps = self.overlaps()
        counted = {n: task for n, task in self.tasks.items() if task.counted}
        due = {n for n, task in counted.items() if len(task.done) < overlaps[n]}
        surplus = {n: len(task.done) - overlaps[n] for n, task in counted.items() if n not in due}
        progress = self.store.progress()
        assert progress.open == sum(not counted[n].paused for n in due)
        assert (progress.paused, progress.done) == (len(due) - progress.open, len(surplus))
        assert (progress.tasks, progress.surplus) == (len(counted), sum(surplus.values()))
        assert progress.rankings == sum(len(task.done) for task in counted.values())
        # Beyond the overlap are none but those who came late.
        for number, extra in surplus.items():
            assert extra <= sum(not held.on_time for held in counted[number].done)

    def everybody_works_until_nothing_is_left(self):
        for number in self.tasks:
            self.pause_task_now(number)
        for person in PEOPLE:
            self.pause_person(person, False)
        self.now += 10 * LEASE
        busy = True
        while busy:
            busy = False
            for person in PEOPLE:
                number = self.claim(person)
                if number is not None:
                    busy = True
                    self.submit(number, "rank", (1, 2, 3), True)
        overlaps = self.overlaps()
        for number, task in self.tasks.items():
            done, finished = len(task.done), sum(h.state != "leased" for h in task.held.values())
            if task.counted:
                late = sum(not held.on_time for held in task.done)
                assert overlaps[number] <= done <= overlaps[number] + late or (
                    finished == len(PEOPLE) and done <= overlaps[number]
                )
        self.nobody_ranked_twice()

    def nobody_ranked_twice(self):
        pairs = Counter(
            (ranking.meta["task"], ranking.annotator) for ranking in self.store.rankings(gold=True)
        )
        assert set(pairs.values()) <= {1}
        assert len(pairs) == sum(held.revision > 0 for held in self.held.values())

    # -- the model's own arithmetic ---------------------------------------------------------------

    def pause_task_now(self, number):
        self.store.pause_task(number, False)
        self.tasks[number].paused = False

    def overlaps(self):
        return {task.id: task.overlap for task in self.store.tasks()}

    def overlap(self, number):
        return self.overlaps()[number]

    def held_by(self, person):
        return [
            task.held[person]
            for task in self.tasks.values()
            if person in task.held and task.held[person].state == "leased" and not task.paused
        ]

    def free_for(self, person):
        """Tasks that a person could be given; gold ones come only now and then."""
        overlaps = self.overlaps()
        return [
            number
            for number, task in self.tasks.items()
            if not task.paused
            and task.pool != "gold"
            and (person not in task.held or task.held[person].state == "leased")
            and (
                task.pool == "training"
                or len(task.done) + task.others_on_it(person, self.now) < overlaps[number]
            )
        ]


def machine(new_place, empty_store, dialect):
    place = new_place()
    if dialect == "sqlite":
        shutil.copy(empty_store, place)
    return Assigning(place)


def check(make, examples, steps):
    rules = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(make, settings=rules)


def test_assignment_follows_its_rules(new_place, empty_store, dialect):
    examples = 15 if dialect == "sqlite" else 6
    check(lambda: machine(new_place, empty_store, dialect), examples, 40)


@pytest.mark.slow
def test_assignment_follows_its_rules_for_long(new_place, empty_store, dialect):
    check(lambda: machine(new_place, empty_store, dialect), 150, 60)
