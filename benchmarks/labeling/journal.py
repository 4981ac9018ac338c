"""People who work over HTTP and write down what the server acknowledged; and the comparison.

Each behaves as the page does: a ranking gets its id before it is sent and is sent until the server
gives a verdict. Some press twice at once, keep drafts, skip, or correct what they stored.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from serving import some_ranks

Json = dict[str, Any]
_REASONS = {"skip": "too_long", "cannot_judge": "no_knowledge"}


@dataclass
class Entry:
    """One submission as its client saw it."""

    person: str
    body: Json
    first_sent: float
    last_sent: float = 0.0
    revision: int | None = None
    """As acknowledged; None until then."""
    refused: str = ""


@dataclass
class Journal:
    """What all people sent."""

    entries: dict[str, Entry] = field(default_factory=dict)
    silences: int = 0
    """Requests that got no answer."""
    faults: int = 0
    """Answers with status 500 and above."""
    contradictions: list[str] = field(default_factory=list)
    """Answers that can't be true, such as two different acknowledgements of one id."""

    @property
    def acknowledged(self) -> list[Entry]:
        """Submissions that the server said were stored."""
        return [entry for entry in self.entries.values() if entry.revision is not None]

    @property
    def under_way(self) -> int:
        """Submissions that were sent and have no verdict yet."""
        return sum(one.revision is None and not one.refused for one in self.entries.values())


