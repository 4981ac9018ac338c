"""A store with a clock that tests move; see ``tests/conftest.py`` for where it is."""

import pytest

from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, RankingStore


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(empty_place, clock):
    with RankingStore.open(empty_place, clock=clock) as opened:
        yield opened


@pytest.fixture
def new_task():
    def make(number=0, k=4, **rest):
        texts = [f"answer {number}.{place}" for place in range(k)]
        candidates = tuple(Candidate(text, f"model-{place}") for place, text in enumerate(texts))
        return NewTask(Prompt.parse(f"prompt {number}"), candidates, **rest)

    return make
