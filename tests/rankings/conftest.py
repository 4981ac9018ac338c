"""Files as other tools write them, and a store on which people have disagreed."""

import json
from pathlib import Path

import pytest

from rlhf.records import Prompt, Ranking
from rlhf.store import RankingStore


@pytest.fixture
def write(tmp_path):
    def write(name: str, *rows: object) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def store_path(tmp_path) -> Path:
    return tmp_path / "store.sqlite"


@pytest.fixture
def people_store(store_path) -> Path:
    """Three people on the prompt "one", two on "two"; a skip and an "all bad"."""

    def ranking(number, prompt, ranks, annotator, **rest):
        texts = ("a", "b", "c")[: len(ranks)]
        return Ranking(
            Prompt.parse(prompt), texts, ranks, annotator, id=f"ranking-{number}", **rest
        )

    with RankingStore.open(store_path) as store:
        store.import_rankings(
            [
                ranking(1, "one", (1, 2, 2), "ann"),
                ranking(2, "one", (1, 2, 3), "bob"),
                ranking(3, "one", (2, 1, None), "eve", simulated=True),
                ranking(4, "two", (1, 2), "ann"),
                ranking(5, "two", (2, 1), "bob"),
                ranking(6, "three", (None, None), "ann", action="skip"),
                ranking(7, "three", (None, None), "bob", action="all_bad"),
            ]
        )
    return store_path
