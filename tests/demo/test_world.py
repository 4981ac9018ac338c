"""The world's prompts: deterministic, disjoint between splits, and answerable from their text."""

import random

import pytest

from rlhf.demo import answers, data, world


def test_a_seed_gives_the_same_prompts_and_a_longer_list_begins_alike():
    assert data.prompts(40, 3) == data.prompts(40, 3)
    assert data.prompts(40, 3)[:10] == data.prompts(10, 3)
    assert data.prompts(40, 3) != data.prompts(40, 4)


def test_prompts_are_distinct_and_cover_the_tasks_evenly():
    drawn = data.prompts(80, 0, split="test")
    assert len({prompt.text for prompt in drawn}) == 80
    assert [prompt.task for prompt in drawn] == list(world.TASKS) * 20


def test_splits_share_no_source_by_construction():
    by_split = {
        split: {prompt.source for prompt in data.prompts(300, seed, split=split)}
        for seed, split in enumerate(("train", "test", "corpus"))
    }
    assert all(
        world.split_of(source) == split for split, all_ in by_split.items() for source in all_
    )
    assert not by_split["train"] & by_split["test"]
    assert not by_split["corpus"] & (by_split["train"] | by_split["test"])


def test_the_split_depends_on_the_source_and_not_on_the_wording():
    prompt = data.prompts(1, 0)[0]
    reworded = world.TaskPrompt(
        prompt.task, "Other words. " + prompt.source, prompt.source, prompt.facts
    )
    assert reworded.split == prompt.split == "train"


def test_every_task_has_several_wordings():
    for task in world.TASKS:
        rng = random.Random(0)
        frames = {
            prompt.text.replace(prompt.source, "{}")
            for prompt in (world.draw_prompt(rng, "train", task) for _ in range(80))
        }
        assert len(frames) >= 5, task


def test_a_note_holds_every_word_that_its_question_needs():
    for prompt in data.prompts(200, 1):
        if isinstance(prompt.facts, world.QuestionFacts):
            event = prompt.facts.event
            for word in (event.name, event.verb, event.item, event.place, event.day):
                assert word in prompt.source


def test_the_label_of_a_review_follows_from_its_opinions():
    for prompt in data.prompts(200, 2):
        if isinstance(prompt.facts, world.SentimentFacts):
            goods = {opinion.is_good for opinion in prompt.facts.opinions}
            expected = "mixed" if len(goods) == 2 else "positive" if goods == {True} else "negative"
            assert prompt.facts.label == expected


def test_demonstrations_are_deterministic_and_carry_their_task():
    drawn = data.demonstrations(20, 5)
    assert drawn == data.demonstrations(20, 5)
    assert {demonstration.task for demonstration in drawn} == set(world.TASKS)


@pytest.mark.parametrize("flaw", answers.FLAWS)
def test_corrupting_and_flawing_leave_the_prompt_alone(flaw):
    prompt = data.prompts(4, 0)[0]
    before = repr(prompt)
    answers.flawed_answer(prompt, flaw, random.Random(0))
    assert repr(prompt) == before
