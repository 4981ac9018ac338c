"""Steps over rankings: any split gives the same gradients, and what is planted is found."""

import math
import random

import pytest
import torch
from model.families import frozen, randomize
from safetensors.torch import load_file
from tiny_model import WORDS, make_model

from rlhf.config import AdapterConfig, RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.model.roles import Roles
from rlhf.ranks import Ranks
from rlhf.records import Prompt, Ranking
from rlhf.reward import RewardModel, RewardStage
from rlhf.reward.objective import RankingObjective
from rlhf.reward.training import accumulate, encode, train

LOSSES = [
    {"ties": "half"},
    {"loss": "plackett_luce"},
    {"loss": "rao_kupper"},
    {"loss": "davidson"},
    {"learn_annotator_errors": True},
]


def config(**settings):
    settings = {"model_name_or_path": "base", "rankings": "r.jsonl", "output_dir": "o"} | settings
    adapter = AdapterConfig(r=4, lora_alpha=8)
    return RewardConfig(adapter=adapter, learning_curve=False, **settings)


def make_reward_model(*, fresh=True):
    base = frozen(make_model())
    roles = Roles(base)
    roles.add("reward", AdapterConfig(r=4, lora_alpha=8), trainable=True)
    model = RewardModel(roles, ChatFormat.of(base.tokenizer, base.model))
    if not fresh:
        randomize(roles, "reward")
        rng = torch.Generator().manual_seed(2)
        model.head.weight.data = torch.randn(model.head.weight.shape, generator=rng) * 0.3
    return model


def mixed_rankings():
    """K = 2, ..., 9 with ties and unranked completions, short and long."""
    rng = random.Random(3)

    def text(most):
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    return [
        Ranking(
            Prompt.parse(text(12)),
            tuple(text(8) for _ in range(size)),
            (1, 2, *(rng.choice([None, 1, 2]) for _ in range(size - 2))),
            annotator=rng.choice(["ann", "bob"]),
        )
        for size in range(2, 10)
    ]


def gradients(rankings, weights=None, micro_batch_tokens=10**6, **settings):
    """What ``accumulate`` gives and leaves: figures and gradients by name."""
    model = make_reward_model(fresh=False)
    objective = RankingObjective(config(**settings), rankings)
    weights = weights or [1.0] * len(rankings)
    figures = accumulate(
        model,
        objective,
        [encode(model, *item) for item in zip(rankings, weights, strict=True)],
        total_weight=sum(weights),
        micro_batch_tokens=micro_batch_tokens,
    )
    parameters = model.trainable() | objective.parameters
    return figures, {name: parameter.grad for name, parameter in parameters.items()}


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# -- gradients


@pytest.mark.parametrize("settings", LOSSES)
def test_micro_batches_change_neither_loss_nor_gradients(settings):
    figures, whole = gradients(mixed_rankings(), **settings)
    assert all(gradient.abs().max() > 1e-5 for gradient in whole.values())
    for tokens in (1, 50):
        again = gradients(mixed_rankings(), micro_batch_tokens=tokens, **settings)
        assert_same(again, (figures, whole))


def test_the_figures_are_those_of_scores_read_one_by_one():
    rankings, model = mixed_rankings(), make_reward_model(fresh=False)
    mean, right, pairs = 0.0, 0, 0
    for ranking in rankings:
        scores = [float(model.score_texts([(ranking.prompt, t)])) for t in ranking.completions]
        leads = [scores[better] - scores[worse] for better, worse in ranking.strict_pairs()]
        loss = sum(math.log1p(math.exp(-lead)) for lead in leads) / len(leads)
        mean, right = mean + loss / len(rankings), right + sum(lead > 0 for lead in leads)
        pairs += len(leads)
    figures, _ = gradients(rankings, micro_batch_tokens=50)
    assert figures.tolist() == pytest.approx([mean, right, pairs], abs=1e-4)
    assert 0 < right < pairs


def test_a_weight_of_2_is_the_same_ranking_twice():
    one, other = mixed_rankings()[1:3]
    weighted, own = gradients([one, other], weights=[1.0, 2.0])
    twice, expected = gradients([one, other, other])
    assert_same((weighted[0], own), (twice[0], expected))


# -- order


