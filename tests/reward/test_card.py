"""The reward card on a scorer that reads its score off the text."""

import itertools
import json
import math
import random
import time
from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from rlhf.records import Demonstration, Prompt, Ranking
from rlhf.reward.card import build_card


def score_texts(pairs):
    """The number that a text starts with, else 0."""
    return torch.tensor([number(text) for _, text in pairs], dtype=torch.float32)


def number(text):
    first = text.split(" ")[0]
    return float(first) if first.lstrip("-").isdigit() else 0.0


def length(text):
    return len(text.split())


def ranked(prompt, ranks, **fields):
    """A ranking from completions with their ranks."""
    return Ranking(Prompt.parse(prompt), tuple(ranks), tuple(ranks.values()), **fields)


def card_of(rankings, score=score_texts, std=1.0, **settings):
    return build_card(score, length, rankings, std=std, **settings)


def by_hand():
    """Pairs 4-3 and 4-2 right, 1-5 wrong; the tie 3-2."""
    return [
        ranked("a", {"4": 1, "3 x": 2, "2 x x": 2}, annotator="ann"),
        ranked("b", {"1 x": 1, "5": 2}),
    ]


def random_rankings(seed, prompts, count=60):
    """Ties, unranked completions, gaps in ranks, repeated prompts and annotators."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        size = rng.randint(2, 9)
        texts = [f"{rng.randint(0, 6)}" + " x" * rng.randint(0, 30) for _ in range(size)]
        ranks = [rng.choice([None, *range(1, size + 1)]) for _ in range(size)]
        ranking = Ranking(
            Prompt.parse(f"p{rng.randrange(prompts)}"),
            tuple(texts),
            tuple(ranks),
            annotator=rng.choice([None, "ann", "bob"]),
            others_worse=rng.random() < 0.3,
        )
        found.append(ranking)
    return found


def slow_pairs(rankings):
    """(ranking, better, worse) texts of every strict pair."""
    return [(r, r.completions[i], r.completions[j]) for r in rankings for i, j in r.strict_pairs()]


def slow_accuracy(pairs, label):
    """``{label: (accuracy, pairs)}``, pair by pair."""
    points = defaultdict(list)
    for ranking, better, worse in pairs:
        lead = number(better) - number(worse)
        points[label(ranking, better, worse)].append(0.5 if lead == 0 else float(lead > 0))
    return {key: (sum(own) / len(own), len(own)) for key, own in points.items()}


def values(section):
    return {name: (item["value"], item["count"]) for name, item in section.items()}


def agrees(section, expected):
    assert values(section) == {key: (pytest.approx(v), n) for key, (v, n) in expected.items()}


def has_json_numbers_only(card):
    json.dumps(card, allow_nan=False)
    return True


def test_accuracy_and_the_length_rules_by_hand():
    card = card_of(by_hand())
    assert card["held_out_prompts"] == card["held_out_rankings"] == 2
    assert card["held_out_pairs"] == 3
    assert card["held_out_ties"] == 1
    # Two prompts: resamples hold a twice (1), b twice (0) or both (2/3).
    assert card["pair_accuracy"] == {"value": pytest.approx(2 / 3), "low": 0, "high": 1, "count": 3}
    assert card["longer_wins"] == pytest.approx(1 / 3)
    assert card["shorter_wins"] == pytest.approx(2 / 3)
    assert card["best_length_rule"] == {"rule": "shorter wins", "value": pytest.approx(2 / 3)}
    # The rule is right and wrong where the scores are, whatever is resampled.
    assert card["over_length_rule"] == {"value": 0, "low": 0, "high": 0, "count": 3}


def test_the_lead_over_a_length_rule_is_paired():
    # Scores are always right; the longer wins in a (1 pair) and loses in b (2 pairs), so that
    # the shorter rule has 2 of 3. Leads: a 1 of 1, b 0 of 2.
    rankings = [ranked("a", {"2 x": 1, "1": 2}), ranked("b", {"3": 1, "2 x": 2, "1 x": 2})]
    lead = card_of(rankings)["over_length_rule"]
    assert lead == {"value": pytest.approx(1 / 3), "low": 0, "high": 1, "count": 3}


def test_a_rule_that_is_never_right_makes_its_opposite_always_right():
    card = card_of([ranked("a", {"2": 1, "1 x": 2}), ranked("b", {"2": 1, "1 x": 2})])
    assert card["best_length_rule"] == {"rule": "shorter wins", "value": 1}
    assert card["longer_wins"] == 0


def test_pairs_are_told_apart_by_the_pool_of_their_task():
    wrong, right = ranked("a", {"2": 2, "1 x": 1}), ranked("b", {"2": 1, "1 x": 2})
    pools = replace(wrong, meta={"pool": "normal"}), replace(right, meta={"pool": "random"})
    assert values(card_of(pools)["by_pool"]) == {"normal": (0, 1), "random": (1, 1)}


def test_breakdowns_by_hand():
    card = card_of(by_hand())
    assert values(card["by_candidates"]) == {"2": (0, 1), "3": (1, 2)}
    assert values(card["by_rank_distance"]) == {"1": (pytest.approx(2 / 3), 3)}
    assert values(card["by_annotator"]) == {"(none)": (0, 1), "ann": (1, 2)}
    assert values(card["by_pool"]) == {"(none)": (pytest.approx(2 / 3), 3)}
    # Differences 1, 2 and 1: two quartiles end at 1, and 2 is the largest.
    assert values(card["by_length"]) == {"1 token": (0.5, 2), "2 tokens and more": (1, 1)}
    assert card["by_length"]["2 tokens and more"]["low"] is None
    assert card["by_length"]["1 token"]["low"] == 0


def test_quartiles_of_the_length_difference_name_their_buckets():
    sizes = [0, 1, 2, 4, 5, 9, 11, 12, 40]
    rankings = [ranked(f"p{i}", {"2": 1, "1" + " x" * size: 2}) for i, size in enumerate(sizes)]
    # Eight that differ: 1 2 | 4 5 | 9 11 | 12 40.
    assert {name: item["count"] for name, item in card_of(rankings)["by_length"].items()} == {
        "same length": 1,
        "1 to 2 tokens": 2,
        "3 to 5 tokens": 2,
        "6 to 11 tokens": 2,
        "12 tokens and more": 2,
    }
    alike = card_of([ranked("a", {"2": 1, "1 x": 2}), ranked("b", {"2": 1, "1 x": 2})])
    assert list(alike["by_length"]) == ["1 token and more"]
    assert list(card_of([ranked("a", {"2": 1, "1": 2})])["by_length"]) == ["same length"]


def test_neighbours_are_one_apart_whatever_the_gap_in_ranks():
    card = card_of([ranked("a", {"3": 1, "2": 3, "1": 3, "9": None, "7": None, "8": None})])
    assert values(card["by_rank_distance"]) == {"1": (1, 2)}
    assert list(card["by_candidates"]) == ["3"]


@pytest.mark.parametrize("seed", range(5))
def test_every_bucket_equals_the_slow_count(seed):
    rankings = random_rankings(seed, prompts=25)
    card, pairs = card_of(rankings), slow_pairs(rankings)
    assert card["held_out_prompts"] == len({r.prompt for r in rankings})
    agrees({"": card["pair_accuracy"]}, slow_accuracy(pairs, lambda *_: ""))

    def candidates(ranking, better, worse):
        return str(sum(rank is not None for rank in ranking.effective_ranks))

    agrees(card["by_candidates"], slow_accuracy(pairs, candidates))
    agrees(card["by_annotator"], slow_accuracy(pairs, lambda r, *_: r.annotator or "(none)"))

    def bucket(ranking, better, worse):
        apart = abs(length(better) - length(worse))
        for name in card["by_length"]:
            if apart == 0 and name == "same length":
                return name
            edges = [int(word) for word in name.split() if word.isdigit()]
            last = math.inf if name.endswith("more") else edges[-1] if edges else -1
            if edges and edges[0] <= apart <= last:
                return name
        raise AssertionError(apart)

    agrees(card["by_length"], slow_accuracy(pairs, bucket))
    assert next(iter(card["by_length"])) == "same length"
    assert len(card["by_length"]) == 5


@pytest.mark.parametrize("seed", range(3))
def test_distances_and_ties_equal_the_slow_count(seed):
    rankings = random_rankings(seed, prompts=25)
    # Texts must differ for a rank to be found by its text.
    rankings = [r for r in rankings if len(set(r.completions)) == len(r.completions)]
    card = card_of(rankings)

    def distance(ranking, better, worse):
        ranks = dict(zip(ranking.completions, ranking.effective_ranks, strict=True))
        between = {r for r in ranks.values() if r and ranks[better] < r <= ranks[worse]}
        return str(len(between))

    agrees(card["by_rank_distance"], slow_accuracy(slow_pairs(rankings), distance))
    ties = sum(
        ranking.ranks[i] is not None and ranking.ranks[i] == ranking.ranks[j]
        for ranking in rankings
        for i in range(len(ranking.ranks))
        for j in range(i)
    )
    assert card["held_out_ties"] == ties


def test_those_called_worse_together_are_no_ties():
    card = card_of([ranked("a", {"3": 1, "2": None, "1": None}, others_worse=True)])
    assert card["held_out_ties"] == 0
    assert card["held_out_pairs"] == 2
    assert card["tie_auc"] is None


def test_rank_correlation_by_hand():
    card = card_of(by_hand())
    # a: 2 of 3 pairs untied by people, all right: 2 / sqrt(3 * 2). b: -1.
    tau = math.sqrt(2 / 3)
    assert card["kendall_tau_b"] == {
        "value": pytest.approx((tau - 1) / 2),
        "low": -1,
        "high": pytest.approx(tau),
        "count": 2,
    }


@pytest.mark.parametrize(("sign", "accuracy"), [(1, 1), (-1, 0)])
def test_a_perfect_scorer_and_its_reverse(sign, accuracy):
    rng = random.Random(0)
    rankings = []
    for i in range(20):
        scores = rng.sample(range(50), 5)
        order = sorted(scores, reverse=True)
        rankings.append(ranked(f"p{i}", {str(s): 1 + order.index(s) for s in scores}))
    card = card_of(rankings, lambda pairs: sign * score_texts(pairs))
    assert values({"": card["pair_accuracy"]}) == {"": (accuracy, 200)}
    tau = card["kendall_tau_b"]
    assert [tau[key] for key in ("value", "low", "high")] == pytest.approx([sign] * 3)
    assert card["calibration"]["temperature"] is None  # 0 and infinite
    assert set(card["by_rank_distance"]) == {"1", "2", "3", "4"}
    assert all(item["value"] == accuracy for item in card["by_rank_distance"].values())
    assert card["held_out_ties"] == 0
    assert card["tie_auc"] is None
    assert has_json_numbers_only(card)


def test_calibration_is_that_of_raw_scores():
    found = card_of(by_hand(), std=2.0)["calibration"]
    # Margins 1, 2 and -4 times 2; one bin for each pair.
    small, middle, large = (1 / (1 + math.exp(-x)) for x in (2, 4, 8))
    expected = [[small, 1, 1], [middle, 1, 1], [large, 0, 1]]
    assert found["curve"] == [pytest.approx(row) for row in expected]
    assert found["ece"] == pytest.approx((1 - small + 1 - middle + large) / 3)
    assert found["temperature"] is None


def test_the_temperature_is_in_units_of_raw_scores():
    rankings = [ranked(p, {"1": 1, "0": 2}) for p in "ab"] + [ranked("c", {"0": 1, "1": 2})]
    # Margins 1, 1, -1, times 3: sigmoid(3 / T) is 2/3.
    found = card_of(rankings, std=3.0)["calibration"]
    assert found["temperature"] == pytest.approx(3 / math.log(2))


def test_tie_auc_by_hand():
    # |tied| 1 against |strict| 1, 2, 4: one equal, two larger.
    assert card_of(by_hand())["tie_auc"] == pytest.approx(2.5 / 3)
    assert card_of(by_hand(), std=7.0)["tie_auc"] == pytest.approx(2.5 / 3)


def test_scores_and_lengths_are_centered_within_prompts():
    # a: scores 1 0 -1, lengths -1 0 1. b: scores -2 2, lengths .5 -.5. -4 / sqrt(10 * 2.5).
    rankings = by_hand()
    assert card_of(rankings)["score_length_correlation"] == pytest.approx(-0.8)

    def shifted(pairs):
        return score_texts(pairs) + torch.tensor([100.0 * (p.text == "a") for p, _ in pairs])

    # One more annotator of the same completions changes nothing, nor does a prompt's own level.
    again = card_of([*rankings, rankings[0]], shifted)
    assert again["score_length_correlation"] == pytest.approx(-0.8)


def test_scores_of_completions_and_demonstrations():
    demos = [Demonstration(Prompt.parse(p), text) for p, text in (("a", "6 x x"), ("z", "2"))]
    card = card_of(by_hand(), demonstrations=demos)
    # Completions 4 3 2 1 5: mean 3, squares 4 + 1 + 1 + 4 + 0 over 5.
    assert card["scores"] == {
        "demonstrations": {"mean": 4, "std": 2, "count": 2},
        "completions": {"mean": 3, "std": pytest.approx(math.sqrt(2)), "count": 5},
    }


def test_probes_by_hand():
    demos = [Demonstration(Prompt.parse("a"), "6 x x"), Demonstration(Prompt.parse("z"), "2")]
    probes = card_of(by_hand(), demonstrations=demos)["probes"]
    # References: the demonstration of a, 6, and the best-ranked of b, "1 x".
    assert probes["reference"] == {"mean": 3.5, "count": 2}
    worse = {"value": 3.5, "low": 1, "high": 6, "count": 2}
    for name in ("empty", "copied prompt", "thanks", "refusal"):
        assert probes[name] == {"mean": 0, "count": 2, "margin": worse}
    # The first word keeps the number, and so do repeats.
    alike = {"mean": 3.5, "count": 2, "margin": {"value": 0, "low": 0, "high": 0, "count": 2}}
    assert probes["truncated"] == probes["repeated"] == alike


def test_a_variant_that_no_prompt_has_is_empty():
    probes = card_of([ranked("a", {"1": 1, "0": 2})])["probes"]
    nothing = {"value": None, "low": None, "high": None, "count": 0}
    assert probes["truncated"] == {"mean": None, "count": 0, "margin": nothing}
    assert probes["empty"]["margin"] == {"value": 1, "low": None, "high": None, "count": 1}


def test_agreement_takes_completions_in_any_order():
    held = ranked("a", {"3": 1, "2": 2, "1": 3}, annotator="ann")
    other = ranked("a", {"1": 2, "3": 1, "2": 3}, annotator="bob")
    alone = ranked("b", {"3": 1, "2": 2}, annotator="ann")
    found = card_of([held], rankings_for_agreement=[held, other, alone])["agreement"]
    # 3-2 and 3-1 agree, 2-1 does not; one prompt gives no interval.
    assert found == {"value": pytest.approx(2 / 3), "low": None, "high": None, "count": 3}
    # In b both pairs disagree: 1 of 2 prompts, weighted 3 to 1.
    reverse = ranked("b", {"2": 1, "3": 2}, annotator="bob")
    found = card_of([], rankings_for_agreement=[held, other, alone, reverse])["agreement"]
    assert found == {"value": 0.5, "low": 0, "high": pytest.approx(2 / 3), "count": 4}


def test_nobody_agrees_with_themselves():
    first = ranked("a", {"3": 1, "2": 2}, annotator="ann")
    again = ranked("a", {"2": 1, "3": 2}, annotator="ann")
    bob = ranked("a", {"2": 1, "3": 2}, annotator="bob")
    skipped = ranked("a", {"3": 1, "2": 2}, annotator="cat", action="cannot_judge")

    def agreement(*rankings):
        found = card_of([], rankings_for_agreement=rankings)["agreement"]
        return found["value"], found["count"]

    assert agreement(first, again) == (None, 0)
    assert agreement(first, again, bob) == (1, 1)
    assert agreement(first, skipped) == (None, 0)
    # What bob was not shown he did not order.
    assert agreement(first, ranked("a", {"1": 1, "3": 2}, annotator="bob")) == (None, 0)
    planned = {"meta": {"planned": 2, "submitted_at": "2026-01-01T00:00:00.000Z"}}
    asked = {"meta": {"planned": 2, "submitted_at": "2026-01-02T00:00:00.000Z"}}
    third = ranked("a", {"3": 1, "2": 2}, annotator="cat", **asked)
    first, bob = replace(first, **planned), replace(bob, **planned)
    assert agreement(third, first, bob) == (0, 1)
    nameless = ranked("a", {"3": 1, "2": 2})
    assert agreement(nameless, nameless) == (1, 1)


def test_two_annotators_of_a_prompt_are_one_unit():
    once = random_rankings(3, prompts=60)
    first, second = card_of(once), card_of(once * 2)
    for name in ("pair_accuracy", "kendall_tau_b", "over_length_rule"):
        assert second[name]["count"] == 2 * first[name]["count"]
        for end in ("value", "low", "high"):
            assert second[name][end] == pytest.approx(first[name][end])


def test_each_completion_is_scored_once_beside_those_of_its_prompt():
    calls = []

    def score(pairs):
        calls.append(list(pairs))
        return score_texts(pairs)

    rankings = random_rankings(0, prompts=10)
    demos = [Demonstration(Prompt.parse(f"p{i}"), "3 x") for i in range(5)]
    card_of(rankings, score, demonstrations=demos)
    (rows,) = calls
    assert len(set(rows)) == len(rows)
    prompts = [prompt for prompt, _ in rows]
    changes = sum(a != b for a, b in itertools.pairwise(prompts))
    assert changes == len(set(prompts)) - 1


def test_nothing_held_out_gives_an_empty_card():
    def never(pairs):
        raise AssertionError("nothing to score")

    nothing = {"value": None, "low": None, "high": None, "count": 0}
    card = card_of([], never)
    probes = card.pop("probes")
    assert card == {
        "held_out_prompts": 0,
        "held_out_rankings": 0,
        "held_out_pairs": 0,
        "held_out_ties": 0,
        "pair_accuracy": nothing,
        "over_length_rule": nothing,
        "longer_wins": None,
        "shorter_wins": None,
        "best_length_rule": {"rule": "longer wins", "value": None},
        "by_candidates": {},
        "by_rank_distance": {},
        "by_annotator": {},
        "by_pool": {},
        "by_length": {},
        "kendall_tau_b": nothing,
        "calibration": {"curve": [], "ece": None, "temperature": None},
        "tie_auc": None,
        "score_length_correlation": None,
        "scores": {
            "demonstrations": None,
            "completions": {"mean": None, "std": None, "count": 0},
        },
        "agreement": nothing,
    }
    assert probes.pop("reference") == {"mean": None, "count": 0}
    assert set(probes) == {
        "empty", "truncated", "repeated", "copied prompt", "thanks", "refusal"
    }  # fmt: skip
    for probe in probes.values():
        assert probe == {"mean": None, "count": 0, "margin": nothing}


def test_a_single_prompt_has_no_interval():
    card = card_of(by_hand()[:1])
    assert card["pair_accuracy"] == {"value": 1, "low": None, "high": None, "count": 2}
    assert card["kendall_tau_b"]["low"] is None
    assert has_json_numbers_only(card)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_scores_that_say_nothing_still_make_a_card(value):
    card = card_of(by_hand(), lambda pairs: torch.full((len(pairs),), value))
    assert has_json_numbers_only(card)
    if value == 0:
        assert card["pair_accuracy"]["value"] == 0.5
        assert card["kendall_tau_b"]["value"] is None


def test_rankings_without_an_order_make_a_card():
    card = card_of([ranked("a", {"3": 1, "2": 1}), ranked("b", {"3": None, "2": None})])
    assert has_json_numbers_only(card)
    assert card["held_out_pairs"] == 0
    assert card["held_out_ties"] == 1
    assert card["pair_accuracy"]["value"] is None


def test_a_thousand_rankings_of_nine_take_a_moment():
    rng = random.Random(0)
    rankings = [
        Ranking(
            Prompt.parse(f"p{i}"),
            tuple(f"{rng.randrange(999)}" + " x" * rng.randrange(40) for _ in range(9)),
            tuple(rng.sample(range(1, 10), 9)),
            annotator=f"annotator {i % 20}",
        )
        for i in range(1000)
    ]
    start = time.process_time()
    card = card_of(rankings, rankings_for_agreement=rankings)
    assert time.process_time() - start < 5  # about 0.3 s; the bound is for busy machines
    assert card["held_out_pairs"] == 36000
