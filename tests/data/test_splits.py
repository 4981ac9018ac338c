"""Held-out prompts: the same ones always."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.splits import split_by_prompt
from rlhf.records import Demonstration, Prompt

ITEMS = [Demonstration(Prompt.parse(f"prompt {n % 500}"), f"answer {n}") for n in range(1000)]


def test_both_sides_are_the_whole_and_share_no_prompt():
    train, held_out = split_by_prompt(ITEMS, 0.2)
    assert sorted(item.completion for item in train + held_out) == sorted(
        item.completion for item in ITEMS
    )
    assert not {item.prompt for item in train} & {item.prompt for item in held_out}
    # 500 prompts at 0.2: 100 expected, standard deviation 9; each prompt has two rows
    assert 2 * 64 < len(held_out) < 2 * 136


def test_order_and_other_rows_do_not_matter():
    _, held_out = split_by_prompt(ITEMS, 0.1)
    shuffled = random.Random(0).sample(ITEMS, 700)
    _, again = split_by_prompt(shuffled, 0.1)
    assert {item.prompt for item in again} <= {item.prompt for item in held_out}


def test_the_choice_is_the_same_on_every_machine():
    # Recorded: of these prompts' sha256, two begin with less than 0x1999... (0.1 of the range).
    prompts = [Prompt.parse(f"prompt {number}") for number in range(30)]
    train, held_out = split_by_prompt(prompts, 0.1, lambda prompt: prompt)
    assert [prompt.text for prompt in held_out] == ["prompt 11", "prompt 26"]
    assert len(train) == 28
    assert all(prompt.sha256 < "1999" for prompt in held_out)


def test_a_larger_share_holds_out_a_superset():
    small, large = (set(split_by_prompt(ITEMS, share)[1]) for share in (0.1, 0.3))
    assert small < large


@given(
    st.lists(st.text(min_size=1).filter(str.strip), min_size=1), st.floats(0, 1, exclude_max=True)
)
def test_the_train_side_is_never_empty(texts: list[str], fraction: float):
    texts = [text for text in texts if "\ud800" not in text]
    train, held_out = split_by_prompt([Prompt.parse(text) for text in texts], fraction, lambda p: p)
    assert bool(train) == bool(texts)
    assert not {prompt.sha256 for prompt in train} & {prompt.sha256 for prompt in held_out}


def test_zero_holds_out_nothing():
    assert split_by_prompt(ITEMS, 0) == (ITEMS, [])
    assert split_by_prompt([], 0.5, lambda item: item) == ([], [])


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2])
def test_other_fractions_are_refused(fraction: float):
    with pytest.raises(ValueError, match="fraction must be in"):
        split_by_prompt(ITEMS, fraction)
