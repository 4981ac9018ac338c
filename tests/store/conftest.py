"""A store in a temporary folder with a clock that tests move."""

import shutil

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
def path(tmp_path):
    return tmp_path / "store.sqlite"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """Made once: copying a file is faster than migrating one for every test."""
    made = tmp_path_factory.mktemp("empty") / "store.sqlite"
    RankingStore.open(made).close()
    return made


@pytest.fixture
def store(path, clock, empty_store):
    shutil.copy(empty_store, path)
    with RankingStore.open(path, clock=clock) as opened:
        yield opened


@pytest.fixture
def new_task():
    def make(number=0, k=4, **rest):
        texts = [f"answer {number}.{place}" for place in range(k)]
        candidates = tuple(Candidate(text, f"model-{place}") for place, text in enumerate(texts))
        return NewTask(Prompt.parse(f"prompt {number}"), candidates, **rest)

    return make
