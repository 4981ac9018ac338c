"""What malformed requests do: 10,000 damaged bodies and queries, sent with an admin's session.

    python benchmarks/labeling/malformed.py

Begins from bodies that are right and damages them by chance: other types, huge numbers, half
characters, deep nesting, missing and unknown keys, cut or wrong bytes, other content types. No
answer may be 500 or above, and every refusal must be one line of JSON.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
from damage import TYPES, Facts, odd_value, quoted, some_request
from figures import Figure, note, parser, read_options, report, workplace
from kill import verify
from serving import INSIDE, Server, browser_of, log_in, make_store, names, some_tasks

from labeling_ui.api import ENDPOINTS
from rlhf.store import RankingStore, Submission

CLIENTS = 8
NAME = "ada"


@dataclass
class Answers:
    """What came back."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    by_path: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """500 and above."""
    silent: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    """Refusals that are not one line of JSON, or tell of the inside."""


async def send(client: httpx.AsyncClient, request: tuple[Any, ...], answers: Answers) -> None:
    """Send a request and judge the answer."""
    method, path, raw, headers = request
    shown = f"{method} {path[:200]} {headers} {raw[:300]!r}"
    answers.sent += 1
    try:
        answer = await client.request(method, path, content=raw, headers=headers)
    except httpx.TransportError as error:
        answers.silent.append(f"{shown}: {error!r}")
        return
    answers.statuses[answer.status_code] += 1
    answers.by_path[f"{path.split('?')[0]} {answer.status_code // 100}xx"] += 1
    if answer.status_code >= 500:
        answers.wrong.append(f"{shown}: {answer.status_code} {answer.text[:200]}")
    elif answer.status_code >= 400 and not _is_clear(answer):
        answers.unclear.append(f"{shown}: {answer.status_code} {answer.text[:200]}")


def _is_clear(answer: httpx.Response) -> bool:
    try:
        line = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(line) and "\n" not in line and not INSIDE.search(answer.content)


async def attack(
    address: str, cookies: httpx.Cookies, facts: Facts, count: int, seed: int
) -> Answers:
    """Send so many requests, several at once."""
    answers = Answers()

    async def one(rng: random.Random, own: int) -> None:
        async with browser_of(address, cookies) as client:
            for number in range(own):
                if number % 40 == 0:  # what was claimed may have been ranked meanwhile
                    told = (await client.post("/api/next", json={})).json()
                    facts.assignment = (told["task"] or {}).get("assignment", facts.assignment)
                    await client.post(
                        "/api/admin/pause-person",
                        json={"pseudonym": facts.pseudonym, "paused": False},
                    )
                await send(client, some_request(ENDPOINTS, facts, rng), answers)

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(one(random.Random(f"{seed} {number}"), count // CLIENTS))
    return answers


async def attack_login(address: str, count: int, seed: int) -> Answers:
    """Send malformed login forms, without a session."""
    answers, rng = Answers(), random.Random(f"{seed} login")
    form = "application/x-www-form-urlencoded"
    async with browser_of(address, httpx.Cookies()) as client:
        for _ in range(count):
            fields = [
                f"{rng.choice(('name', 'password', 'x'))}={quoted(odd_value(rng, ''))}"
                for _ in range(rng.choice((0, 1, 2, 3, 20)))
            ]
            raw = "&".join(fields).encode() + rng.choice((b"", b"", b"%", b"\xff", b"&" * 99))
            kind = form if rng.random() < 0.8 else rng.choice(TYPES)
            request = ("POST", "/login", raw, {"content-type": kind, "accept": "text/html"})
            await send(client, request, answers)
    answers.unclear.clear()  # a page is the right answer here
    return answers


def make_facts(path: Any, rng: random.Random) -> Facts:
    """Rank a task by several people, so that there is something to review and to export."""
    facts = Facts()
    with RankingStore.open(path) as store:
        for person in names(3):
            assignment = store.claim(person)
            assert assignment is not None
            facts.task = assignment.task_id
            ranks = tuple(rng.randint(1, 4) for _ in assignment.completions)
            store.submit(assignment.id, person, Submission(f"first-{person}", ranks))
            facts.ranking = store.own_rankings(person)[0].ranking_id
        account = store.people.account(NAME)
        assert account is not None
        facts.pseudonym = account.pseudonym
    return facts


def main() -> int:
    """Attack and print."""
    build = parser(__doc__)
    build.add_argument("--requests", type=int, default=10_000)
    build.add_argument("--logins", type=int, default=500)
    given = read_options(build, requests=800, logins=50)
    with workplace(given) as folder:
        path = folder / "store.sqlite"
        make_store(path, some_tasks(300, seed=given.seed, words=30, overlap=3), {NAME: "admin"})
        facts = make_facts(path, random.Random(given.seed))
        with Server(path) as server:
            pid, cookies = server.pid, log_in(server.address, NAME)
            job = attack(server.address, cookies, facts, given.requests, given.seed)
            answers = asyncio.run(job)
            logins = asyncio.run(attack_login(server.address, given.logins, given.seed))
            alive = server.is_alive and server.pid == pid
            still = httpx.get(f"{server.address}/api/me", cookies=cookies, timeout=30).status_code
        faults = verify(path)
    for line in [*answers.wrong, *logins.wrong, *answers.silent, *answers.unclear][:15]:
        note(line)
    for name, count in sorted(answers.by_path.items()):
        note(f"{count:6} {name}")
    figures = [
        Figure("malformed requests", answers.sent + logins.sent, least=given.requests),
        Figure("answers 5xx", len(answers.wrong + logins.wrong), most=0),
        Figure("requests without an answer", len(answers.silent + logins.silent), most=0),
        Figure("refusals that are not one clear line", len(answers.unclear), most=0),
        Figure("requests taken after all", answers.statuses[200]),
        Figure("server alive and answering (1 is yes)", int(alive and still == 200), least=1),
        Figure("faults that `rlhf rankings verify` finds", faults, most=0),
    ]
    statuses = dict(sorted(answers.statuses.items()))
    return report(figures, given, statuses=statuses, logins=dict(sorted(logins.statuses.items())))


if __name__ == "__main__":
    sys.exit(main())
