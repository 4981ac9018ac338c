"""The report page: complete with everything given, whole with almost nothing, and safe."""

import copy
import math
import random
import re
from html.parser import HTMLParser

import pytest

from rlhf.report import render_report

ATTACK = "<script>alert('x')</script><img src=x onerror=alert(1)>\" onload=\"alert(2)"
TASKS = ("question", "reply", "sentiment", "summary")
_VOID = {"meta", "link", "br", "img", "path", "use", "hr", "input"}


def _model_figures(level: float, **own: float) -> dict:
    figures = {
        "length": 16.4 + level,
        "ended": 0.991,
        "distinct": 0.874,
        "score": level - 1.0,
        "rouge_l": 0.412 + level / 10,
        "utility": 0.1 + level / 2,
        "accuracy": 0.31 + level / 5,
        "facts": 0.2 + level / 3,
        "manners": -0.04 + level / 8,
        "directness": -0.21 + level / 20,
    } | own
    tasks = {task: dict(figures) for task in TASKS}
    return figures | {"by_task": tasks}


def _compared(value: float) -> dict:
    return {
        "true_win_rate": value,
        "true_win_rate_low": value - 0.06,
        "true_win_rate_high": value + 0.06,
        "utility_change": value - 0.4,
        "utility_change_low": value - 0.52,
        "utility_change_high": value - 0.28,
    }


def rich_figures() -> dict:
    """All that the demo writes, with invented numbers."""
    models = {
        name: {"sampled": _model_figures(level), "greedy": _model_figures(level + 0.4)}
        for name, level in (("base", 0.2), ("sft", 1.0), ("ppo", 1.8))
    }
    ppo = {
        "kl": 1.874,
        "kl_interval": [1.74, 2.01],
        "kl_budget": 4.0,
        "kl_to_pretrained": 9.62,
        "export_max_logprob_difference": 8.58e-06,
        "export_same_greedy_text": True,
        "updates": 60,
        "stopped_by": "max_steps",
        "score_win_rate": 0.823,
        "score_win_rate_low": 0.8,
        "true_win_rate": 0.7812,
        "true_win_rate_low": 0.752,
        "true_win_rate_high": 0.811,
        "true_win_rate_greedy": 0.862,
        "true_win_rate_greedy_low": 0.83,
        "utility_change": {"value": 0.41, "low": 0.36, "high": 0.46, "prompts": 400},
        "by_task": {task: _compared(0.62 + i / 12) for i, task in enumerate(TASKS)},
        "best_of_n": {"n": 3, "true_win_rate": 0.66, "true_win_rate_of_perfect_judge": 0.79},
    }
    reward = {
        "pair_accuracy": 0.8237,
        "pair_accuracy_low": 0.801,
        "pair_accuracy_high": 0.846,
        "pair_accuracy_against": "true order of SFT samples on held-out prompts",
        "pairs": 2103,
        "pair_accuracy_rankings": 0.7912,
        "pair_accuracy_rankings_low": 0.76,
        "pair_accuracy_rankings_high": 0.82,
        "pairs_rankings": 811,
        "longer_wins": 0.539,
        "shorter_wins": 0.461,
        "best_length_rule": 0.539,
        "best_length_rule_rankings": 0.522,
        "ceiling": 0.902,
        "annotator_agreement": 0.853,
    }
    seconds = {"sft": 14, "sample": 21.4, "rank": 1.2, "reward": 38, "ppo": 121, "evaluation": 37}
    return {
        "simulated": True,
        "judge": "the demo's hidden preference",
        "prompts": 400,
        "samples_per_prompt": 4,
        "models": models,
        "ppo": ppo,
        "sft": {"true_win_rate": {"value": 0.71, "low": 0.67, "high": 0.75, "prompts": 400}},
        "task_accuracy": {
            "base": 0.352,
            "sft": 0.512,
            "ppo": 0.6712,
            "change": 0.159,
            "change_low": 0.13,
            "change_high": 0.19,
        },
        "reward_model": reward,
        "stages": {
            name: {"seconds": value, "peak_memory_mb": 700 + 9 * value}
            for name, value in seconds.items()
        },
        "seconds": 252.4,
        "peak_memory_mb": 1812.0,
        "targets": {
            "pair_accuracy": 0.8,
            "margin_over_length_rule": 0.1,
            "true_win_rate": 0.8,
            "accuracy_drop": 0.02,
            "seconds": 360,
            "peak_memory_mb": 3000,
        },
        "notes": ["PPO adapter on the folded base 4a63…; export for the base before SFT."],
    }


