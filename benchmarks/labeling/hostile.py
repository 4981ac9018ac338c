"""A store in which hostile strings stand wherever people and programs write texts."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from serving import batches, names

from rlhf.errors import RlhfError
from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, OwnRanking, RankingStore, Submission

K = 9
"""Strings in each task: one an answer, and one a turn of the conversation."""
STAFF = {"ann": "annotator", "rev": "reviewer", "adm": "admin"}
_ROLES = ("system", "user", "assistant", "user", "tool", "user", "assistant", "user", "user")


def storable(strings: Sequence[str]) -> list[str]:
    """Leave out what no store takes: NUL, half characters, nothing but white space."""
    return [text for text in strings if "\0" not in text and text.strip() and _is_whole(text)]


def make_hostile_store(path: Path, strings: Sequence[str], seed: int) -> list[str]:
    """Put the strings into prompts, answers, comments, names and notes; give the names.

    Each name ranks one task; a few people rank all of them, with another comment each.
    """
    rng, parts = random.Random(seed), list(batches(strings, K))
    with RankingStore.open(path) as store:
        store.change_settings(max_overlap=0, random_share=0.0)
        for name, role in STAFF.items():
            store.people.add(name, role)
        # More places than people: everybody gets every task.
        people = len(strings) + 100
        store.add_tasks(_task(part, number, people) for number, part in enumerate(parts))
        called = dict.fromkeys(filter(None, map(_as_name, strings)))
        known = [name for name in called if _add(store, name)]
        for name in known:
            _rank(store, name, 1, iter(strings), rng)
        comments = iter(strings)
        for name in ("ann", *names(-(-len(strings) // len(parts)) - 1)):
            if name not in STAFF:
                store.people.add(name, "annotator")
            _rank(store, name, len(parts), comments, rng)
        for number, part in enumerate(parts, start=1):
            for place, text in enumerate(part):
                request = f"review-{number}-{place}"
                store.reviews.add("rev", number, request_id=request, verdict="send_back", note=text)
    return known


def own_rankings(store: RankingStore, name: str) -> list[OwnRanking]:
    """Give all rankings of a person, newest first."""
    found: list[OwnRanking] = []
    while page := store.own_rankings(name, before=found[-1].ranking_id if found else None):
        found += page
    return found


def _task(part: Sequence[str], number: int, overlap: int) -> NewTask:
    turns = [{"role": role, "content": text} for role, text in zip(_ROLES, part, strict=False)]
    turns.append({"role": "user", "content": f"Task {number}. {part[0]}"})
    texts = dict.fromkeys([*part, f"plain {number}", f"plainer {number}"])
    candidates = tuple(Candidate(text) for text in list(texts)[:K])
    return NewTask(Prompt.parse(turns), candidates, overlap)


def _as_name(text: str) -> str:
    """Make a name of a text: names are short and printable."""
    return "".join(letter for letter in text if letter.isprintable())[:64].strip()


def _add(store: RankingStore, name: str) -> bool:
    try:
        store.people.add(name, "annotator")
    except RlhfError:  # two texts that make one name
        return False
    return True


def _rank(
    store: RankingStore, name: str, count: int, comments: Iterator[str], rng: random.Random
) -> None:
    for _ in range(count):
        assignment = store.claim(name)
        assert assignment is not None, f"{name} gets no task"
        ranks = tuple(rng.randint(1, 3) for _ in assignment.completions)
        request, comment = f"{rng.getrandbits(96):024x}", next(comments, "")
        store.submit(assignment.id, name, Submission(request, ranks, comment=comment))


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