@dataclass
class Worker:
    """One person at one browser."""

    name: str
    client: httpx.AsyncClient
    rng: random.Random
    journal: Journal
    stop: asyncio.Event
    done: list[Json] = field(default_factory=list)
    """Own submissions that were ranked, with the newest revision of each."""

    async def work(self) -> None:
        """Rank until told to stop; what was begun is sent to its end."""
        answer = await self.next()
        while not self.stop.is_set():
            if answer["status"] != "task":
                await asyncio.sleep(0.1)
                answer = await self.next()
                continue
            task = answer["task"]
            if self.rng.random() < 0.25:
                await self.draft(task)
            following = await self.submit(self.decide(task))
            if self.done and self.rng.random() < 0.1:
                await self.correct()
            answer = following or await self.next()

    async def next(self) -> Json:
        """Ask for a task."""
        answer: Json = (await self.send("/api/next", {})).json()
        return answer

    async def draft(self, task: Json) -> None:
        """Keep a draft; nothing is promised of it."""
        body = {"assignment": task["assignment"], "seq": time.time_ns() // 1000, "body": {"a": 1}}
        await self.send("/api/draft", body)

    def decide(self, task: Json) -> Json:
        """Say something about a task."""
        k, draw = len(task["completions"]), self.rng.random()
        action = "rank" if draw > 0.2 else ("skip", "all_bad", "cannot_judge")[int(draw * 15)]
        return {
            "assignment": task["assignment"],
            "request_id": f"{self.rng.getrandbits(128):032x}",
            "replaces": task["revision"],
            "action": action,
            "ranks": some_ranks(self.rng, k) if action == "rank" else [None] * k,
            "reason": _REASONS.get(action, ""),
            "active_ms": self.rng.randint(1000, 60_000),
        }

    async def correct(self) -> None:
        """Replace an own ranking by another."""
        last = self.rng.choice(self.done)
        answer = await self.send("/api/reopen", {"assignment": last["assignment"]})
        if answer.status_code != 200:
            self.journal.contradictions.append(f"reopen: {answer.status_code} {answer.text[:200]}")
            return
        task = answer.json()["task"]
        body = {**self.decide(task), "action": "rank", "reason": ""}
        body["ranks"] = some_ranks(self.rng, len(task["completions"]))
        await self.submit(body)

    async def submit(self, body: Json) -> Json | None:
        """Send a ranking until there is a verdict, sometimes twice at once; give the next task."""
        entry = Entry(self.name, body, time.time())
        self.journal.entries[body["request_id"]] = entry
        times = 2 if self.rng.random() < 0.1 else 1
        sent = (self.send("/api/submit", body, entry) for _ in range(times))
        verdicts = [self.read(entry, answer) for answer in await asyncio.gather(*sent)]
        if body["action"] == "rank" and entry.revision is not None:
            self.done = [one for one in self.done if one["assignment"] != body["assignment"]]
            self.done.append(body)
        return verdicts[-1]

    def read(self, entry: Entry, answer: httpx.Response) -> Json | None:
        """Write an answer down."""
        if answer.status_code != 200:
            entry.refused = f"{answer.status_code} {answer.text[:200]}"
            return None
        told = answer.json()
        stored, body = told["stored"], entry.body
        expected = (body["assignment"], body["request_id"], body["replaces"] + 1)
        if (stored["assignment"], stored["request_id"], stored["revision"]) != expected:
            self.journal.contradictions.append(f"acknowledged {stored} for {body}")
        if entry.revision not in (None, stored["revision"]):
            self.journal.contradictions.append(f"two acknowledgements of {body['request_id']}")
        entry.revision = stored["revision"]
        following: Json | None = told["next"]
        return following

    async def send(self, path: str, body: Json, entry: Entry | None = None) -> httpx.Response:
        """Send until the server answers with anything below 500."""
        wait = 0.02
        while True:
            if entry is not None:
                entry.last_sent = time.time()
            try:
                answer = await self.client.post(path, json=body)
            except httpx.TransportError:
                self.journal.silences += 1
            else:
                if answer.status_code < 500:
                    return answer
                self.journal.faults += 1
            await asyncio.sleep(wait * self.rng.uniform(0.5, 1.5))
            wait = min(0.4, 2 * wait)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the store differs from the journals: everything but ``stored`` must be 0."""

    stored: int
    lost: list[str]
    """Acknowledged submissions that are not stored as they were sent."""
    doubled: list[str]
    """Stored rankings that nobody sent, or that stand for one submission twice."""
    over_assigned: list[str]
    """Tasks with more people than wanted, or one person twice."""
    late: int
    answered_again: int
    """Stored before the request that was acknowledged was sent: the first answer was lost."""


def compare(path: Path, journal: Journal) -> Comparison:
    """Compare the journals with the tables themselves, not through the library."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute(_RANKINGS).fetchall()
        crowded = [f"task {row[0]}: {row[1]} of {row[2]}" for row in database.execute(_CROWDED)]
        twice = [f"task {row[0]}, person {row[1]}" for row in database.execute(_TWICE)]
    ids = Counter(row["request_id"] for row in rows)
    stored = {row["request_id"]: row for row in rows}
    lost = [
        f"{entry.person} {entry.body}"
        for entry in journal.acknowledged
        if not _is_kept(entry, stored.get(entry.body["request_id"]))
    ]
    strange = [name for name in ids if name not in journal.entries]
    again = [
        entry
        for entry in journal.acknowledged
        if (row := stored.get(entry.body["request_id"])) is not None
        and row["submitted_ms"] / 1000 < entry.last_sent - 0.001
    ]
    return Comparison(
        stored=len(rows),
        lost=lost,
        doubled=strange + [name for name, count in ids.items() if count > 1],
        over_assigned=crowded + twice,
        late=sum(row["late"] for row in rows),
        answered_again=len(again),
    )


def _is_kept(entry: Entry, row: sqlite3.Row | None) -> bool:
    """Say whether a row holds what was sent; ranks are stored by candidate, without gaps."""
    if row is None:
        return False
    body, order = entry.body, json.loads(row["shown_order"])
    tiers = sorted({rank for rank in body["ranks"] if rank is not None})
    dense = [None if rank is None else tiers.index(rank) + 1 for rank in body["ranks"]]
    shown = [json.loads(row["ranks"])[place] for place in order]
    sent = (entry.person, body["assignment"], entry.revision, body["action"], dense)
    return sent == (row["name"], row["assignment_id"], row["revision"], row["action"], shown)


_RANKINGS = """
SELECT r.request_id, r.assignment_id, r.revision, r.action, r.ranks, r.late, r.submitted_ms,
       a.shown_order, n.name
FROM rankings r JOIN assignments a ON a.id = r.assignment_id JOIN annotators n
     ON n.id = r.annotator_id
"""
# People whose newest ranking counts and was in time, and people who hold a place now.
_CROWDED = """
SELECT t.id, count(*) AS people, t.overlap
FROM tasks t JOIN assignments a ON a.task_id = t.id
WHERE t.pool NOT IN ('gold', 'training') AND (
    (a.state = 'leased' AND a.lease_until_ms > 1000 * CAST(strftime('%s', 'now') AS INTEGER))
    OR EXISTS (SELECT 1 FROM rankings r WHERE r.assignment_id = a.id AND r.action <> 'skip'
               AND NOT r.late AND r.revision = (SELECT max(revision) FROM rankings newer
                                                WHERE newer.assignment_id = a.id)))
GROUP BY t.id HAVING people > t.overlap
"""
_TWICE = """
SELECT task_id, annotator_id FROM rankings WHERE revision = 1
GROUP BY task_id, annotator_id HAVING count(*) > 1
"""
