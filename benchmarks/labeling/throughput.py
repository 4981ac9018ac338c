"""How fast rankings are stored: 16 people who submit and get the next task, without a pause.

    python benchmarks/labeling/throughput.py

Latency is that of one request, which stores a ranking and gives the next task. Clients and server
share two cores. The first rankings of each person warm things up and are not counted. Resident
memory is the server's after all of them.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from figures import (
    Figure,
    Load,
    parser,
    percentile,
    read_options,
    report,
    use_cores,
    workplace,
)
from serving import Server, browser_of, log_in, make_store, names, some_ranks, some_tasks

Json = dict[str, Any]
WARM_UP = 10


@dataclass
class Run:
    """What has been measured, by all people together."""

    wanted: int
    sent: int = 0
    faults: int = 0
    dry: int = 0
    """Times that somebody got no task."""
    millis: list[float] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0

    def take(self) -> bool:
        """Say whether another ranking is wanted."""
        self.sent += 1
        return self.sent <= self.wanted


async def work(
    client: httpx.AsyncClient, rng: random.Random, run: Run, gate: asyncio.Barrier
) -> None:
    """Rank one task after the other until there are enough."""
    answer = (await client.post("/api/next", json={})).json()
    for _ in range(WARM_UP):
        answer = await submit(client, rng, answer, run)
    await gate.wait()
    run.began = run.began or time.perf_counter()
    while run.take():
        if answer["status"] != "task":
            run.dry += 1
            return
        begun = time.perf_counter()
        answer = await submit(client, rng, answer, run)
        run.ended = time.perf_counter()
        run.millis.append((run.ended - begun) * 1000)


async def submit(client: httpx.AsyncClient, rng: random.Random, answer: Json, run: Run) -> Json:
    """Store a ranking; give the answer of ``/api/next`` that comes with it."""
    task = answer["task"]
    body = {
        "assignment": task["assignment"],
        "request_id": f"{rng.getrandbits(128):032x}",
        "replaces": task["revision"],
        "action": "rank",
        "ranks": some_ranks(rng, len(task["completions"])),
        "active_ms": rng.randint(5_000, 90_000),
    }
    got = await client.post("/api/submit", json=body)
    if got.status_code != 200 or got.json()["next"] is None:
        run.faults += 1
        got = await client.post("/api/next", json={})
        again: Json = got.json()
        return again
    following: Json = got.json()["next"]
    return following


async def run_all(address: str, sessions: list[httpx.Cookies], run: Run, seed: int) -> None:
    """Let everybody work at once."""
    gate = asyncio.Barrier(len(sessions))
    clients = [browser_of(address, cookies) for cookies in sessions]
    async with asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(work(client, random.Random(f"{seed} {number}"), run, gate))
    for client in clients:
        await client.aclose()


def main() -> int:
    """Measure and print."""
    build = parser(__doc__)
    build.add_argument("--rankings", type=int, default=10_000)
    build.add_argument("--people", type=int, default=16)
    build.add_argument("--answers", type=int, default=4)
    build.add_argument("--words", type=int, default=80, help="in each answer")
    build.add_argument("--cores", type=int, default=2)
    given = read_options(build, rankings=800)
    cores = use_cores(given.cores)
    people = names(given.people)
    # Overlap 2 and more where people disagree: 2.5 rankings a task, and some to spare.
    count = (given.rankings + given.people * WARM_UP) * 2 // 3 + 200
    with workplace(given) as folder:
        tasks = some_tasks(count, seed=given.seed, k=given.answers, words=given.words, overlap=2)
        store = folder / "store.sqlite"
        make_store(store, tasks, dict.fromkeys(people, "annotator"))
        with Server(store) as server:
            before, _ = server.memory_mb()
            sessions = [log_in(server.address, name) for name in people]
            run, load = Run(given.rankings), Load(server.pid)
            used, used_here = server.cpu_seconds(), time.process_time()
            asyncio.run(run_all(server.address, sessions, run, given.seed))
            used, used_here = server.cpu_seconds() - used, time.process_time() - used_here
            others, (after, most) = load.others(), server.memory_mb()
    sent = max(1, len(run.millis) + given.people * WARM_UP)
    figures = [
        Figure("submit and next, p50", percentile(run.millis, 0.5), "ms"),
        Figure("submit and next, p95", percentile(run.millis, 0.95), "ms", most=100),
        Figure("submit and next, p99", percentile(run.millis, 0.99), "ms"),
        Figure("rankings a second", len(run.millis) / (run.ended - run.began), "1/s", least=150),
        Figure("processor time of the server, a ranking", 1000 * used / sent, "ms"),
        Figure("processor time of the clients, a ranking", 1000 * used_here / sent, "ms"),
        Figure("rankings counted", len(run.millis), least=given.rankings),
        Figure("requests that failed", run.faults + run.dry, most=0),
        Figure("resident memory at the start", before, "MB"),
        Figure("resident memory at the end", after, "MB", most=300),
        Figure("resident memory at its highest", most, "MB"),
    ]
    return report(
        figures, given, people=given.people, cores=cores, others_used=f"{others:.2f} of a core"
    )


if __name__ == "__main__":
    sys.exit(main())
