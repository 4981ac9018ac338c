"""Tasks for the page, and a temporary store."""

import shutil

import pytest

from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, RankingStore


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    made = tmp_path_factory.mktemp("empty") / "store.sqlite"
    RankingStore.open(made).close()
    return made


@pytest.fixture
def store(tmp_path, empty_store):
    with RankingStore.open(shutil.copy(empty_store, tmp_path / "store.sqlite")) as opened:
        yield opened


@pytest.fixture
def new_task():
    def make(number=0, k=4, **rest):
        candidates = tuple(
            Candidate(f"answer {number}.{place}", f"secret-model-{place}") for place in range(k)
        )
        return NewTask(Prompt.parse(f"prompt {number}"), candidates, **rest)

    return make
