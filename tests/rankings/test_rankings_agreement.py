"""Agreement: published and hand-made numbers, and what must not change them."""

import math
import random

import pytest

from rlhf.data.agreement import (
    asked_first,
    bootstrap,
    kendall_tau_b,
    krippendorff_alpha,
    measure_agreement,
)
from rlhf.records import Prompt, Ranking


def ranked(prompt, ranks, annotator, completions=("a", "b", "c"), **rest):
    return Ranking(Prompt.parse(prompt), completions[: len(ranks)], ranks, annotator, **rest)


def test_alpha_is_that_of_the_published_example():
    # Krippendorff 2011, section C: four observers, twelve units, nominal: 0.743.
    units = [
        "111",
        "2232",
        "3333",
        "3333",
        "2222",
        "1234",
        "4444",
        "1121",
        "2222",
        "555",
        "11",
        "3",
    ]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_undefined_where_nobody_could_disagree():
    assert math.isnan(krippendorff_alpha(["aa", "aa"]))
    assert math.isnan(krippendorff_alpha(["a", "b"]))
    assert krippendorff_alpha(["aa", "bb"]) == 1.0


def test_people_asked_for_a_disagreement_are_left_out():
    def noted(ranks, annotator, hour, planned=2, **rest):
        meta = {"planned": planned, "submitted_at": f"2026-01-01T{hour:02}:00:00.000Z"}
        return ranked("p", ranks, annotator, meta=meta, **rest)

    third = noted((1, 2), "cyd", 9)
    skip = noted((None, None), "dan", 1, action="skip")
    ann, bob = noted((1, 2), "ann", 7), noted((2, 1), "bob", 8)
    assert asked_first([skip, third, ann, bob]) == [skip, ann, bob]
    assert asked_first([third, ann]) == [third, ann]
    plain = [ranked("p", (1, 2), name) for name in ("ann", "bob", "cyd")]
    assert asked_first(plain) == plain
    odd = [noted((1, 2), "ann", 7, planned="2")]
    assert asked_first(odd) == odd


@pytest.mark.parametrize(
    ("one", "other", "tau"),
    [
        ((1, 2, 2), (1, 2, 3), 2 / math.sqrt(6)),  # two of three pairs, one tie on one side
        ((1, 2, 3), (3, 2, 1), -1.0),
        ((1, 2, 3, 4), (1, 2, 4, 3), 4 / 6),  # five pairs alike, one not
        ((1, None, 2), (1, 2, 3), 1.0),
    ],
)
def test_tau_b_by_hand(one, other, tau):
    assert kendall_tau_b(one, other) == pytest.approx(tau)


def test_tau_b_of_nothing_but_ties_is_undefined():
    assert math.isnan(kendall_tau_b((1, 1, 1), (1, 2, 3)))


def test_two_against_one_by_hand():
    rankings = [
        ranked("p", ranks, name) for name, ranks in (("x", (1, 2)), ("y", (1, 2)), ("z", (2, 1)))
    ]
    found = measure_agreement(rankings)
    assert found.prompts == 1
    # Of three pairs of people, one agrees.
    assert found.strict.value == pytest.approx(1 / 3)
    assert found.tau.value == pytest.approx((1 - 1 - 1) / 3)
    # Both orientations: "++-" and "--+".
    assert found.alpha.value == pytest.approx(krippendorff_alpha(["++-", "--+"]))
    assert found.alpha.value == pytest.approx(1 - 5 * (6 - 2) / (36 - 18))
    assert (found.alpha.low, found.alpha.high) == (-math.inf, math.inf)


def test_alpha_over_pairs_equals_the_general_one_on_written_out_votes():
    rng = random.Random(3)
    texts = ("a", "b", "c", "d")
    rankings, units = [], []
    for number in range(30):
        rows = [tuple(rng.choice((1, 2, 3, None)) for _ in texts) for _ in range(3)]
        rankings += [
            ranked(f"p{number}", row, str(person), texts) for person, row in enumerate(rows)
        ]
        for i in range(4):
            for j in range(4):
                votes = [(row[i] > row[j]) - (row[i] < row[j]) for row in rows if row[i] and row[j]]
                units += [votes] if i != j else []
    found = measure_agreement(rankings, resamples=20)
    assert found.alpha.value == pytest.approx(krippendorff_alpha(units))
    assert found.alpha.low <= found.alpha.value <= found.alpha.high


def test_agreement_sees_texts_and_not_their_order():
    one = [ranked("p", (1, 2), "x"), ranked("p", (1, 2), "y")]
    turned = [one[0], ranked("p", (2, 1), "y", ("b", "a"))]
    assert measure_agreement(one).strict.value == measure_agreement(turned).strict.value == 1.0


def test_what_people_did_not_compare_is_no_vote():
    # Both called b and c worse than a; nobody compared b with c.
    rankings = [ranked("p", (1, None, None), name, others_worse=True) for name in "xy"]
    rankings.append(ranked("p", (None, None, None), "z", action="skip"))
    found = measure_agreement(rankings)
    assert found.strict.value == 1.0
    # Two units of two votes, all alike, in both orientations: "++" and "--".
    assert found.alpha.value == 1.0


def test_nobody_in_common_gives_no_figure():
    found = measure_agreement([ranked("p", (1, 2), "x"), ranked("q", (1, 2), "y")])
    assert found.prompts == 0
    assert all(math.isnan(figure.value) for figure in (found.alpha, found.strict, found.tau))


def test_the_interval_resamples_prompts_and_repeats_by_seed():
    rankings = [
        ranked(f"p{number}", ranks, name)
        for number in range(40)
        for name, ranks in (("x", (1, 2)), ("y", (1, 2) if number % 4 else (2, 1)))
    ]
    found = measure_agreement(rankings)
    assert found == measure_agreement(rankings)
    assert found.strict.value == 0.75
    # The normal interval of a share of 0.75 over 40 prompts: 1.96 * sqrt(0.75 * 0.25 / 40) = 0.134.
    assert found.strict.low == pytest.approx(0.75 - 0.134, abs=0.04)
    assert found.strict.high == pytest.approx(0.75 + 0.134, abs=0.04)


def test_a_bootstrap_of_equal_clusters_has_no_width():
    figure = bootstrap([(1.0, 2.0)] * 5, lambda sums: sums[0] / sums[1], 10, 0)
    assert (figure.value, figure.low, figure.high) == (0.5, 0.5, 0.5)
