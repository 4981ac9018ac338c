import re
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest

from rlhf.config import PPOConfig
from rlhf.errors import DataError, TrainingError
from rlhf.ppo.alarms import (
    KEY_FIGURES,
    SOURCE_PREFIX,
    Alarm,
    adapter_alarm,
    find_alarms,
    raise_fatal,
    refuse_double_bos,
    start_alarm,
    trainable_alarm,
)

HEALTHY = {
    "score/mean": 0.5,
    "score/std": 1.0,
    "score/clipped_std": 1.0,
    "score/clip_fraction": 0.0,
    "score/length_correlation": 0.1,
    "score/disagreement": 0.1,
    "score/source/helpful": 0.3,
    "score/source/brief": 0.2,
    "kl/reference": 2.0,
    "kl/old_k3": 0.01,
    "policy/ratio_error": 0.0,
    "policy/clip_fraction": 0.1,
    "policy/entropy": 2.0,
    "policy/sampler_error": 1.0,
    "completion/length": 20.0,
    "completion/truncated": 0.1,
    "completion/distinct_2": 0.8,
    "value/explained_variance": 0.4,
}
FIELDS = {field.name for field in fields(PPOConfig)}
CHOICES = {
    choice for hint in get_type_hints(PPOConfig).values() for choice in map(str, get_args(hint))
}


def config(**overrides):
    settings = {
        "model_name_or_path": "m",
        "output_dir": "o",
        "train_file": "t",
        "reward_function": "f.py:f",
        "warmup_steps": 0,
    }
    return PPOConfig(**settings | overrides)


def run(updates=20, last=5, **figures):
    """Figures of a run that is healthy but for its last few updates."""
    changed = {name.replace("__", "/"): value for name, value in figures.items()}
    healthy = [dict(HEALTHY) for _ in range(updates - last)]
    return healthy + [HEALTHY | changed for _ in range(last)]


def names(rows, **overrides):
    return [alarm.name for alarm in find_alarms(rows, config(**overrides))]


BEYOND = [
    ("dropout_on", run(last=1, policy__ratio_error=0.0011)),
    ("sampler_mismatch", run(last=1, policy__sampler_error=1.051)),
    ("negative_kl", run(last=5, kl__reference=-0.51)),
    ("step_too_large", run(last=1, policy__clip_fraction=0.31)),
    ("step_too_large", run(last=1, kl__old_k3=0.11)),
    ("constant_reward", run(last=1, score__clipped_std=1e-7)),
    ("truncated", run(last=3, completion__truncated=0.31)),
    ("value_not_learning", run(last=5, value__explained_variance=-0.01)),
    ("length_doubled", run(last=5, completion__length=41.0)),
    ("length_pays", run(last=5, score__length_correlation=0.61)),
    ("entropy_collapse", run(last=5, policy__entropy=0.39)),
    ("repetition", run(last=5, completion__distinct_2=0.31)),
    ("reward_disagreement", run(last=5, score__disagreement=0.21)),
    ("rewards_part", run(last=5, score__mean=1.01, score__source__brief=-0.31)),
]
WITHIN = [
    run(last=1, policy__ratio_error=0.001),
    run(last=1, policy__sampler_error=1.05),
    run(last=5, kl__reference=-0.5),
    run(last=1, policy__clip_fraction=0.3),
    run(last=1, kl__old_k3=0.1),
    run(last=1, score__clipped_std=1e-5),
    run(last=3, completion__truncated=0.29),
    run(last=5, value__explained_variance=0.0),
    run(last=5, completion__length=40.0),
    run(last=5, score__length_correlation=0.59),
    run(last=5, policy__entropy=0.41),
    run(last=5, completion__distinct_2=0.33),
    run(last=5, score__disagreement=0.19),
    run(last=5, score__mean=0.99, score__source__brief=-0.31),
    run(last=5, score__mean=1.01, score__source__brief=-0.29),
]


def ids(cases):
    return [f"{number}-{name}" for number, (name, _) in enumerate(cases)]


def test_these_tests_know_every_key_figure():
    assert {name for name in HEALTHY if not name.startswith(SOURCE_PREFIX)} == set(KEY_FIGURES)


