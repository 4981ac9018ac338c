"""The reward stage on the tiny model: it learns planted preferences and reads them back alike."""

import dataclasses
import json

import pytest
import torch

from rlhf.config import AdapterConfig, RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.errors import CheckpointError, DataError
from rlhf.model.base import load_base, resolve_model
from rlhf.model.roles import Roles
from rlhf.records import Prompt
from rlhf.reward import RewardModel, RewardStage
from rlhf.reward.objective import RankingObjective

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o"]


def rows(count):
    """More 'good' is better; every prompt differs, and length says nothing."""
    found = []
    for i in range(count):
        prompt = f"{WORDS[i % 15]} {WORDS[i // 15]} {WORDS[(i * 7) % 15]}"
        completions = ["good good", "good bad", "bad bad", "bad good"]
        ranks = [1, 2, 3, 2] if i % 2 else [1, 2, None, 2]
        shift = i % 4
        found.append(
            {
                "prompt": prompt,
                "completions": completions[shift:] + completions[:shift],
                "ranks": ranks[shift:] + ranks[:shift],
            }
        )
    return found


@pytest.fixture
def config(tiny, tmp_path, write_rows):
    return RewardConfig(
        model_name_or_path=str(tiny),
        rankings=write_rows("rankings.jsonl", rows(120)),
        output_dir=str(tmp_path / "reward"),
        adapter=AdapterConfig(r=4, lora_alpha=8),
        learning_rate=5e-3,
        num_train_epochs=4,
        per_device_train_batch_size=8,
        eval_fraction=0.2,
    )


def load(config, tiny):
    base = load_base(resolve_model(str(tiny)), dtype="float32", device=torch.device("cpu"))
    from pathlib import Path

    return RewardModel.load(
        Path(config.output_dir), Roles(base), ChatFormat.of(base.tokenizer, base.model)
    )


def test_it_learns_a_planted_preference(config, tiny):
    result = RewardStage(config).run()
    assert result.pair_accuracy > 0.95
    assert result.pair_accuracy_low > result.best_length_rule
    assert result.train_loss < 0.4
    card = json.loads(result.card.read_text())
    assert card["held_out_prompts"] > 10
    assert card["simulated"] is False
    model = load(config, tiny)
    prompt = Prompt.parse("o o o")
    good, middle, bad = model.score_texts(
        [(prompt, "good good"), (prompt, "good bad"), (prompt, "bad bad")]
    )
    assert good > middle > bad


def test_scores_are_centred_and_alike_in_any_batch_after_loading(config, tiny, write_rows):
    demos = [{"prompt": row["prompt"], "completion": "good good"} for row in rows(20)]
    config = dataclasses.replace(config, demonstrations=write_rows("demos.jsonl", demos))
    RewardStage(config).run()
    model = load(config, tiny)
    pairs = [(Prompt.parse(row["prompt"]), "good good") for row in demos]
    scores = model.score_texts(pairs)
    assert abs(float(scores.mean())) < 1e-3
    alone = torch.cat([model.score_texts([pair]) for pair in pairs])
    torch.testing.assert_close(scores, alone, rtol=0, atol=1e-5)


def test_a_reward_model_of_another_base_is_refused(config, tiny, tmp_path):
    RewardStage(config).run()
    from tiny_model import make_model, make_tokenizer

    other = tmp_path / "other"
    make_model(seed=1).save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    with pytest.raises(CheckpointError, match="trained on another base"):
        load(config, other)


def test_any_stop_token_is_scored_as_the_end_token(config, tiny):
    """The head was trained at the end token; a cut-off completion is closed by it too."""
    RewardStage(config).run()
    model = load(config, tiny)
    model.chat = dataclasses.replace(model.chat, stop_ids=frozenset({2, 5}))
    prompts, good = [[1, 3, 6, 4]] * 3, 26
    first, other, cut = model.score_ids(prompts, [[good, 2], [good, 5], [good]])
    assert first == other == cut
    assert model.score([([1, 3, 6, 4], [good, 5])])[0] != first


def test_rankings_without_an_order_are_refused(config, write_rows):
    ties = [{"prompt": "a", "completions": ["b", "c"], "ranks": [1, 1]}]
    config = dataclasses.replace(config, rankings=write_rows("ties.jsonl", ties))
    with pytest.raises(DataError, match="none of its 1 rankings puts one completion above another"):
        RewardStage(config).run()


def test_skips_train_nothing_and_others_worse_gives_pairs(config):
    from rlhf.records import Ranking

    prompt = Prompt.parse("a")
    skipped = Ranking(prompt, ("b", "c"), (None, None), action="skip")
    best = Ranking(prompt, ("b", "c", "d"), (1, None, None), others_worse=True)
    uses = RankingObjective(config, [skipped, best]).uses
    assert [uses(skipped), uses(best)] == [False, True]
    assert list(best.strict_pairs()) == [(0, 1), (0, 2)]
    assert list(dataclasses.replace(best, others_worse=False).strict_pairs()) == []


def test_a_ranking_too_long_is_refused(config):
    with pytest.raises(DataError, match="120 of 120 rankings have more than max_length 8 tokens"):
        RewardStage(dataclasses.replace(config, max_length=8)).run()
