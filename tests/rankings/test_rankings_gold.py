"""Tasks with known answers and priorities: what goes in, and one line for what does not."""

import math

import pytest

from rlhf.cli import main
from rlhf.config import RankingsGoldConfig, RankingsPrioritiseConfig
from rlhf.errors import DataError, StoreError
from rlhf.rankings.gold import add_gold
from rlhf.rankings.priorities import pair_entropy, prioritise
from rlhf.records import Candidate, Prompt
from rlhf.store import RankingStore, Submission

GOLD = {"prompt": "2 + 2?", "completions": ["5", "4", "22"], "ranks": [2, 1, None]}


def gold(store, path, **rest):
    return add_gold(RankingsGoldConfig(store=str(store), data=path, **rest))


def tasks(path):
    with RankingStore.open(path, create=False) as store:
        return list(store.tasks())


def test_a_known_answer_becomes_a_task_that_gives_feedback(write, store_path):
    row = GOLD | {"others_worse": True, "meta": {"explanation": "It is *four*."}}
    figures = gold(store_path, write("gold.jsonl", row), pool="training")
    assert (figures["added"], figures["known already"]) == (1, 0)
    [task] = tasks(store_path)
    assert (task.pool, task.gold.ranks, task.gold.explanation) == (
        "training",
        (2, 1, 3),
        "It is *four*.",
    )
    with RankingStore.open(store_path) as store:
        given = store.claim("Ann")
        ranks = tuple(("4", "5", "22").index(text) + 1 for text in given.completions)
        feedback = store.submit(given.id, "Ann", Submission("request-1", ranks)).feedback
    assert (given.kind, feedback.share, feedback.passed) == ("training", 1.0, True)


def test_a_better_answer_replaces_an_earlier_one(write, store_path):
    gold(store_path, write("gold.jsonl", GOLD))
    # The completions in another order, and 22 above 5.
    turned = {"prompt": "2 + 2?", "completions": ["22", "4", "5"], "ranks": [2, 1, 3]}
    figures = gold(store_path, write("better.jsonl", turned))
    assert (figures["added"], figures["known already"]) == (0, 1)
    [task] = tasks(store_path)
    answer = {c.text: rank for c, rank in zip(task.candidates, task.gold.ranks, strict=True)}
    assert (task.pool, answer) == ("gold", {"4": 1, "22": 2, "5": 3})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"ranks": [1, 1, None]}, "must put at least one candidate above another"),
        ({"ranks": [1, 2]}, "'ranks' has 2 entries"),
        ({"ranks": [None] * 3, "action": "all_bad"}, "action 'all_bad' gives no order"),
        ({"meta": {"explanation": 7}}, "meta 'explanation' must be text"),
        ({"completions": ["4", "4", "5"], "ranks": [1, 2, 3]}, "of the same text differently"),
        ({"completions": ["4", "4"], "ranks": [1, 1]}, "a task needs 2 to 9 different"),
    ],
)
def test_what_is_no_answer_is_refused_with_its_line(change, told, write, store_path):
    path = write("gold.jsonl", GOLD, GOLD | {"prompt": "3 + 3?"} | change)
    with pytest.raises(DataError, match=rf"gold\.jsonl:2: .*{told}"):
        gold(store_path, path)
    assert not store_path.exists() or tasks(store_path) == []


def test_a_task_of_another_pool_is_refused_with_its_line(write, store_path):
    with RankingStore.open(store_path) as store:
        store.add_task(Prompt.parse("2 + 2?"), [Candidate(text) for text in ("5", "4", "22")])
    path = write("gold.jsonl", GOLD | {"prompt": "3 + 3?"}, GOLD)
    with pytest.raises(DataError, match=r"gold\.jsonl:2: a task of pool .* is there already"):
        gold(store_path, path)
    assert len(tasks(store_path)) == 1
    with pytest.raises(DataError, match="has no rows"):
        gold(store_path, write("empty.jsonl"))