@pytest.mark.parametrize("updates", [1, 2, 3, 7, 8, 11, 100])
def test_a_healthy_run_raises_none(updates):
    assert names(run(updates, last=0)) == []


@pytest.mark.parametrize("updates", [1, 8, 20])
def test_a_run_without_any_figures_raises_none(updates):
    assert names([{}] * updates) == []


@pytest.mark.parametrize(("name", "rows"), BEYOND, ids=ids(BEYOND))
def test_an_alarm_is_raised_just_beyond_its_threshold(name, rows):
    assert names(rows) == [name]


@pytest.mark.parametrize(
    "rows", WITHIN, ids=ids([(name, None) for name, _ in [*BEYOND, ("rewards_part", None)]])
)
def test_no_alarm_is_raised_just_within(rows):
    assert names(rows) == []


@pytest.mark.parametrize(("name", "rows"), BEYOND, ids=ids(BEYOND))
def test_an_alarm_speaks_of_the_newest_update_only(name, rows):
    assert names(rows + run(5, last=0)) == []


SUSTAINED = {
    # Alarm: the first update it may speak at, figures far beyond its threshold.
    "negative_kl": (5, {"kl/reference": -99.0}),
    "truncated": (3, {"completion/truncated": 0.9}),
    "value_not_learning": (11, {"value/explained_variance": -9.0}),
    "length_doubled": (8, {"completion/length": 999.0}),
    "length_pays": (8, {"score/length_correlation": 1.0}),
    "entropy_collapse": (8, {"policy/entropy": 0.01}),
    "repetition": (8, {"completion/distinct_2": 0.01}),
    "reward_disagreement": (8, {"score/disagreement": 9.0}),
    "rewards_part": (8, {"score/mean": 99.0, "score/source/brief": -99.0}),
}


@pytest.mark.parametrize("name", SUSTAINED)
def test_a_run_is_not_judged_before_it_has_a_past(name):
    first, figures = SUSTAINED[name]
    healthy = min(3, first - 3)
    rows = [HEALTHY] * healthy + [HEALTHY | figures] * (first - healthy)
    assert names(rows) == [name]
    assert names(rows[1:]) == []


@pytest.mark.parametrize("name", SUSTAINED)
def test_one_odd_update_is_not_a_state(name):
    assert names([*run(19, last=0), dict(BEYOND)[name][-1]]) == []


def test_nearly_all_truncated_needs_no_second_look():
    assert names(run(1, last=1, completion__truncated=0.91)) == ["truncated"]
    assert names(run(1, last=1, completion__truncated=0.9)) == []


def test_values_are_given_their_warm_up():
    rows = run(30, last=30, value__explained_variance=-0.2)
    assert names(rows, value_warmup_steps=10, warmup_steps=14) == ["value_not_learning"]
    assert names(rows, value_warmup_steps=10, warmup_steps=15) == []


def test_length_must_pay_more_than_at_the_start():
    high = [HEALTHY | {"score/length_correlation": 0.5}] * 15
    for now, expected in ((0.79, []), (0.81, ["length_pays"])):
        assert names(high + [HEALTHY | {"score/length_correlation": now}] * 5) == expected


def test_an_ensemble_that_agreed_wholly_sets_no_standard():
    agreed = [HEALTHY | {"score/disagreement": 0.0}] * 15
    assert names(agreed + run(5, last=5, score__disagreement=0.3)) == []


def test_a_single_completion_is_no_constant_reward():
    rows = run(last=1, score__clipped_std=0.0)
    assert names(rows, rollout_batch_size=1, num_mini_batches=1) == []
    assert names(rows, rollout_batch_size=2, num_mini_batches=1) == ["constant_reward"]


@pytest.mark.parametrize(
    ("cap", "error", "expected"),
    [
        (2.0, 2.0, []),
        (2.0, 2.01, ["sampler_mismatch"]),
        (1.0, 1.05, []),
        (1.0, 1.051, ["sampler_mismatch"]),
    ],
)
def test_a_cap_answers_for_a_sampler_that_is_off_by_less(cap, error, expected):
    rows = run(policy__sampler_error=error)
    assert names(rows, importance_sampling_cap=cap) == expected
    for alarm in find_alarms(rows, config(importance_sampling_cap=cap)):
        assert f"importance_sampling_cap ({cap:g}) cannot make up for" in alarm.message


