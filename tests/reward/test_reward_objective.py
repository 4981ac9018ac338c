"""What reward training minimises: every option against numbers by hand."""

import math

import pytest
import torch

from rlhf.config import RewardConfig
from rlhf.errors import ConfigError, DataError
from rlhf.records import Prompt, Ranking
from rlhf.reward.objective import RankingObjective, check_annotators

TIE_LOSSES = ("rao_kupper", "davidson")
FOUR, TWO = math.log(4), math.log(2)
"""Leads in which a Bradley-Terry win has probability 4/5 and 2/3."""
EVERY_OPTION = [
    {},
    {"ties": "half", "label_smoothing": 0.1},
    {"strength_margin": 0.5},
    {"learn_annotator_errors": True},
    {"loss": "plackett_luce"},
    {"loss": "rao_kupper", "all_bad": "ties"},
    {"loss": "davidson"},
    {"center_rewards_coefficient": 0.01, "all_bad": "below_zero"},
]


def config(**settings):
    return RewardConfig(
        model_name_or_path="base", rankings="rankings.jsonl", output_dir="reward", **settings
    )


def ranked(*ranks, **fields):
    texts = tuple(f"answer {place}" for place in range(len(ranks)))
    return Ranking(Prompt.parse("prompt"), texts, ranks, **fields)


def all_bad(size=2, **fields):
    return ranked(*[None] * size, action="all_bad", **fields)


def losses(scores, *rankings, among=(), **settings):
    """Losses of rankings; those ``among`` which they are only set the start values."""
    objective = RankingObjective(config(**settings), [*rankings, *among])
    return objective.loss(torch.tensor(scores), objective.targets(rankings)).tolist()


def uses(ranking, **settings):
    return RankingObjective(config(**settings), [ranking]).uses(ranking)


# -- losses


@pytest.mark.parametrize("lead", [1.0, 0.0, -3.0])
def test_bradley_terry_is_the_softplus_of_the_lead_the_wrong_way_round(lead):
    expected = math.log1p(math.exp(-lead))
    assert losses([[lead, 0.0], [0.0, lead]], ranked(1, 2), ranked(2, 1)) == pytest.approx(
        [expected] * 2
    )


def test_a_ranking_is_the_mean_over_its_pairs():
    # Leads 2, 1 and 1 of scores 2, 1, 0.
    expected = (math.log1p(math.exp(-2)) + 2 * math.log1p(math.exp(-1))) / 3
    assert losses([[2.0, 1.0, 0.0]], ranked(1, 2, 3)) == pytest.approx([expected])


def test_smoothing_takes_a_share_of_the_pairs_the_other_way_round():
    # 9 in 10 at 4/5, 1 in 10 at 1/5.
    expected = -0.9 * math.log(4 / 5) - 0.1 * math.log(1 / 5)
    found = losses([[FOUR, 0.0]], ranked(1, 2), label_smoothing=0.1)
    assert found == pytest.approx([expected])


def test_a_margin_takes_the_strengths_off_the_lead():
    # Leads of 2 log 2 less log 2 for each step: one step leaves 2/3, two leave 1/2.
    scores, rankings = [[FOUR, 0.0]] * 3, [ranked(1, 2, strengths=s) for s in [(1,), (2,), None]]
    found = losses(scores, *rankings, strength_margin=TWO)
    assert found == pytest.approx([math.log(3 / 2), math.log(2), math.log(5 / 4)])


def test_more_strengths_than_completions_count_no_further():
    rankings = [ranked(1, 2, strengths=(2, 1, 3)), ranked(1, 2)]
    found = losses([[FOUR, 0.0]] * 2, *rankings, strength_margin=TWO)
    assert found == pytest.approx([math.log(2), math.log(5 / 4)])


