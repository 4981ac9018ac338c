"""A card rebuilt from the saved model: the run's own figures from its rankings, others else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers.utils import logging

from rlhf.cli import main
from rlhf.config import AdapterConfig, RewardCardConfig, RewardConfig
from rlhf.data.splits import split_by_prompt
from rlhf.errors import ConfigError, DataError
from rlhf.records import Prompt
from rlhf.reward import RewardStage
from rlhf.reward.recard import rebuild_card
from rlhf.store import RankingStore

LETTERS = "abcdefghijklmno"
TEXTS = ["good good", "good bad", "bad"]


def rows(count, *, start=0, texts=TEXTS):
    """Answers from the best down; prompts differ, and every other ranking leaves one unranked."""
    found = []
    for i in range(start, start + count):
        ranks = [1, 2, 3 if i % 2 else None]
        prompt = f"{LETTERS[i % 15]} {LETTERS[i // 15]}"
        found.append({"prompt": prompt, "completions": texts, "ranks": ranks})
    return found


def write(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return str(path)


def train(tiny, folder, **more):
    demonstrations = [{"prompt": f"a {letter}", "completion": "good"} for letter in LETTERS]
    config = RewardConfig(
        model_name_or_path=str(tiny),
        rankings=write(folder / "rankings.jsonl", rows(60)),
        demonstrations=write(folder / "demonstrations.jsonl", demonstrations),
        output_dir=str(folder / "reward"),
        adapter=AdapterConfig(r=2, lora_alpha=4),
        learning_rate=5e-3,
        per_device_train_batch_size=8,
        eval_fraction=0.4,
    )
    RewardStage(replace(config, **more)).run()
    return folder


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    """Folder with the run ``reward``, its rankings and its demonstrations."""
    return train(tiny, tmp_path_factory.mktemp("recard"))


@pytest.fixture(scope="module")
def ensemble(tiny, tmp_path_factory) -> Path:
    """The same with two members."""
    return train(tiny, tmp_path_factory.mktemp("several"), ensemble_size=2)


def settings(folder, output, **more):
    config = RewardCardConfig(
        reward_model=str(folder / "reward"),
        rankings=str(folder / "rankings.jsonl"),
        demonstrations=str(folder / "demonstrations.jsonl"),
        output_dir=str(output),
    )
    return replace(config, **more)


def card_in(folder):
    return json.loads((folder / "reward_card.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["trained", "ensemble"])
def test_its_own_rankings_give_the_cards_own_figures(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    own = card_in(folder / "reward")
    result = rebuild_card(settings(folder, tmp_path / "new" / "card"))
    assert card_in(tmp_path / "new" / "card") == own
    assert result.trained_on
    assert result.rankings == 60
    assert result.measured == own["held_out_rankings"] < 60
    page = (tmp_path / "new" / "card" / "reward_card.html").read_text(encoding="utf-8")
    assert "<h1>" in page
    assert "good good" in page


def test_a_copy_of_its_rankings_is_known_by_its_bytes(trained, tmp_path):
    copy = tmp_path / "copy.jsonl"
    shutil.copy(trained / "rankings.jsonl", copy)
    result = rebuild_card(settings(trained, tmp_path / "card", rankings=str(copy)))
    assert result.trained_on
    assert card_in(tmp_path / "card") == card_in(trained / "reward")


def test_the_same_source_with_more_rankings_still_holds_training_prompts_out(tiny, tmp_path):
    folder = train(tiny, tmp_path, learning_curve=False)
    everything = rows(90)
    write(folder / "rankings.jsonl", everything)
    result = rebuild_card(settings(folder, tmp_path / "card"))
    _, unseen = split_by_prompt([Prompt.parse(row["prompt"]) for row in everything], 0.4, key=id_of)
    assert result.trained_on
    assert result.measured == len(unseen)


def id_of(prompt):
    return prompt


def test_other_rankings_all_count_and_give_other_figures(trained, tmp_path):
    own = card_in(trained / "reward")
    others = write(tmp_path / "others.jsonl", rows(30, start=100, texts=TEXTS[::-1]))
    result = rebuild_card(settings(trained, tmp_path / "card", rankings=others))
    card = card_in(tmp_path / "card")
    assert not result.trained_on
    assert result.measured == result.rankings == card["held_out_rankings"] == 30
    assert card["pair_accuracy"] != own["pair_accuracy"]
    assert result.pair_accuracy == card["pair_accuracy"]["value"]
    assert card["normalization"] == own["normalization"]
    assert card["train_rankings"] == own["train_rankings"]
    assert card["learning_curve"] is None
    # What it learnt is reversed here, so optimising it for these people is refused.
    assert result.pair_accuracy < 0.5
    assert any(text.startswith("fail: ") for text in result.findings)


def test_skips_are_not_measured(trained, tmp_path):
    with RankingStore.open(str(tmp_path / "store.sqlite")):
        pass
    with pytest.raises(DataError, match="has no ranking to measure on, nobody ranked any"):
        rebuild_card(settings(trained, tmp_path / "card", rankings=str(tmp_path / "store.sqlite")))


def test_a_runs_missing_or_broken_card_is_rebuilt_and_a_whole_one_kept(trained, tmp_path):
    run = tmp_path / "reward"
    shutil.copytree(trained / "reward", run)
    own = card_in(run)
    config = settings(trained, run, reward_model=str(run))
    with pytest.raises(ConfigError, match=r"output_dir: .*reward holds a reward_card\.json alread"):
        rebuild_card(config)
    (run / "reward_card.json").write_text("{")
    rebuild_card(config)
    again = card_in(run)
    assert again["pair_accuracy"] == own["pair_accuracy"]
    assert again["train_rankings"] == own["train_rankings"]
    assert again["findings"] == own["findings"]
    (run / "reward_card.json").unlink()
    rebuild_card(config)
    assert card_in(run) == again


def test_a_card_elsewhere_is_not_overwritten(trained, tmp_path):
    rebuild_card(settings(trained, tmp_path))
    with pytest.raises(ConfigError, match="give another folder or remove it"):
        rebuild_card(settings(trained, tmp_path))


def test_a_ranking_too_long_for_the_model_is_refused(trained, tmp_path):
    long = [{"prompt": "a " * 200, "completions": ["good", "bad"], "ranks": [1, 2]}]
    path = write(tmp_path / "long.jsonl", long)
    with pytest.raises(DataError, match=r"long\.jsonl: a ranking of 'a a .* the model reads 128"):
        rebuild_card(settings(trained, tmp_path / "card", rankings=path))


def test_the_command_shows_figures_and_what_was_held_out(trained, tmp_path, capsys):
    given = ["--reward_model", str(trained / "reward"), "--output_dir", str(tmp_path / "card")]
    own = card_in(trained / "reward")
    assert main(["reward-card", *given, "--rankings", str(trained / "rankings.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert f"{own['held_out_rankings']} of 60 (trained on the others, these were held" in shown
    assert f"pair accuracy     {own['pair_accuracy']['value']:.4g}" in shown
    assert str(tmp_path / "card" / "reward_card.html") in shown


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reward_model": "none"}, "reward_model: none: not a run folder"),
        ({"rankings": "none.jsonl"}, "none.jsonl: no such file"),
        ({"demonstrations": "none.jsonl"}, "none.jsonl: no such file"),
        ({"output_dir": "file"}, "output_dir: file is no folder"),
        ({"output_dir": "file/card"}, "output_dir: file/card: not written: "),
        ({"rankings": ""}, "rankings: '' is not allowed; give a path"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(changes, told, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    logging.disable_progress_bar()  # the command does it by environment, before the import
    (tmp_path / "file").touch()
    given = {"reward_model": str(trained / "reward"), "output_dir": "card"}
    given |= {"rankings": str(trained / "rankings.jsonl")} | changes
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    assert main(["reward-card", *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert told in shown.err
    assert not (tmp_path / "card").exists()
