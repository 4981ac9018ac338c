"""The gate: which cards PPO refuses, what it warns of, and what it says to do."""

import copy
import json

import pytest

from rlhf.config import PPOConfig
from rlhf.errors import ConfigError
from rlhf.ppo.rewards import check_rewards, reward_specs
from rlhf.reward.gate import find_faults, rankings_to_settle

GOOD = {
    "held_out_rankings": 100,
    "pair_accuracy": {"value": 0.8, "low": 0.75, "high": 0.85, "count": 300},
    "best_length_rule": {"rule": "longer wins", "value": 0.6},
    "normalization": {"mean": 0.3, "std": 0.7},
    "probes": {
        "empty": {"margin": {"value": 1.0, "low": 0.5, "high": 1.5, "count": 20}},
        "refusal": {"margin": {"value": -0.5, "low": -0.9, "high": -0.1, "count": 20}},
    },
}


def card(**changes):
    return copy.deepcopy(GOOD) | changes


def accuracy(value, low, high):
    return {"value": value, "low": low, "high": high, "count": 300}


def found(**changes):
    return [(finding.level, finding.check) for finding in find_faults(card(**changes))]


def test_a_good_card_passes_and_a_refusal_may_score_high():
    assert found() == []


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.5, 0.4, 0.62), [("fail", "accuracy"), ("warn", "length rule")]),
        ((0.45, 0.4, 0.5), [("fail", "accuracy"), ("fail", "length rule")]),
        ((0.55, 0.51, 0.6), [("fail", "length rule")]),
        ((0.55, 0.48, 0.62), [("warn", "accuracy"), ("warn", "length rule")]),
        ((0.65, 0.58, 0.72), [("warn", "length rule")]),
        ((0.65, None, None), [("warn", "accuracy"), ("warn", "length rule")]),
        ((None, None, None), [("fail", "held out")]),
    ],
)
def test_accuracy_against_chance_and_the_length_rule(interval, expected):
    assert found(pair_accuracy=accuracy(*interval)) == expected


def test_a_wide_interval_says_how_many_rankings_would_settle_it():
    # Half as far from 0.5 as the interval reaches: four times the rankings.
    assert rankings_to_settle({"value": 0.6, "low": 0.4}, 0.5, 25) == 100
    (finding, *_) = find_faults(card(pair_accuracy=accuracy(0.55, 0.45, 0.65)))
    assert "400 held-out rankings would settle it: 300 more" in finding.remedy


@pytest.mark.parametrize("constants", [{}, {"mean": 0.0, "std": 1.0}, {"mean": 0.1, "std": 0.0}])
def test_scores_that_were_never_normalised(constants):
    assert found(normalization=constants) == [("fail", "normalization")]


@pytest.mark.parametrize(
    ("margin", "expected"),
    [((-0.2, -0.4, -0.1), "fail"), ((-0.2, -0.5, 0.1), "warn"), ((0.1, -0.2, 0.4), None)],
)
def test_a_probe_above_good_answers(margin, expected):
    probes = {"repeated": {"margin": accuracy(*margin)}}
    assert found(probes=probes) == ([(expected, "probes")] if expected else [])


def reward_run(folder, figures):
    folder.mkdir()
    run = {"stage": "reward", "status": "done"}
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    if figures is not None:
        (folder / "reward_card.json").write_text(json.dumps(figures), encoding="utf-8")
    return str(folder)


def ppo(path, **settings):
    return PPOConfig(
        model_name_or_path="b", output_dir="o", train_file="p", reward_model=path, **settings
    )


def test_ppo_refuses_what_fails_and_says_what_to_do(tmp_path):
    bad = card(pair_accuracy=accuracy(0.48, 0.4, 0.5))
    path = reward_run(tmp_path / "bad", bad)
    with pytest.raises(ConfigError, match=r"not above chance \(0.500\); .*--accept_reward_model"):
        check_rewards(ppo(path))
    check_rewards(ppo(path, accept_reward_model=True))


def test_ppo_takes_a_good_model_and_refuses_one_without_a_card(tmp_path):
    check_rewards(ppo(reward_run(tmp_path / "good", GOOD)))
    with pytest.raises(ConfigError, match=r"reward_card\.json: the reward card can't be read"):
        check_rewards(ppo(reward_run(tmp_path / "bare", None)))


def test_the_run_of_an_ensemble_stands_for_its_members(tmp_path):
    path = reward_run(tmp_path / "several", GOOD)
    for number in (1, 2):
        reward_run(tmp_path / "several" / f"member_{number}", GOOD)
    specs = reward_specs(ppo(path, reward_ensemble="min"))
    assert [spec.name for spec in specs] == ["several_1", "several_2"]
    assert [spec.path for spec in specs] == [f"{path}/member_1", f"{path}/member_2"]
    with pytest.raises(ConfigError, match="holds several reward models; set mean, min"):
        check_rewards(ppo(path))