def test_half_a_tie_is_log_2_between_equals_and_grows_with_the_lead():
    # -(log 4/5 + log 1/5) / 2 at a lead of log 4.
    found = losses([[1.5, 1.5], [0.0, FOUR]], ranked(1, 1), ranked(2, 2), ties="half")
    assert found == pytest.approx([math.log(2), math.log(5 / 2)])
    assert losses([[0.0, FOUR]], ranked(1, 1), among=[ranked(1, 2)]) == [0]


@pytest.mark.parametrize("loss", TIE_LOSSES)
def test_a_tie_parameter_starts_at_the_share_of_ties_among_equals(loss):
    # One tie among four: ties 1/4, and each side wins half of the rest.
    rankings = [ranked(1, 1), ranked(1, 2), ranked(2, 1), ranked(1, 2)]
    found = losses([[0.7, 0.7]] * 4, *rankings, loss=loss)
    assert found == pytest.approx([math.log(4), *[math.log(8 / 3)] * 3])


@pytest.mark.parametrize(
    ("loss", "win", "tie", "name", "value"),
    [
        # theta = (1 + 1/4) / (1 - 1/4) = 5/3: win 4 / (4 + 5/3), tie with (theta^2 - 1) = 16/9.
        ("rao_kupper", 12 / 17, 64 / 391, "tie_threshold", math.log(5 / 3)),
        # nu = 2 (1/4) / (3/4) = 2/3, and 2 : 2/3 : 1/2 at a lead of log 4.
        ("davidson", 12 / 19, 4 / 19, "tie_odds", 2 / 3),
    ],
)
def test_ties_as_outcomes_by_hand(loss, win, tie, name, value):
    rankings = [ranked(1, 2), ranked(1, 1)]
    among = [ranked(1, 2), ranked(1, 2)]
    found = losses([[FOUR, 0.0]] * 2, *rankings, among=among, loss=loss)
    assert found == pytest.approx([-math.log(win), -math.log(tie)])
    figures = RankingObjective(config(loss=loss), [*rankings, *among]).figures()
    assert figures == {name: pytest.approx(value)}


@pytest.mark.parametrize("loss", TIE_LOSSES)
@pytest.mark.parametrize(("ranks", "share"), [((1, 2), 0.01), ((1, 1), 0.9)])
def test_the_share_of_ties_starts_within_bounds(loss, ranks, share):
    found = losses([[0.0, 0.0]], ranked(1, 1), among=[ranked(*ranks)] * 999, loss=loss)
    assert found == pytest.approx([-math.log(share)], rel=0.02)


@pytest.mark.parametrize("loss", TIE_LOSSES)
def test_those_called_worse_together_are_no_ties(loss):
    # One tie, three strict pairs; the two others of the second were not compared.
    rankings = [ranked(1, 1), ranked(1, None, None, others_worse=True), ranked(1, 2)]
    found = losses([[0.0] * 3] * 3, *rankings, loss=loss)
    assert found == pytest.approx([math.log(4), *[math.log(8 / 3)] * 2])


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ((1, 2, 3), math.log(21 / 8) / 2),  # 4/7 * 2/3, two choices
        ((1, 1, 2), math.log(105 / 64) / 2),  # 4/7 * 2/3 + 2/7 * 4/5, two choices
        ((1, None, 2), math.log(5 / 4)),  # 4/5, one choice
        ((2, 2, 1), math.log(7)),  # 1/7, one choice
    ],
)
def test_plackett_luce_is_nats_per_choice(ranks, expected):
    found = losses([[FOUR, TWO, 0.0]], ranked(*ranks), loss="plackett_luce")
    assert found == pytest.approx([expected])


def test_an_annotator_answers_by_a_coin_in_the_share_expected_of_an_unknown_one():
    # 4/5 of 4/5 and half of 1/5.
    rankings = [ranked(1, 2, annotator="ann"), ranked(1, 2)]
    settings = {"learn_annotator_errors": True, "annotator_error": 0.2}
    assert losses([[FOUR, 0.0]] * 2, *rankings, **settings) == pytest.approx(
        [-math.log(0.74)] * 2, rel=1e-5
    )
    figures = RankingObjective(config(**settings), rankings).figures()
    assert figures == {
        "annotator_error/(none)": pytest.approx(0.2),
        "annotator_error/ann": pytest.approx(0.2),
    }