class Recording(RankingObjective):
    """The objective, which writes down what it is asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def targets(self, rankings):
        if hasattr(self, "seen"):
            self.seen += [int(ranking.id) for ranking in rankings]
        return super().targets(rankings)


def order_of(seed):
    """Numbers of 12 rankings as two epochs take them, one a step."""
    rankings = [
        Ranking(Prompt.parse("a"), ("good", "bad"), (1, 2), id=str(row)) for row in range(12)
    ]
    settings = config(num_train_epochs=2, per_device_train_batch_size=1, seed=seed)
    objective = Recording(settings, rankings)
    objective.seen.clear()
    model = make_reward_model()
    train(model, objective, [encode(model, r) for r in rankings], settings, Ranks())
    return objective.seen[:12], objective.seen[12:]


def test_every_epoch_has_an_order_of_its_own_that_the_seed_fixes():
    first, second = order_of(seed=0)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert order_of(seed=0) == (first, second)
    assert order_of(seed=1)[0] not in (first, second)


# -- learning


def planted(count, seed, annotators=("ann",)):
    """Three of four answers; more 'good' is better, and length says nothing."""
    rng = random.Random(seed)
    value = {"good good": 2, "good bad": 1, "bad good": 1, "bad bad": 0}
    found = []
    for row in range(count):
        texts = rng.sample(list(value), 3)
        values = [value[text] for text in texts]
        ranks = tuple(1 + sum(other > own for other in values) for own in values)
        prompt = Prompt.parse(" ".join(rng.choices(WORDS[:15], k=3)))
        name = annotators[row % len(annotators)]
        found.append(Ranking(prompt, tuple(texts), ranks, annotator=name))
    return found


def fit(rankings, **settings):
    """A model trained on rankings, with the row of its last step."""
    settings = config(learning_rate=5e-3, per_device_train_batch_size=8, **settings)
    model, rows = make_reward_model(), []
    objective = RankingObjective(settings, rankings)
    encoded = [encode(model, ranking, objective.weight(ranking)) for ranking in rankings]
    train(model, objective, encoded, settings, Ranks(), lambda *told: rows.append(told))
    return model, rows


def accuracy(model, rankings):
    right = []
    for ranking in rankings:
        scores = model.score_texts([(ranking.prompt, text) for text in ranking.completions])
        right += [bool(scores[i] > scores[j]) for i, j in ranking.strict_pairs()]
    return sum(right) / len(right)


@pytest.mark.parametrize(
    "settings", [{}, {"strength_margin": 1.0, "label_smoothing": 0.1}, *LOSSES]
)
def test_planted_utilities_are_learnt_with_every_loss(settings):
    model, rows = fit(planted(96, seed=0), num_train_epochs=4, **settings)
    assert [(step, total) for step, total, _ in rows] == [(s, 48) for s in range(1, 49)]
    assert accuracy(model, planted(30, seed=1)) > 0.9
    losses = [row["loss/train"] for _, _, row in rows]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize(("loss", "name"), [("rao_kupper", "threshold"), ("davidson", "odds")])
def test_the_tie_parameter_rises_where_equals_are_always_tied(loss, name):
    """It starts from scores that are all equal, when one pair in six is a tie."""
    rankings = planted(96, seed=0)
    start = RankingObjective(config(loss=loss), rankings).figures()[f"tie_{name}"]
    _, rows = fit(rankings, num_train_epochs=4, loss=loss)
    assert rows[-1][2][f"tie_{name}"] > start + 0.1


def test_who_answers_by_a_coin_is_found_out():
    rng = random.Random(5)
    rankings = []
    for ranking in planted(240, seed=0, annotators=("ann", "bob")):
        ranks = list(ranking.ranks)
        if ranking.annotator == "bob":
            rng.shuffle(ranks)
        fields = {"annotator": ranking.annotator}
        rankings.append(Ranking(ranking.prompt, ranking.completions, tuple(ranks), **fields))
    model, rows = fit(rankings, num_train_epochs=4, learn_annotator_errors=True)
    learnt = rows[-1][2]
    assert learnt["annotator_error/ann"] < 0.1 < 0.4 < learnt["annotator_error/bob"]
    assert accuracy(model, planted(30, seed=1)) > 0.9


@pytest.fixture
def adapter_of(tiny, tmp_path, write_rows):
    """Tensors of a run on the rankings of some annotators, of whom only ann ranks rightly."""

    def run(folder, names, **settings):
        rows = [
            {"prompt": r.prompt.text, "completions": r.completions, "annotator": r.annotator}
            | {"ranks": r.ranks if r.annotator == "ann" else [4 - rank for rank in r.ranks]}
            for r in planted(30, seed=0, annotators=("ann", "bob", "cat"))
            if r.annotator in names
        ]
        settings |= {"model_name_or_path": str(tiny), "output_dir": str(tmp_path / folder)}
        settings |= {"rankings": write_rows(f"{folder}.jsonl", rows), "eval_fraction": 0.0}
        result = RewardStage(config(per_device_train_batch_size=2, **settings)).run()
        return result.steps, {
            path.name: load_file(path) for path in sorted(result.adapter.glob("*.safetensors"))
        }

    return run


def test_annotators_of_weight_0_leave_no_trace(adapter_of):
    names = ("ann", "bob", "cat")
    without = adapter_of("without", ["ann"])
    assert without[0] == 5
    assert_same(adapter_of("weighed", names, annotator_weights=("bob=0", "cat=0")), without)


def test_a_weight_above_0_reaches_training(adapter_of):
    names = ("ann", "bob", "cat")
    light = adapter_of("light", names, annotator_weights=("bob=0.001", "cat=0.001"))[1]
    equal = adapter_of("equal", names)[1]
    one, other = (found["score_head.safetensors"]["weight"] for found in (light, equal))
    assert (one - other).abs().max() > 1e-5
