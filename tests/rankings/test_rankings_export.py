"""Export: the same bytes every time, pairs as TRL reads them, majorities and splits."""

import hashlib
import json

import pytest

from rlhf.cli import main
from rlhf.config import RankingsExportConfig
from rlhf.errors import DataError, StoreError
from rlhf.rankings.exporting import (
    NothingToExport,
    export_rankings,
    majority_pairs,
    read_export,
)
from rlhf.records import Prompt, Ranking
from rlhf.store import RankingStore


def export(store, tmp_path, **rest):
    path = tmp_path / "out.jsonl"
    config = RankingsExportConfig(store=str(store), output=str(path), **rest)
    figures = export_rankings(config)
    return figures, [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def pairs(rows):
    return sorted(
        (row["prompt"][0]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in rows
    )


def test_rankings_come_in_the_same_bytes_and_go_in_again(people_store, tmp_path):
    figures, rows = export(people_store, tmp_path)
    content = (tmp_path / "out.jsonl").read_bytes()
    assert figures["rows"] == len(rows) == 7
    assert figures["sha256"] == hashlib.sha256(content).hexdigest()
    assert figures["rankings made by programs"] == 1
    with RankingStore.open(tmp_path / "other.sqlite") as other:
        other.import_jsonl(tmp_path / "out.jsonl")
        with RankingStore.open(people_store) as store:
            assert other.fingerprint() == store.fingerprint()
    # The order is that of the content, so a store filled in another order gives the same bytes.
    again, _ = export(tmp_path / "other.sqlite", tmp_path)
    assert again == figures
    hashes = [Prompt.parse(row["prompt"]).sha256 for row in rows]
    assert hashes == sorted(hashes)


def test_trl_rows_are_the_strict_pairs_as_messages(people_store, tmp_path):
    figures, rows = export(people_store, tmp_path, format="trl")
    assert set(rows[0]) == {"prompt", "chosen", "rejected"}
    assert rows[0]["chosen"][0]["role"] == "assistant"
    # ann: a above b and c, which are tied; bob: a, b, c; eve: b above a, c not ranked.
    assert pairs(rows) == [
        *[("one", "a", "b")] * 2,
        *[("one", "a", "c")] * 2,
        ("one", "b", "a"),
        ("one", "b", "c"),
        ("two", "a", "b"),
        ("two", "b", "a"),
    ]
    assert figures["rows"] == 8


def test_the_majority_is_counted_pair_by_pair(people_store, tmp_path):
    _, rows = export(people_store, tmp_path, format="trl", aggregate="majority")
    # 2 to 1 for a above b, 2 to 0 for a above c, 1 to 0 for b above c; "two" is 1 to 1.
    assert pairs(rows) == [("one", "a", "b"), ("one", "a", "c"), ("one", "b", "c")]
    _, rows = export(people_store, tmp_path, aggregate="majority")
    assert [row["meta"]["votes"] for row in rows] == [[2, 1], [2, 0], [1, 0]]


def test_a_majority_does_not_depend_on_the_order_of_completions():
    prompt = Prompt.parse("p")
    turned = [
        Ranking(prompt, ("a", "b"), (1, 2)),
        Ranking(prompt, ("b", "a"), (2, 1)),
        Ranking(prompt, ("b", "a"), (1, 2)),
    ]
    [pair] = majority_pairs(turned)
    assert (pair.completions, pair.meta["votes"]) == (("a", "b"), [2, 1])


def test_one_person_alone(people_store, tmp_path):
    _, rows = export(people_store, tmp_path, annotator="bob")
    assert {row["annotator"] for row in rows} == {"bob"}
    with pytest.raises(StoreError, match="'Bob X' has ranked nothing; known: ann, bob, eve"):
        export(people_store, tmp_path, annotator="Bob X")


def test_the_two_sides_of_a_split_share_no_prompt(people_store, tmp_path):
    texts = {"one", "two", "three"}
    place = {text: int(Prompt.parse(text).sha256[:8], 16) / 2**32 for text in texts}
    first, second, _ = sorted(place.values())
    both = {}
    for split in ("train", "held_out"):
        _, both[split] = export(
            people_store, tmp_path, split=split, eval_fraction=(first + second) / 2
        )
    prompts = {split: {row["prompt"] for row in rows} for split, rows in both.items()}
    held_out = {text for text in texts if place[text] == first}
    assert prompts == {"held_out": held_out, "train": texts - held_out}


def test_nothing_to_export_is_told_and_leaves_no_file(people_store, tmp_path):
    with pytest.raises(StoreError, match="nothing to export"):
        export(people_store, tmp_path, split="held_out", eval_fraction=0.0)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_store_itself_and_folders_are_no_output(people_store, tmp_path, capsys):
    for output, error in ((people_store, StoreError), (tmp_path, DataError)):
        config = RankingsExportConfig(store=str(people_store), output=str(output))
        with pytest.raises(error, match="--output"):
            export_rankings(config)
    missing = str(tmp_path / "none" / "out.jsonl")
    assert main(["rankings", "export", "--store", str(people_store), "--output", missing]) == 2
    assert "can't be written (No such file or directory)" in capsys.readouterr().err
    none = str(tmp_path / "none.sqlite")
    assert main(["rankings", "export", "--store", none, "--output", missing]) == 2
    assert "no such store" in capsys.readouterr().err


def review(store, prompt, **decision):
    task = next(task for task in store.tasks() if task.prompt.text == prompt)
    store.add_annotator("Rita")
    store.reviews.add("Rita", task.id, request_id=f"review {prompt}".replace(" ", "-"), **decision)
    return task


def test_a_reviewer_decides_over_the_majority(people_store, tmp_path):
    with RankingStore.open(people_store) as store:
        # People say a > b by 2 to 1, a > c and b > c; the reviewer says c > a = b.
        review(store, "one", verdict="override", ranks=(2, 2, 1))
        # "two" is 1 to 1: the reviewer accepts bob's b > a.
        [two] = [task for task in store.tasks() if task.prompt.text == "two"]
        bobs = store.reviews.open_task(two.id).rankings[1]
        review(store, "two", verdict="accept", ranking_id=bobs.ranking_id)
        review(store, "three", verdict="send_back")
    _, rows = export(people_store, tmp_path, format="trl", aggregate="majority")
    assert pairs(rows) == [("one", "c", "a"), ("one", "c", "b"), ("two", "b", "a")]
    _, rows = export(people_store, tmp_path, aggregate="majority")
    told = sorted(
        (row["completions"], row["meta"]["votes"], row["meta"]["verdict"]) for row in rows
    )
    assert told == [
        (["b", "a"], [1, 1], "accept"),
        (["c", "a"], [0, 2], "override"),
        (["c", "b"], [0, 1], "override"),
    ]
    # What people said stays what they said, and so does what one person said.
    _, rows = export(people_store, tmp_path)
    assert len(rows) == 7
    _, rows = export(people_store, tmp_path, aggregate="majority", annotator="ann", format="trl")
    assert pairs(rows) == [("one", "a", "b"), ("one", "a", "c"), ("two", "a", "b")]


def test_gold_and_training_come_by_name_alone(people_store, tmp_path):
    with RankingStore.open(people_store) as store:
        store.import_rankings(
            Ranking(Prompt.parse(pool), ("a", "b"), (1, 2), "ann", meta={"pool": pool})
            for pool in ("gold", "training", "batch")
        )
    figures, _ = export(people_store, tmp_path)
    assert figures["rows"] == 8
    for pool in ("gold", "training", "batch"):
        _, rows = export(people_store, tmp_path, pool=pool)
        assert [row["prompt"] for row in rows] == [pool]
    with pytest.raises(NothingToExport):
        export(people_store, tmp_path, pool="none")


@pytest.mark.parametrize("aggregate", ["none", "majority"])
@pytest.mark.parametrize("kind", ["rankings", "trl"])
def test_a_server_reads_the_bytes_that_the_command_writes(kind, aggregate, people_store, tmp_path):
    path = tmp_path / "out.jsonl"
    config = RankingsExportConfig(
        store=str(people_store), output=str(path), format=kind, aggregate=aggregate
    )
    figures = export_rankings(config)
    with RankingStore.open(people_store) as store:
        found = read_export(store, config)
    assert found.content == path.read_bytes()
    assert (found.rows, found.sha256) == (figures["rows"], figures["sha256"])
    # ann: 2 pairs and a tie in "one", 1 in "two"; bob: 3 and 1; eve: 1.
    assert (found.pairs, found.ties, found.simulated) == (8, 1, 1)