def test_each_annotator_has_an_error_of_his_own():
    rankings = [ranked(1, 2, annotator=name) for name in ("bob", "ann", "bob")]
    objective = RankingObjective(config(learn_annotator_errors=True), rankings)
    objective.parameters["annotator_errors"].data = torch.tensor([-50.0, 0.0])
    # ann never errs; bob half the time: half of 4/5 and a quarter.
    found = objective.loss(torch.tensor([[FOUR, 0.0]] * 3), objective.targets(rankings))
    bob = math.log(1 / 0.65)
    assert found.tolist() == pytest.approx([bob, math.log(5 / 4), bob])
    assert objective.figures()["annotator_error/bob"] == pytest.approx(0.5)


def test_the_prior_is_shared_out_over_the_pairs():
    rankings = [ranked(1, 2, 3, annotator="ann"), ranked(1, 2, 2, annotator="bob")]
    settings = {"learn_annotator_errors": True, "annotator_error": 0.5, "annotator_error_std": 2.0}
    objective = RankingObjective(config(**settings), rankings)
    assert objective.prior() == 0
    objective.parameters["annotator_errors"].data = torch.tensor([1.0, -3.0])
    # (1 + 9) / (2 * 2^2) over 3 + 2 pairs.
    assert objective.prior().item() == pytest.approx(0.25)
    assert RankingObjective(config(), rankings).prior() == 0


def test_all_bad_teaches_nothing_a_tie_or_a_place_below_zero():
    bad, known = all_bad(), [ranked(1, 2)]
    scores = [[0.0, math.log(3)]]
    assert losses(scores, bad, among=known) == [0]
    # At a lead of log 3: -(log 3/4 + log 1/4) / 2.
    found = losses(scores, bad, among=known, ties="half", all_bad="ties")
    assert found == pytest.approx([math.log(16 / 3) / 2])
    # Probabilities 1/2 and 1/4 of lying below 0: log 2 and log 4, on average, times 2.
    found = losses(scores, bad, among=known, all_bad="below_zero", all_bad_coef=2.0)
    assert found == pytest.approx([math.log(8)])


@pytest.mark.parametrize("loss", TIE_LOSSES)
def test_all_bad_counts_among_the_ties(loss):
    rankings = [all_bad(), *[ranked(1, 2)] * 3]
    found = losses([[0.0, 0.0]] * 4, *rankings, loss=loss, all_bad="ties")
    assert found == pytest.approx([math.log(4), *[math.log(8 / 3)] * 3])


def test_below_zero_leaves_other_rankings_alone():
    settings = {"among": [all_bad()], "all_bad": "below_zero"}
    assert losses([[FOUR, 0.0]], ranked(1, 2), **settings) == pytest.approx([math.log(5 / 4)])


def test_centering_takes_every_candidate_ranked_or_not():
    # Sums 3, 4 and 5 of scores 1, 2, 3: (9 + 16 + 25) / 3.
    scores, settings = [[1.0, 2.0, 3.0]], {"center_rewards_coefficient": 0.3}
    order = math.log1p(math.exp(1))
    assert losses(scores, ranked(1, 2, None), **settings) == pytest.approx([order + 5])


def test_only_others_worse_gives_the_unranked_a_gradient():
    rankings = [ranked(1, 2, None), ranked(1, 2, None, others_worse=True)]
    for settings in EVERY_OPTION[:-1]:
        objective = RankingObjective(config(**settings), rankings)
        scores = torch.tensor([[2.0, 1.0, 0.5]] * 2, requires_grad=True)
        objective.loss(scores, objective.targets(rankings)).sum().backward()
        assert scores.grad[0, 2] == 0
        assert scores.grad[1, 2] > 0.01


