"""Whether a server that dies, or answers that get lost, cost a ranking.

    python benchmarks/labeling/kill.py [--kills 10] [--submits 500]

First the server is killed (SIGKILL) again and again while 16 people work; they go on as the page
does. Then it lives, and a proxy loses, cuts, delays or repeats a third of its answers. After each
part the store is compared with what the clients were told.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from faults import Proxy
from figures import REPOSITORY, Figure, note, parser, read_options, report, use_cores, workplace
from journal import Comparison, Journal, Worker, compare
from serving import Server, browser_of, log_in, make_store, names, some_tasks

from rlhf.store import RankingStore

OPEN_TASKS = 120
"""Few, so that people compete for the places of each."""


@dataclass
class Queue:
    """Keeps some tasks open from a process of its own, as ``rlhf sample`` does."""

    path: Path
    seed: int
    added: int = 0

    def fill(self) -> None:
        """Add tasks until enough are open."""
        with RankingStore.open(self.path, create=False) as store:
            missing = OPEN_TASKS - store.progress().open
            if missing > 0:
                self.added += 1
                new = some_tasks(missing, seed=self.seed + self.added, words=30, overlap=2)
                store.add_tasks(new)


@dataclass
class Killer:
    """Kills the server so many times, each time while people work."""

    server: Server
    queue: Queue
    kills: int
    rng: random.Random
    under_way: list[int] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)

    async def __call__(self, journal: Journal) -> None:
        """Kill and start again."""
        for count in range(self.kills):
            before = len(journal.acknowledged)
            while len(journal.acknowledged) < before + 16:  # people are at work again
                await asyncio.sleep(0.01)
            await asyncio.sleep(self.rng.uniform(0, 1.0))
            self.under_way.append(journal.under_way)
            self.server.kill()
            filling = asyncio.to_thread(self.queue.fill)
            seconds, _ = await asyncio.gather(asyncio.to_thread(self.server.start), filling)
            self.restarts.append(seconds)
            if (count + 1) % 10 == 0:
                note(f"{count + 1} kills, {len(journal.acknowledged)} acknowledged")


@dataclass
class Waiter:
    """Waits until so many submissions are acknowledged."""

    queue: Queue
    submits: int

    async def __call__(self, journal: Journal) -> None:
        """Wait, and keep tasks open."""
        while len(journal.acknowledged) < self.submits:
            await asyncio.to_thread(self.queue.fill)
            await asyncio.sleep(0.3)


async def work(
    address: str,
    sessions: Sequence[tuple[str, httpx.Cookies]],
    meanwhile: Callable[[Journal], Awaitable[None]],
    seed: int,
) -> Journal:
    """Let people work until ``meanwhile`` is over, and finish what they have begun."""
    journal, stop = Journal(), asyncio.Event()
    workers = [
        Worker(name, browser_of(address, own), random.Random(f"{seed} {name}"), journal, stop)
        for name, own in sessions
    ]
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.work())
        await meanwhile(journal)
        stop.set()
    for worker in workers:
        await worker.client.aclose()
    return journal


def compared(what: str, path: Path, journal: Journal) -> tuple[Comparison, list[Figure]]:
    """Compare and tell; the first of what is wrong goes to stderr."""
    found = compare(path, journal)
    refused = [entry.refused for entry in journal.entries.values() if entry.refused]
    wrong = {
        "acknowledged rankings lost": found.lost,
        "rankings doubled": found.doubled,
        "tasks over-assigned": found.over_assigned,
        "answers that contradict": journal.contradictions,
        "submissions refused": refused,
    }
    for name, cases in wrong.items():
        for case in cases[:5]:
            note(f"{what}: {name}: {case}")
    faults = verify(path)
    figures = [Figure(f"{what}: acknowledged rankings", len(journal.acknowledged), least=1)]
    figures += [Figure(f"{what}: {name}", len(cases), most=0) for name, cases in wrong.items()]
    return found, [
        *figures,
        Figure(f"{what}: rankings stored late", found.late, most=0),
        Figure(f"{what}: faults that `rlhf rankings verify` finds", faults, most=0),
        Figure(f"{what}: requests without an answer", journal.silences),
        Figure(f"{what}: answers 5xx", journal.faults),
        Figure(f"{what}: stored, answer lost, acknowledged later", found.answered_again, least=1),
    ]


def verify(path: Path) -> int:
    """Let the command check the store; give the number of faults."""
    command = [sys.executable, "-m", "rlhf.cli", "rankings", "verify", "--store", str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode == 0:
        return 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    for line in lines[:5]:
        note(f"verify: {line}")
    return max(1, len(lines))


def kill(given: argparse.Namespace, folder: Path) -> list[Figure]:
    """Kill the server under people."""
    people, path = names(given.people), folder / "killed.sqlite"
    make_store(path, [], dict.fromkeys(people, "annotator"))
    queue = Queue(path, given.seed * 1_000_000)
    queue.fill()
    with Server(path) as server:
        sessions = [(name, log_in(server.address, name)) for name in people]
        killer = Killer(server, queue, given.kills, random.Random(given.seed))
        journal = asyncio.run(work(server.address, sessions, killer, given.seed))
    _, figures = compared("kills", path, journal)
    return [
        Figure("kills", len(killer.under_way), least=given.kills),
        Figure("kills: submissions under way at each, median", statistics.median(killer.under_way)),
        Figure("kills: seconds to start again, median", statistics.median(killer.restarts), "s"),
        *figures,
    ]


async def lose(
    server: Server,
    sessions: Sequence[tuple[str, httpx.Cookies]],
    waiter: Waiter,
    seed: int,
) -> tuple[Journal, Proxy]:
    """Let people work through a proxy that spoils answers."""
    proxy = Proxy(server.port, b"/api/submit", 1 / 3, random.Random(seed))
    async with proxy.listening() as address:
        return await work(address, sessions, waiter, seed), proxy


def lost_answers(given: argparse.Namespace, folder: Path) -> list[Figure]:
    """Lose answers that the server has given."""
    people, path = names(given.people), folder / "answers.sqlite"
    make_store(path, [], dict.fromkeys(people, "annotator"))
    queue = Queue(path, given.seed * 1_000_000)
    queue.fill()
    with Server(path) as server:
        sessions = [(name, log_in(server.address, name)) for name in people]
        waiter = Waiter(queue, given.submits)
        journal, proxy = asyncio.run(lose(server, sessions, waiter, given.seed))
    note("answers: " + ", ".join(f"{fate} {count}" for fate, count in proxy.fates.items()))
    _, figures = compared("lost answers", path, journal)
    spoiled = sum(count for fate, count in proxy.fates.items() if fate != "pass")
    return [Figure("lost answers: answers spoiled", spoiled, least=1), *figures]


def main() -> int:
    """Run both parts and print."""
    build = parser(__doc__)
    build.add_argument("--kills", type=int, default=100, help="0 leaves this part out")
    build.add_argument("--submits", type=int, default=10_000, help="0 leaves this part out")
    build.add_argument("--people", type=int, default=16)
    build.add_argument("--cores", type=int, default=2)
    given = read_options(build, kills=3, submits=300)
    cores, figures = use_cores(given.cores), []
    with workplace(given) as folder:
        if given.kills:
            figures += kill(given, folder)
        if given.submits:
            figures += lost_answers(given, folder)
    return report(figures, given, people=given.people, cores=cores)


if __name__ == "__main__":
    sys.exit(main())