def test_rewards_that_fall_together_do_not_part():
    assert names(run(score__mean=-2.0, score__source__brief=-2.0)) == []


@pytest.mark.parametrize(
    ("weight", "now", "expected"),
    [
        # Score up by 2; the reward starts at 0.2, and half a spread is 0.5.
        (-0.5, -5.0, []),  # it falls as its weight asks
        (-0.5, 1.1, []),  # and takes 0.45 off where it rises by 0.9
        (-0.5, 1.3, ["rewards_part"]),  # 0.55 by 1.1
        (0.1, -4.7, []),  # 0.49 by 4.9
        (0.1, -4.9, ["rewards_part"]),
        (0.0, -9.0, []),  # it is only watched
    ],
)
def test_rewards_part_by_what_they_add_to_the_score(weight, now, expected):
    rows = run(score__mean=2.5, score__source__brief=now)
    two = {"reward_function": ("helpful=f.py:f", "brief=f.py:g"), "reward_weights": (1.0, weight)}
    assert names(rows, **two) == expected
    assert all(f"weight {weight:g}," in alarm.message for alarm in find_alarms(rows, config(**two)))


def test_a_single_reward_with_a_weight_has_no_parts():
    rows = [{k: v for k, v in row.items() if not k.startswith(SOURCE_PREFIX)} for row in run()]
    assert names(rows, reward_weights=0.5) == []


def test_alarms_come_in_a_fixed_order():
    rows = run(last=5, policy__entropy=0.1, policy__clip_fraction=0.5, kl__reference=-1.0)
    assert names(rows) == ["negative_kl", "step_too_large", "entropy_collapse"]


WITHOUT_A_FIELD = {"dropout_on", "negative_kl"}
"""Their cause lies in the model or the sampler, not in an option."""


def options_in(message):
    """Words with an underscore that are no metric and no choice of an option."""
    words = set(re.findall(r"(?<![\w/])[a-z]+(?:_[a-z]+)+(?![\w/])", message))
    return words - CHOICES


@pytest.mark.parametrize(("name", "rows"), BEYOND, ids=ids(BEYOND))
@pytest.mark.parametrize(
    "overrides", [{}, {"reward_function": None, "reward_model": "m"}], ids=["function", "model"]
)
def test_messages_name_options_that_exist(name, rows, overrides):
    (alarm,) = find_alarms(rows, config(**overrides))
    assert options_in(alarm.message) <= FIELDS, alarm.message
    assert options_in(alarm.message) or name in WITHOUT_A_FIELD


def test_messages_give_the_figures_and_the_settings():
    def message(rows, **overrides):
        return find_alarms(rows, config(**overrides))[0].message

    assert "40%" in message(run(completion__truncated=0.4), max_new_tokens=48)
    assert "(48)" in message(run(completion__truncated=0.4), max_new_tokens=48)
    assert "(now 0.003)" in message(run(kl__old_k3=0.5), learning_rate=3e-3)
    assert "clip fraction 0.45" in message(run(policy__clip_fraction=0.45))
    assert "from 20 to 50 tokens" in message(run(completion__length=50.0))
    assert "from 2.00 to 0.20 nats" in message(run(policy__entropy=0.2))
    assert "3.0 times" in message(run(score__disagreement=0.3))
    assert "reward brief, times its weight 1, falls by 0.70" in message(
        run(score__mean=1.5, score__source__brief=-0.5)
    )
    same = run(score__std=0.0, score__clipped_std=0.0)
    assert "look at the samples and at reward_function" in message(same)
    assert "look at the samples and at reward_model" in message(
        same, reward_function=None, reward_model="m"
    )


