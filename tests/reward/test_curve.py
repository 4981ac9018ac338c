"""The learning curve of the reward card: which rankings it trains on, and its forecast."""

import math

import pytest

from rlhf.records import Prompt, Ranking
from rlhf.reward.curve import learning_curve

NAMES = ["25_percent", "50_percent", "75_percent"]
UNKNOWN = {"value": None, "low": None, "high": None}


def rankings(prompts, each=1):
    """Rankings of prompts, mixed: one of every prompt, then another of every prompt, ..."""
    asked = [Prompt.parse(f"prompt {number}") for number in range(prompts)]
    return [
        Ranking(prompt, ("good", "bad"), (1, 2), annotator=f"person {turn}")
        for turn in range(each)
        for prompt in asked
    ]


def around(value, half=0.01):
    return {"value": value, "low": value - half, "high": value + half}


def curve_of(train, value_of):
    """The curve of a model whose accuracy is a function of the number of its rankings."""
    parts = {}

    def accuracy_of(part, name):
        parts[name] = list(part)
        return around(value_of(len(part)))

    return learning_curve(train, accuracy_of, around(value_of(len(train)))), parts


def prompts_of(part):
    return {ranking.prompt for ranking in part}


def test_shares_are_nested_and_hold_whole_prompts():
    train = rankings(40, each=3)
    _, parts = curve_of(train, lambda _size: 0.7)
    assert list(parts) == NAMES
    quarter, half, most = (prompts_of(parts[name]) for name in NAMES)
    assert [len(quarter), len(half), len(most)] == [10, 20, 30]
    assert quarter < half < most
    for part in parts.values():
        assert part == [ranking for ranking in train if ranking.prompt in prompts_of(part)]


def test_shares_do_not_depend_on_the_order_of_the_rankings():
    train = rankings(40)
    _, parts = curve_of(train, lambda _size: 0.7)
    _, others = curve_of(train[::-1], lambda _size: 0.7)
    for name in NAMES:
        assert prompts_of(parts[name]) == prompts_of(others[name])


def test_shares_go_by_the_half_of_the_hash_that_holds_nothing_out():
    train = rankings(40)
    _, parts = curve_of(train, lambda _size: 0.7)
    kept = {prompt.sha256[16:] for prompt in prompts_of(parts["25_percent"])}
    others = {ranking.prompt.sha256[16:] for ranking in train} - kept
    assert max(kept) < min(others)


def test_points_hold_rankings_and_accuracies():
    curve, _ = curve_of(rankings(40, each=2), lambda size: size / 100)
    assert curve["points"] == [
        {"rankings": size, "accuracy": size / 100, "low": size / 100 - 0.01}
        | {"high": size / 100 + 0.01}
        for size in (20, 40, 60, 80)
    ]


@pytest.mark.parametrize(("prompts", "found"), [(19, False), (20, True)])
def test_too_few_prompts_have_no_curve_however_often_they_were_ranked(prompts, found):
    curve, parts = curve_of(rankings(prompts, each=5), lambda _size: 0.7)
    assert (curve is not None) == bool(parts) == found


def test_without_held_out_prompts_there_is_no_curve_and_nothing_is_trained():
    assert learning_curve(rankings(40), lambda *_: pytest.fail("trained"), UNKNOWN) is None


def test_a_planted_line_is_found_and_continued():
    curve, _ = curve_of(rankings(80), lambda size: 0.5 + 0.05 * math.log2(size))
    assert curve["slope_per_doubling"] == pytest.approx(0.05)
    # log2 of 20, 40, 60, 80; known errors of 0.01 / 1.96.
    x = [math.log2(size) for size in (20, 40, 60, 80)]
    spread = sum((value - sum(x) / 4) ** 2 for value in x)
    error = 0.01 / 1.96 / math.sqrt(spread)
    assert curve["slope_error"] == pytest.approx(error)
    # A point is a fifth of a doubling.
    needed = curve["rankings_for_one_point"]
    assert needed["value"] == pytest.approx(80 * (2**0.2 - 1))
    assert needed["low"] == pytest.approx(80 * (2 ** (0.01 / (0.05 + 1.96 * error)) - 1))
    assert needed["high"] == pytest.approx(80 * (2 ** (0.01 / (0.05 - 1.96 * error)) - 1))


@pytest.mark.parametrize("slope", [0.0, -0.05, 0.001])
def test_a_curve_that_is_flat_for_all_that_is_known_has_no_forecast(slope):
    curve, _ = curve_of(rankings(40), lambda size: 0.8 + slope * math.log2(size / 40))
    assert curve["slope_per_doubling"] == pytest.approx(slope, abs=1e-9)
    assert curve["rankings_for_one_point"] is None


@pytest.mark.parametrize("half", [0.0, None])
def test_points_without_a_width_have_no_forecast(half):
    flat = UNKNOWN | {"value": 1.0} if half is None else around(1.0, half)
    curve = learning_curve(rankings(40), lambda *_: flat, flat)
    assert [point["accuracy"] for point in curve["points"]] == [1.0] * 4
    forecast = {name: value for name, value in curve.items() if name != "points"}
    assert set(forecast.values()) == {None}
