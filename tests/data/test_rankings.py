"""Rankings from a store or from a file: the caller need not know which."""

import json
from pathlib import Path

import pytest

from rlhf.data.rankings import is_store, load_rankings
from rlhf.errors import DataError, StoreError
from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, RankingStore, Submission


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite"
    with RankingStore.open(str(path)) as store:
        candidates = tuple(Candidate(text) for text in ("good", "fair", "bad"))
        store.add_tasks([NewTask(Prompt.parse("Say hi."), candidates)])
        store.add_annotator("simulated-1", "simulated-1")
        assignment = store.claim("simulated-1")
        assert assignment is not None
        order = {"good": 1, "fair": 2, "bad": 2}
        ranks = tuple(order[text] for text in assignment.completions)
        store.submit(assignment.id, "simulated-1", Submission("request-1", ranks=ranks))
        store.export_jsonl(str(tmp_path / "export.jsonl"))
    return path


def test_a_store_and_its_export_give_the_same_rankings(store_path: Path):
    (ranking,) = load_rankings(str(store_path))
    assert dict(zip(ranking.completions, ranking.ranks, strict=True)) == {
        "good": 1,
        "fair": 2,
        "bad": 2,
    }
    assert load_rankings(str(store_path.with_name("export.jsonl"))) == [ranking]
    assert load_rankings(f"sqlite:///{store_path}") == [ranking]


def test_a_store_is_known_by_its_content_whatever_its_name(store_path: Path):
    renamed = store_path.rename(store_path.with_name("rankings"))
    assert is_store(str(renamed))
    assert len(load_rankings(str(renamed))) == 1


def test_a_missing_store_is_not_made(tmp_path: Path):
    with pytest.raises(StoreError, match=r"none\.sqlite: no such store"):
        load_rankings(str(tmp_path / "none.sqlite"))
    assert not (tmp_path / "none.sqlite").exists()


def test_files_are_read_as_files(tmp_path: Path):
    path = tmp_path / "rankings.jsonl"
    path.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    assert not is_store(str(path))
    assert load_rankings(str(path))[0].completions == ("a", "b")
    with pytest.raises(DataError, match="no such file"):
        load_rankings(str(tmp_path / "none.jsonl"))