# -- priorities -----------------------------------------------------------------------------------


@pytest.fixture
def two_tasks(store_path):
    with RankingStore.open(store_path) as store:
        for prompt in ("one", "two"):
            store.add_task(Prompt.parse(prompt), [Candidate("a"), Candidate("b")], pool="batch")
    return store_path


def row(prompt, **rest):
    return {"prompt_sha256": Prompt.parse(prompt).sha256, "prompt": prompt, **rest}


def priorities(path):
    return {task.prompt.text: task.priority for task in tasks(path)}


def order(store, path, **rest):
    return prioritise(RankingsPrioritiseConfig(store=str(store), disagreement=path, **rest))


def test_what_models_disagree_on_is_given_first(two_tasks, write):
    path = write(
        "disagreement.jsonl",
        row("one", disagreement=0.25),
        row("two", disagreement=0.5),
        row("two", disagreement=0.125),
        row("three", disagreement=9.0),
    )
    figures = order(two_tasks, path)
    assert (figures["prompts"], figures["tasks"], figures["highest"]) == (3, 2, 9.0)
    assert priorities(two_tasks) == {"one": 0.25, "two": 0.5}
    with RankingStore.open(two_tasks) as store:
        assert store.claim("Ann").prompt.text == "two"


def test_entropy_is_that_of_the_scores_or_the_one_given(two_tasks, write):
    path = write(
        "disagreement.jsonl",
        row("one", disagreement=0.0, scores=[1.0, 1.0 + math.log(3)]),
        row("two", entropy=0.75),
    )
    order(two_tasks, path, by="entropy")
    # Odds of 3: 3/4 log2(4/3) + 1/4 log2(4) = 2 - 3/4 log2(3).
    assert priorities(two_tasks) == pytest.approx({"one": 2 - 0.75 * math.log2(3), "two": 0.75})


def test_entropy_by_hand():
    assert pair_entropy([0.3, 0.3]) == 1.0
    assert pair_entropy([0.0, 0.0, 1000.0]) == pytest.approx(1 / 3)
    assert pair_entropy([0.0, math.log(9)]) == pytest.approx(
        -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt_sha256": None}, "'prompt_sha256' is missing"),
        ({"disagreement": "high"}, "'disagreement' must hold numbers, not 'high'"),
        ({"disagreement": True}, "'disagreement' must hold numbers"),
    ],
)
def test_rows_without_a_figure_are_refused_with_their_line(fields, told, two_tasks, write):
    path = write("d.jsonl", row("one", disagreement=1.0), row("two", disagreement=1.0) | fields)
    with pytest.raises(DataError, match=rf"d\.jsonl:2: {told}"):
        order(two_tasks, path)
    assert priorities(two_tasks) == {"one": 0.0, "two": 0.0}


def test_prompts_of_another_store_are_told(two_tasks, write):
    with pytest.raises(StoreError, match="no task is of a prompt of"):
        order(two_tasks, write("d.jsonl", row("three", disagreement=1.0)))
    with pytest.raises(DataError, match="'entropy', or 'scores' of two completions or more"):
        order(two_tasks, write("e.jsonl", row("one", scores=[1.0])), by="entropy")


def test_the_commands_run(two_tasks, write, capsys):
    store = ["--store", str(two_tasks)]
    path = write("d.jsonl", row("one", disagreement=0.5))
    assert main(["rankings", "prioritise", *store, "--disagreement", path]) == 0
    assert "tasks    1" in capsys.readouterr().out
    path = write("gold.jsonl", GOLD)
    assert main(["rankings", "gold", *store, "--data", path, "--pool", "training"]) == 0
    assert "added          1" in capsys.readouterr().out
    missing = str(two_tasks.with_name("none.sqlite"))
    assert main(["rankings", "prioritise", "--store", missing, "--disagreement", path]) == 2
    assert capsys.readouterr().err.count("\n") == 1
