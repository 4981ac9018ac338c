"""How long it takes to find somebody's next task among 100,000 open ones.

    python benchmarks/labeling/claim.py

Times ``RankingStore.claim`` in this process, one claim after the other, each of a task that its
person has not seen. 50 places are held by others meanwhile. Each situation is a store of its own
state, built on the one before; what people do between claims is not timed.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from figures import (
    Figure,
    Load,
    note,
    parser,
    percentile,
    read_options,
    report,
    use_cores,
    workplace,
)
from serving import batches, names, some_tasks

from rlhf.records import Candidate, Prompt
from rlhf.store import Gold, NewTask, RankingStore, Submission

LEASES = 50


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of claims: by the clock, and of the processor."""

    wall: Sequence[float]
    cpu: Sequence[float]

    def figures(self, name: str) -> list[Figure]:
        """Give the figures of a situation."""
        return [
            Figure(f"claim, {name}: p50", percentile(self.wall, 0.5), "ms"),
            Figure(f"claim, {name}: p95", percentile(self.wall, 0.95), "ms", most=10),
            Figure(f"claim, {name}: processor time, p95", percentile(self.cpu, 0.95), "ms"),
        ]


@dataclass
class People:
    """People who claim and rank in turns."""

    store: RankingStore
    names: Sequence[str]
    rng: random.Random
    sent: int = 0

    def times(self, count: int) -> Times:
        """Let people claim so many tasks and rank each; give what the claims took."""
        return Times(*zip(*islice(self._claims(), count), strict=True))

    def _claims(self) -> Iterator[tuple[float, float]]:
        while True:
            for name in self.names:
                used, begun = time.process_time(), time.perf_counter()
                assignment = self.store.claim(name)
                millis = (time.perf_counter() - begun) * 1000
                used = (time.process_time() - used) * 1000
                assert assignment is not None, f"{name} gets no task"
                self.sent += 1
                ranks = list(range(1, len(assignment.completions) + 1))
                self.rng.shuffle(ranks)
                request = f"claim-{self.names[0]}-{self.sent:08}"
                self.store.submit(assignment.id, name, Submission(request, tuple(ranks)))
                yield millis, used


def small_tasks(count: int, pool: str, seed: int) -> list[NewTask]:
    """Make tasks with a known answer."""
    found = []
    for number in range(count):
        prompt = Prompt.parse(f"{pool} {seed} {number}")
        candidates = (Candidate(f"good {number}"), Candidate(f"bad {number}"))
        found.append(NewTask(prompt, candidates, pool=pool, gold=Gold((1, 2), "known")))
    return found


def situations(
    store: RankingStore, rng: random.Random, claims: int, alone: int, seed: int
) -> Iterator[tuple[str, Times]]:
    """Yield the name of each situation and what the claims in it took."""
    team = People(store, names(16), rng)
    for number in range(LEASES):
        store.claim(f"holder-{number}")
    yield f"{LEASES} live leases", team.times(claims)
    everything = [task.prompt.sha256 for task in store.tasks()]
    store.set_priorities({prompt: rng.random() for prompt in everything})
    yield "a priority on every task", team.times(claims)
    store.change_settings(random_share=1.0)
    yield "random pool alone", team.times(claims)
    store.change_settings(random_share=0.2)
    store.add_tasks(small_tasks(200, "gold", seed) + small_tasks(20, "training", seed))
    store.change_settings(gold_every=2)
    yield "gold and training", team.times(claims)
    store.change_settings(gold_every=10, random_share=0.0)
    # Tasks that somebody began come first: what one person ranked alone lies before the rest.
    hermit = People(store, ["hermit"], rng)
    for count, part in enumerate(batches(range(alone), 1000)):
        note(f"one person alone: {1000 * count + len(part)} tasks")
        last = hermit.times(len(part))
    yield f"one person after {alone} tasks alone", last
    for number in range(len(everything) // 50):
        store.pause_task(number + 1, True)
    yield "2 % of the tasks paused", team.times(claims)


def main() -> int:
    """Measure and print."""
    build = parser(__doc__)
    build.add_argument("--tasks", type=int, default=100_000)
    build.add_argument("--claims", type=int, default=1_000, help="in each situation")
    build.add_argument("--alone", type=int, default=5_000)
    build.add_argument("--cores", type=int, default=2)
    given = read_options(build, tasks=5_000, claims=200, alone=1_000)
    cores = use_cores(given.cores)
    with workplace(given) as folder, RankingStore.open(folder / "claims.sqlite") as store:
        note(f"adding {given.tasks} tasks")
        for number in range(0, given.tasks, 10_000):
            count = min(10_000, given.tasks - number)
            store.add_tasks(some_tasks(count, seed=given.seed + number, words=12, overlap=2))
        figures: list[Figure] = []
        load = Load()
        rng = random.Random(given.seed)
        for name, times in situations(store, rng, given.claims, given.alone, given.seed):
            note(name)
            figures += times.figures(name)
        still = store.progress().open
    figures.append(Figure("tasks open at the end", still, least=given.tasks * 0.8))
    others = f"{load.others():.2f} of a core"
    return report(figures, given, cores=cores, others_used=others)


if __name__ == "__main__":
    sys.exit(main())