@pytest.mark.parametrize(
    ("mean", "clip", "spread", "expected"),
    [
        # 1000.1 in float32, 64 times: its mean is rounded, and the spread is 6.1e-5, not 0.
        (1000.1, 1e4, 6.1e-5, ["constant_reward"]),
        (-1000.1, 1e4, 6.1e-5, ["constant_reward"]),
        (1000.1, 1e4, 1.1e-3, []),
        # Clipped scores are no larger than the clip, however large one of them was before it.
        (1000.1, 10.0, 6.1e-5, []),
        (0.5, 10.0, 1.1e-6, []),
    ],
)
def test_large_scores_may_differ_by_their_rounding(mean, clip, spread, expected):
    rows = run(score__mean=mean, score__std=spread, score__clipped_std=spread)
    assert names(rows, score_clip=clip) == expected


def test_a_clip_that_makes_scores_equal_is_named():
    saturated = {"score__mean": 150.0, "score__clipped_std": 0.0, "score__clip_fraction": 1.0}
    (alarm,) = find_alarms(run(score__std=30.0, **saturated), config())
    assert "score_clip (10) makes the scores of all 64 completions equal" in alarm.message
    assert "raise score_clip" in alarm.message
    (alarm,) = find_alarms(
        run(score__std=0.0, **saturated), config()
    )  # a larger one changes nothing
    assert "score_clip" not in alarm.message


@pytest.mark.parametrize(
    ("truncated", "penalties", "left"),
    [
        (0.0, {}, "there is nothing to learn from; look"),
        (0.0, {"length_penalty": 0.1}, "there is nothing to learn from but length_penalty; look"),
        (0.2, {}, "there is nothing to learn from but missing_eos_penalty; look"),
        (0.2, {"missing_eos_penalty": 0.0}, "there is nothing to learn from; look"),
        (0.2, {"length_penalty": 0.1}, "from but length_penalty and missing_eos_penalty; look"),
    ],
)
def test_penalties_that_can_be_learnt_are_told(truncated, penalties, left):
    rows = run(score__std=0.0, score__clipped_std=0.0, completion__truncated=truncated)
    (alarm,) = find_alarms(rows, config(**penalties))
    assert left in alarm.message


@pytest.mark.parametrize("kl", [2e-4, -2e-4, float("nan"), float("inf")])
def test_a_policy_must_start_as_the_base(kl):
    alarm = start_alarm(kl)
    assert alarm is not None
    assert alarm.name == "wrong_reference"
    assert options_in(alarm.message) == {"model_name_or_path"} <= FIELDS


@pytest.mark.parametrize("kl", [0.0, 9e-5, -9e-5])
def test_rounding_is_no_other_start(kl):
    assert start_alarm(kl) is None


def test_an_update_must_move_the_adapter():
    alarm = adapter_alarm((1.0, 2.0), (1.0, 2.0))
    assert alarm is not None
    assert alarm.name == "adapter_not_training"
    assert options_in(alarm.message) == {"learning_rate"} <= FIELDS
    assert adapter_alarm((1.0, 2.0), (1.0, 2.0 + 1e-12)) is None
    assert adapter_alarm((1.0, 2.0), (1.1, 2.0)) is None


def test_what_trains_must_stay_the_same():
    before = frozenset({"a", "b", "c"})
    assert trainable_alarm(before, before) is None
    for now, said in (
        ({"c"}, "a no longer requires a gradient"),
        ({"a", "b", "c", "d"}, "d has come to require a gradient"),
        ({"a", "c", "d"}, "b no longer requires a gradient"),
    ):
        alarm = trainable_alarm(before, frozenset(now))
        assert alarm is not None
        assert alarm.name == "adapter_not_training"
        assert alarm.message.startswith(f"{said}: ")


def test_a_fatal_alarm_ends_the_run_by_its_name():
    raise_fatal(None)
    with pytest.raises(TrainingError, match=r"^too bad \[the_name\]$"):
        raise_fatal(Alarm("the_name", "too bad"))


def test_two_bos_tokens_are_refused():
    with pytest.raises(DataError, match=r"^prompts\.jsonl: .* \[double_bos\]$"):
        refuse_double_bos([1, 1, 5], 1, source="prompts.jsonl")


@pytest.mark.parametrize(
    ("ids", "bos"), [([1, 5, 1], 1), ([5, 1, 1], 1), ([1], 1), ([], 1), ([1, 1], None), ([2, 2], 1)]
)
def test_other_beginnings_are_not(ids, bos):
    refuse_double_bos(ids, bos, source="prompts.jsonl")
