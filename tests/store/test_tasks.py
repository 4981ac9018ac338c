"""Tasks: identity by content, merging, bounds."""

import pytest

from rlhf.errors import DataError, StoreError
from rlhf.records import Candidate, Prompt
from rlhf.store import NewTask, Submission


def candidates(*texts):
    return tuple(Candidate(text) for text in texts)


def test_a_task_comes_back_as_it_was_added(store):
    turns = [{"role": "system", "content": ""}, {"role": "user", "content": "hé\x00"}]
    prompt = Prompt.parse(turns)
    added = store.add_task(
        prompt, [Candidate("a\r\n", "sft"), Candidate("")], overlap=3, pool="gold", meta={"n": 1}
    )
    (task,) = store.tasks()
    assert (task.id, task.prompt, task.overlap, task.pool) == (added, prompt, 3, "gold")
    assert task.candidates == (Candidate("a\r\n", "sft"), Candidate(""))
    assert task.meta == {"n": 1}


def test_the_same_content_is_one_task_in_any_order(store):
    prompt = Prompt.parse("p")
    first = store.add_task(prompt, candidates("a", "b"), overlap=2)
    assert store.add_task(prompt, candidates("b", "a")) == first
    assert store.add_task(Prompt.parse("q"), candidates("a", "b")) != first
    assert [task.overlap for task in store.tasks()] == [2, 1]


def test_a_larger_overlap_is_taken_over(store, new_task):
    store.add_tasks([new_task(overlap=1), new_task(overlap=3), new_task(overlap=2)])
    assert [task.overlap for task in store.tasks()] == [3]


def test_equal_candidates_merge_and_name_all_their_models(store):
    same = [Candidate("x", "sft"), Candidate("y"), Candidate("x", "ppo"), Candidate("x", "sft")]
    store.add_task(Prompt.parse("p"), same)
    (task,) = store.tasks()
    assert task.candidates == (Candidate("x", "sft + ppo"), Candidate("y"))


def test_bulk_adding_skips_what_cannot_be_ranked_and_counts(store, new_task):
    hopeless = NewTask(Prompt.parse("p"), candidates("same", "same", "same"))
    added = store.add_tasks([new_task(1), hopeless, new_task(2), new_task(1)])
    assert (added.added, added.known, added.skipped) == (2, 1, 1)
    assert added.ids == (1, None, 2, 1)


@pytest.mark.parametrize(
    ("texts", "rest", "message"),
    [
        (["a"], {}, "2 to 9 different"),
        (["a", "a"], {}, "the 2 given are 1 after merging"),
        ([str(n) for n in range(10)], {}, "10 entries"),
        (["a", "\ud800"], {}, "surrogate"),
        (["a", 5], {}, "must be text"),
        (["a", "b" * 200_001], {}, "too long"),
        (["a", "b"], {"overlap": 0}, "overlap"),
        (["a", "b"], {"pool": "No Label"}, "pool"),
        (["a", "b"], {"meta": {"x": float("nan")}}, "JSON"),
        (["a", "b"], {"meta": {"x": object()}}, "JSON"),
    ],
)
def test_impossible_tasks_are_refused(store, texts, rest, message):
    with pytest.raises(DataError, match=message):
        store.add_task(Prompt.parse("p"), candidates(*texts), **rest)
    assert store.progress().tasks == 0


def test_one_bad_task_stores_none_and_is_named(store, new_task):
    with pytest.raises(DataError, match="task 2: overlap"):
        store.add_tasks([new_task(1), new_task(2, overlap=-1)])
    assert store.progress().tasks == 0


def test_the_newest_tasks_in_a_state_come_page_by_page(store, new_task):
    ids = store.add_tasks([new_task(number, k=2) for number in range(5)]).ids
    store.pause_task(ids[1], True)
    held = store.claim("ann")
    store.submit(held.id, "ann", Submission("request-1", (1, 2)))
    still_open = [i for i in reversed(ids) if i not in (ids[1], held.task_id)]
    first = store.newest_tasks("open", limit=2)
    assert [task.id for task in first] == still_open[:2]
    rest = store.newest_tasks("open", before=first[-1].id)
    assert [task.id for task in rest] == still_open[2:]
    assert [task.id for task in store.newest_tasks("done")] == [held.task_id]
    assert [task.id for task in store.newest_tasks("paused")] == [ids[1]]
    with pytest.raises(StoreError, match="'all' is not one of open, done, paused"):
        store.newest_tasks("all")