@pytest.mark.parametrize("settings", EVERY_OPTION)
def test_padding_changes_nothing(settings):
    rankings = [
        ranked(1, 2, annotator="ann", strengths=(3,)),
        ranked(2, 1, 1, None, 3, annotator="bob", strengths=(1, 2)),
        ranked(None, 1, None, others_worse=True),
        all_bad(3),
    ]
    objective = RankingObjective(config(**settings), rankings)
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    targets = objective.targets(rankings)
    together = objective.loss(scores.masked_fill(~targets.candidates, math.nan), targets)
    alone = [
        objective.loss(row[None, : len(ranking.ranks)], objective.targets([ranking]))
        for row, ranking in zip(scores, rankings, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


# -- which rankings count


@pytest.mark.parametrize(
    ("ranking", "settings", "used"),
    [
        (ranked(1, 2), {}, True),
        (ranked(1, 2, action="skip"), {}, False),
        (ranked(1, 2, action="cannot_judge"), {"loss": "davidson"}, False),
        (ranked(None, None), {"ties": "half"}, False),
        (ranked(1, None), {"ties": "half"}, False),
        (ranked(1, None, others_worse=True), {}, True),
        (ranked(None, None, others_worse=True), {"ties": "half"}, False),
        (ranked(1, 1), {}, False),
        (ranked(1, 1), {"loss": "plackett_luce"}, False),
        (ranked(1, 1), {"ties": "half"}, True),
        (ranked(1, 1), {"loss": "rao_kupper"}, True),
        (ranked(1, 1), {"loss": "davidson"}, True),
        (all_bad(), {}, False),
        (all_bad(), {"all_bad": "below_zero"}, True),
        (all_bad(), {"all_bad": "ties", "ties": "half"}, True),
        (ranked(1, 2, meta={"weight": 0}), {}, False),
        (ranked(1, 2, annotator="ann"), {"annotator_weights": "ann=0"}, False),
        (all_bad(annotator="ann"), {"annotator_weights": "ann=0", "all_bad": "below_zero"}, False),
        (all_bad(meta={"weight": 0.0}), {"all_bad": "below_zero"}, False),
    ],
)
def test_what_teaches_something(ranking, settings, used):
    assert uses(ranking, **settings) is used


def test_a_weight_is_that_of_the_ranking_times_that_of_the_annotator():
    weights = config(annotator_weights=("ann=0.5", "x=y=3", "(none)=2"))
    objective = RankingObjective(weights, [])
    assert objective.weight(ranked(1, 2, annotator="ann", meta={"weight": 3})) == 1.5
    assert objective.weight(ranked(1, 2, annotator="x=y")) == 3
    assert objective.weight(ranked(1, 2, meta={"weight": 0.25})) == 0.5
    assert objective.weight(ranked(1, 2, annotator="cat")) == 1


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "2", None, True])
def test_a_ranking_of_an_impossible_weight_is_refused(weight):
    with pytest.raises(DataError) as caught:
        uses(ranked(1, 2, meta={"weight": weight}))
    assert str(caught.value) == f"meta 'weight' is {weight!r}; give a number from 0"


@pytest.mark.parametrize("text", ["ann", "ann=", "=1", "ann=-1", "ann=nan", "ann=inf", "ann=1,5"])
def test_an_impossible_annotator_weight_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        RankingObjective(config(annotator_weights=("bob=1", text)), [])
    assert str(caught.value).startswith(f"annotator_weights: {text!r} is not NAME=WEIGHT")
    assert "\n" not in str(caught.value)


def test_a_weight_for_somebody_who_ranked_nothing_is_refused():
    rankings = [ranked(1, 2, annotator="bob"), ranked(1, 2)]
    check_annotators(config(annotator_weights=("bob=2", "(none)=0")), rankings)
    with pytest.raises(ConfigError) as caught:
        check_annotators(config(annotator_weights="ann=0"), rankings)
    expected = "annotator_weights: nobody is called 'ann'; there are (none), bob"
    assert str(caught.value) == expected
