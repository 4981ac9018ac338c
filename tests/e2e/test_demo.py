"""The whole path, small, on the embedded base: every stage must have learnt something."""

import json

import pytest

from rlhf.config import DemoConfig
from rlhf.demo.run import DemoSize, run_demo
from rlhf.errors import CheckpointError
from rlhf.store import RankingStore

SMALL = DemoSize(
    demonstrations=200,
    ranked_once=180,
    ranked_twice=20,
    ppo_prompts=200,
    eval_prompts=60,
    eval_samples=2,
    ppo_updates=14,
    sft_epochs=2,
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    return run_demo(DemoConfig(output_dir=str(folder)), size=SMALL)


def test_every_stage_learns(demo):
    figures = demo.figures
    models = {name: figures["models"][name]["sampled"] for name in ("base", "sft", "ppo")}
    assert models["sft"]["utility"] > models["base"]["utility"] + 0.1
    assert figures["reward_model"]["pair_accuracy_low"] > 0.55
    assert figures["reward_model"]["pair_accuracy"] > figures["reward_model"]["best_length_rule"]
    assert models["ppo"]["score"] > models["sft"]["score"] + 0.3
    assert figures["ppo"]["true_win_rate_low"] > 0.5
    assert 0.05 < figures["ppo"]["kl"] < figures["ppo"]["kl_budget"]
    assert figures["ppo"]["export_max_logprob_difference"] <= 1e-4
    assert figures["ppo"]["export_same_greedy_text"] is True


def test_the_report_holds_what_scripts_ask_for(demo):
    report = json.loads(demo.report_json.read_text())
    assert report["simulated"] is True
    assert {"pair_accuracy", "best_length_rule", "ceiling"} <= report["reward_model"].keys()
    assert {"true_win_rate", "true_win_rate_low", "kl", "kl_budget"} <= report["ppo"].keys()
    assert {"base", "sft", "ppo"} <= report["task_accuracy"].keys()
    assert report["seconds"] > 0
    assert report["peak_memory_mb"] > 100
    assert 0.8 < report["reward_model"]["ceiling"] < 1
    page = demo.report_html.read_text()
    assert "imulated" in page
    assert "<svg" in page


def test_rankings_are_in_the_store_and_marked_as_simulated(demo):
    with RankingStore.open(demo.output_dir / "store.sqlite", create=False) as store:
        rankings = list(store.rankings())
    assert len(rankings) > 180
    assert all(ranking.simulated for ranking in rankings)
    assert {ranking.annotator for ranking in rankings} == {"simulated-1", "simulated-2"}
    assert any(len(set(ranking.ranks)) < len(ranking.ranks) for ranking in rankings), "no ties"


def test_an_earlier_demo_is_kept_unless_told(demo):
    with pytest.raises(CheckpointError, match="holds an earlier demo; give --overwrite"):
        run_demo(DemoConfig(output_dir=str(demo.output_dir)))