def rich_samples(count: int = 24) -> list[dict]:
    """Rows as in samples.jsonl, tasks one after the other."""
    rows = []
    for i in range(count):
        task = TASKS[i * len(TASKS) // count]
        row: dict = {
            "prompt": f"Summarise this note in one sentence.\n\nNote {i}: On Monday Anna left the "
            "lamp at the park. Bob sold the kettle at the farm on Friday. It was a quiet week.",
            "task": task,
            "demonstration": "Anna left the lamp and Bob sold the kettle.",
        }
        for model, text in (
            ("base", "Anna sold the lamp at the farm. Cats sleep most of the time."),
            ("sft", "Anna left the lamp at the park and Bob sold the kettle."),
            ("ppo", "Anna left the lamp at the park and Bob sold the kettle at the farm. Gladly."),
        ):
            for kind in ("sampled", "greedy"):
                row[f"{model}_{kind}"] = {"text": text, "score": i / 9 - 1, "utility": 1.3 - i / 20}
        rows.append(row)
    rows[1]["base_sampled"]["text"] = ""
    return rows


def rich_curves() -> dict:
    """Noisy rows of all three stages."""
    rng = random.Random(0)
    ppo = [
        {
            "step": i,
            "score/mean": 1.2 * (1 - math.exp(-i / 20)) + rng.gauss(0, 0.08),
            "kl/reference": 1.9 * (1 - math.exp(-i / 25)) + rng.gauss(0, 0.06),
            "completion/length": 16 + i / 40 + rng.gauss(0, 0.4),
            "policy/entropy": 0.6 - i / 300 + rng.gauss(0, 0.02),
        }
        for i in range(1, 61)
    ]
    reward = [
        {
            "step": i,
            "loss/train": 0.693 - i / 300 + rng.gauss(0, 0.03),
            "reward/pair_accuracy_train": min(1.0, 0.5 + i / 200 + rng.gauss(0, 0.05)),
        }
        for i in range(1, 61)
    ]
    sft = [{"step": 5 * i, "loss/train": 1.2 / i + rng.gauss(0, 0.02)} for i in range(1, 10)]
    sft += [{"step": 20, "loss/held_out": 0.4}, {"step": 45, "loss/held_out": 0.25}]
    return {"ppo": ppo, "reward": reward, "sft": sft}


class _Reader(HTMLParser):
    """Collects tags and text; checks that tags close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def rich() -> str:
    return render_report(rich_figures(), rich_samples(), rich_curves())


def test_the_rich_page_shows_figures_with_unit_and_interval(rich):
    text = read(rich).text
    for shown in (
        "82.4 % 80.1 to 84.6 %",  # 0.8237, to one digit
        "Best length rule: 53.9 %, 28.5 points below",  # 0.8237 - 0.539 = 0.2847
        "On held-out rankings: 79.1 %; ceiling 90.2 %",
        "78.1 % 75.2 to 81.1 %",
        "KL 1.9 of a budget of 4",
        "Base 35.2 %, SFT 51.2 %",
        "Change from SFT: +15.9 points; +13.0 to +19.0 points",
        "4 min 12 s",  # 252.4 s
        "1.81 GB",
        "8.6e−06 nats",
        "Sampling candidates",
        "400 held-out prompts, 4 times sampled and once greedily",
    ):
        assert shown in text


def test_targets_get_verdicts(rich):
    text = read(rich).text
    assert "Target 80 %: met" in text
    assert "Target 10 points above length: met" in text
    assert "Target 80 %: missed by 1.9 points" in text  # 80 - 78.12
    assert "Drop of at most 2 points: met" in text
    assert "Limit 6 min 0 s: met" in text


def test_a_kl_over_the_budget_is_called_so():
    figures = {"ppo": {"kl": 5.25, "kl_budget": 4.0}}
    assert "KL 5.25 is over the budget of 4" in read(render_report(figures, [], {})).text


def test_a_target_missed_by_a_hair_is_not_missed_by_nothing():
    figures = {"ppo": {"true_win_rate": 0.7999}, "targets": {"true_win_rate": 0.8}}
    assert "missed by less than 0.1 points" in read(render_report(figures, [], {})).text


def test_the_rich_page_has_all_plots_with_labels_and_own_ids(rich):
    reader = read(rich)
    assert reader.tags.count("svg") == 6
    for label in ("√KL (√nats)", "KL (nats)", "Nats per token", "Accuracy (%)", "budget 4"):
        assert label in reader.text
    ids = [value for name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_plots_take_the_colours_of_the_page(rich):
    assert "var(--ppo)" in rich
    assert not re.search(r"#01020[3-6]", rich)


def test_nothing_is_loaded_from_outside_and_nothing_runs(rich):
    reader = read(rich)
    assert "script" not in reader.tags
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href", "action"}:
            assert value.startswith(("#", "data:"))
    assert not re.search(r"https?://|@import|url\((?!#)", rich)


def test_equal_input_gives_an_equal_page():
    curves = {"sft": rich_curves()["sft"]}
    assert render_report({}, [], curves) == render_report({}, [], curves)


def test_the_first_samples_show_every_task(rich):
    before_more = rich.split("18 more")[0]
    for task in TASKS:
        assert f'<span class="task">{task}</span>' in before_more
    assert "empty answer" in rich


def test_whitespace_of_answers_is_kept():
    rows = [{"prompt": "a\n  b", "ppo_sampled": {"text": " two\n\n   lines "}}]
    page = render_report({}, rows, {})
    assert ">a\n  b</div>" in page
    assert "> two\n\n   lines </div>" in page


@pytest.mark.parametrize("place", ["sample", "task", "note", "judge", "stage", "part"])
def test_text_from_outside_is_escaped(place):
    figures, samples = rich_figures(), rich_samples(2)
    match place:
        case "sample":
            samples = [
                {key: {"text": ATTACK} if isinstance(value, dict) else ATTACK}
                | {"ppo_greedy": {"text": ATTACK}}
                for key, value in samples[0].items()
            ]
        case "task":
            figures["ppo"]["by_task"][ATTACK] = figures["ppo"]["by_task"]["reply"]
            figures["models"]["ppo"]["sampled"]["by_task"][ATTACK] = {"accuracy": 0.5}
        case "note":
            figures["notes"] = [ATTACK]
        case "judge":
            figures["judge"] = ATTACK
            figures["reward_model"]["pair_accuracy_against"] = ATTACK
        case "stage":
            figures["stages"][ATTACK] = {"seconds": 1e6}
        case "part":
            figures["models"]["ppo"]["sampled"][ATTACK] = 0.5
    page = render_report(figures, samples, {})
    reader = read(page)
    assert "script" not in reader.tags
    assert "img" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert "&lt;script&gt;" in page


def test_a_dollar_or_a_foreign_letter_in_a_task_name_is_drawn_as_it_is():
    figures = rich_figures()
    figures["ppo"]["by_task"] = {"$x^{$": _compared(0.6), "问题": _compared(0.7)}
    page = render_report(figures, [], {})
    assert "$x^{$" in page
    assert "问题" in page


def test_the_badge_stands_if_and_only_if_annotators_were_simulated(rich):
    assert "Simulated annotators" in rich
    figures = rich_figures() | {"simulated": False}
    assert "Simulated annotators" not in render_report(figures, [], {})


BARE = {
    "simulated": False,
    "judge": None,
    "prompts": 12,
    "samples_per_prompt": 1,
    "models": {
        name: {
            kind: {"length": 16.0, "ended": 0.5, "distinct": 1.0, "by_task": {}} for kind in kinds
        }
        for name in ("sft", "ppo")
        for kinds in [("sampled", "greedy")]
    },
    "ppo": {"kl": 0.44, "kl_interval": [0.2, 0.6], "kl_budget": None, "kl_to_pretrained": None},
    "stages": {"ppo": {"seconds": 6.1, "peak_memory_mb": None}},
}


def test_a_page_without_judge_reward_model_base_tasks_and_curves():
    text = read(render_report(BARE, [], {})).text
    assert "0.44 nats 0.20 to 0.60 nats" in text
    assert "SFT and PPO answered the same 12 held-out prompts" in text
    assert "Longest stage: PPO, 6.1 s" in text
    for absent in ("Base ", "utility", "Pair accuracy", "Plots", "None", "nan", "Distinct"):
        assert absent not in text.split("How to read this Key")[-1].split("How to read this")[0]


@pytest.mark.parametrize("figures", [{}, {"ppo": None}, {"models": {}, "stages": {"sft": None}}])
def test_an_almost_empty_page_is_a_page(figures):
    assert "How to read this" in read(render_report(figures, [], {})).text


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_left_out(nothing):
    def emptied(value):
        if isinstance(value, dict):
            return {key: emptied(item) for key, item in value.items()}
        return nothing if isinstance(value, float) else copy.deepcopy(value)

    curves = {"ppo": [{"step": 1, "score/mean": nothing}, {"step": 2}], "sft": [], "reward": []}
    samples = [{"prompt": "p", "ppo_sampled": {"text": "t", "score": nothing, "utility": nothing}}]
    page = render_report(emptied(rich_figures()), samples, curves)
    assert "svg" not in read(page).tags
    assert not re.search(r"\b(None|nan|inf)\b", read(page).text)


def test_a_single_point_makes_a_plot():
    page = render_report({}, [], {"ppo": [{"step": 1, "score/mean": 0.5}]})
    assert read(page).tags.count("svg") == 1


def test_a_lone_surrogate_leaves_the_page_writable():
    page = render_report({}, [{"prompt": "a\ud800b", "task": None}], {})
    page.encode("utf-8")
