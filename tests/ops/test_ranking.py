import itertools
import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from rlhf.ops.ranking import (
    all_bad_loss,
    annotator_error_loss,
    bradley_terry_loss,
    centering_penalty,
    davidson_log_probs,
    davidson_loss,
    error_shrinkage,
    mean_over_rankings,
    place_unranked,
    plackett_luce_loss,
    rao_kupper_log_probs,
    rao_kupper_loss,
    strength_margins,
    strict_pairs,
    tied_pairs,
)

SCORES = torch.tensor([[2.0, 0.5, 1.0, -1.0]], dtype=torch.float64)
ETA = torch.tensor(math.log(1.5), dtype=torch.float64)
LOG_NU = torch.tensor(0.3, dtype=torch.float64)
ERRORS = torch.tensor([-2.0, -0.5], dtype=torch.float64)


def annotator_error(scores, ranks):
    return annotator_error_loss(scores, ranks, ERRORS.to(scores), torch.arange(len(scores)) % 2)


LOSSES = {
    "bradley_terry": bradley_terry_loss,
    "bradley_terry_soft": lambda s, r: bradley_terry_loss(
        s, r, soft_ties=True, label_smoothing=0.1
    ),
    "annotator_error": annotator_error,
    "rao_kupper": lambda s, r: rao_kupper_loss(s, r, ETA.to(s)),
    "davidson": lambda s, r: davidson_loss(s, r, LOG_NU.to(s)),
    "plackett_luce": plackett_luce_loss,
}
MEMBERS = torch.tensor([[True] * 4, [True, True, True, False]])
"""Rows of up to four candidates, for what needs no order."""
PLACES = {
    "centering": centering_penalty,
    "all_bad": lambda s, b: all_bad_loss(s, b, threshold=0.5),
}


def rankings(count=20, size=5, seed=3):
    """Scores with ranks that hold ties, gaps and unranked candidates."""
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, size, generator=rng, dtype=torch.float64)
    return scores, torch.randint(0, size, (count, size), generator=rng)


# -- pairs


def test_pairs_by_hand():
    ranks = torch.tensor([[1, 3, 3, 0]])
    assert strict_pairs(ranks)[0].nonzero().tolist() == [[0, 1], [0, 2]]
    assert tied_pairs(ranks)[0].nonzero().tolist() == [[1, 2]]
    assert not tied_pairs(ranks, torch.tensor([[False, True, True, False]])).any()
    assert tied_pairs(ranks, torch.tensor([[False, True, False, False]])).sum() == 1


def test_unranked_go_last_only_where_all_others_are_worse():
    ranks = torch.tensor([[1, 2, 0, 0, 0], [1, 2, 0, 0, 0], [0, 0, 0, 0, 0]])
    candidates = torch.tensor([[True] * 4 + [False]] * 3)
    placed, unordered = place_unranked(ranks, candidates, torch.tensor([True, False, True]))
    assert placed.tolist() == [[1, 2, 3, 3, 0], [1, 2, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert unordered.tolist() == [[0, 0, 1, 1, 0], [0] * 5, [1, 1, 1, 1, 0]]
    # Two ranked above two unordered: 1 + 2 * 2 strict pairs, and no tie.
    loss, counts = bradley_terry_loss(
        torch.zeros(3, 5), placed, soft_ties=True, unordered=unordered
    )
    assert counts.tolist() == [5, 1, 0]
    assert loss[2] == 0


def test_margins_add_up_over_the_tiers_between():
    # Tiers {0}, {1, 2}, {4}, {3} with gaps in the ranks and strengths 3, 1 and 2.
    ranks = torch.tensor([[1, 3, 3, 6, 4, 0], [2, 1, 0, 0, 0, 0]])
    strengths = torch.tensor([[3.0, 1.0, 2.0], [2.0, math.nan, math.nan]])
    margins = strength_margins(ranks, strengths)
    expected = torch.zeros(2, 6, 6)
    expected[0, 0] = torch.tensor([0.0, 3.0, 3.0, 6.0, 4.0, 0.0])
    expected[0, 1] = expected[0, 2] = torch.tensor([0.0, 0.0, 0.0, 3.0, 1.0, 0.0])
    expected[0, 4, 3] = 2.0
    expected[1, 1, 0] = 2.0
    assert torch.equal(margins, expected)


def test_tiers_without_a_strength_have_no_margin():
    ranks = torch.tensor([[1, 2, 3]])
    margins = strength_margins(ranks, torch.tensor([[2.0]]))
    assert margins[0].tolist() == [[0, 2, 2], [0, 0, 0], [0, 0, 0]]
    assert strength_margins(ranks, torch.zeros(1, 0)).sum() == 0
    wide = strength_margins(ranks, torch.tensor([[2.0, 1.0, 9.0, 9.0, 9.0]]))
    assert wide[0].tolist() == [[0, 2, 3], [0, 0, 1], [0, 0, 0]]


# -- Bradley-Terry


@pytest.mark.parametrize(
    ("ranks", "smoothing", "expected", "pairs"),
    [
        ([1, 2, 3, 4], 0.0, 0.3109467650, 6),
        ([1, 2, 2, 3], 0.0, 0.1783207212, 5),
        ([1, 2, 3, 4], 0.1, 0.4526134317, 6),
        ([1, 0, 2, 0], 0.0, math.log1p(math.exp(-1.0)), 1),
        ([1, 1, 1, 1], 0.0, 0.0, 0),
    ],
)
def test_bradley_terry_golden(ranks, smoothing, expected, pairs):
    loss, counts = bradley_terry_loss(SCORES, torch.tensor([ranks]), label_smoothing=smoothing)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert counts.item() == pairs


def test_bradley_terry_equals_the_pairs_one_by_one():
    scores, ranks = rankings()
    loss, counts = bradley_terry_loss(scores, ranks, label_smoothing=0.05)
    for row in range(20):
        pairs = reference.pair_losses(scores[row].tolist(), ranks[row].tolist(), 0.05)
        assert counts[row].item() == len(pairs)
        assert loss[row].item() == pytest.approx(sum(pairs) / max(1, len(pairs)), rel=1e-12)


def test_bradley_terry_gradient_is_finite_with_padding_and_without_pairs():
    scores = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    loss, _ = bradley_terry_loss(scores, torch.tensor([[1, 0], [1, 2]]))
    loss.sum().backward()
    # One pair at margin 0: gradient -+ sigmoid(0) = -+ 1/2.
    assert scores.grad.tolist() == [[0, 0], [-0.5, 0.5]]


def test_soft_ties_are_labels_of_one_half():
    loss, counts = bradley_terry_loss(SCORES, torch.tensor([[1, 2, 2, 3]]), soft_ties=True)
    # Five strict pairs as in the golden one, and softplus(-.5) / 2 + softplus(.5) / 2.
    tie = 0.5 * math.log1p(math.exp(-0.5)) + 0.5 * math.log1p(math.exp(0.5))
    assert loss.item() == pytest.approx((5 * 0.1783207212 + tie) / 6, rel=1e-9)
    assert counts.item() == 6
    # A tie pulls together: at equal scores its gradient is 0.
    scores = torch.zeros(1, 2, requires_grad=True)
    bradley_terry_loss(scores, torch.tensor([[1, 1]]), soft_ties=True)[0].sum().backward()
    assert scores.grad.tolist() == [[0, 0]]


def test_smoothing_leaves_ties_alone():
    ranks = torch.tensor([[1, 1, 1, 1]])
    loss, _ = bradley_terry_loss(SCORES, ranks, soft_ties=True)
    smooth, _ = bradley_terry_loss(SCORES, ranks, soft_ties=True, label_smoothing=0.2)
    assert torch.equal(loss, smooth)


def test_a_margin_moves_the_lead_that_is_asked_for():
    # Lead 1.5, margin .7: softplus(-(1.5 - .7)); what stands at [worse, better] is not read.
    scores, ranks = SCORES[:, :2], torch.tensor([[1, 2]])
    margins = torch.tensor([[[math.nan, 0.7], [math.inf, math.nan]]])
    loss, _ = bradley_terry_loss(scores, ranks, margins=margins)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.8)), rel=1e-7)
    smooth, _ = bradley_terry_loss(scores, ranks, margins=margins, label_smoothing=0.25)
    expected = 0.75 * math.log1p(math.exp(-0.8)) + 0.25 * math.log1p(math.exp(0.8))
    assert smooth.item() == pytest.approx(expected, rel=1e-7)


def test_margins_are_read_at_strict_pairs_only():
    scores, ranks = torch.zeros(1, 3, requires_grad=True), torch.tensor([[1, 2, 2]])
    margins = torch.full((1, 3, 3), math.nan)
    margins[0, 0, 1:] = 1.0
    loss, _ = bradley_terry_loss(scores, ranks, margins=margins, soft_ties=True)
    loss.sum().backward()
    # Two pairs at softplus(1), pulled by sigmoid(1), and a tie at log 2.
    assert loss.item() == pytest.approx((2 * math.log1p(math.e) + math.log(2)) / 3, rel=1e-6)
    pull = 1 / (1 + math.exp(-1.0)) / 3
    assert scores.grad[0].tolist() == pytest.approx([-2 * pull, pull, pull], rel=1e-6)


def test_pair_weights_make_a_weighted_mean():
    scores, ranks = SCORES[:, :3], torch.tensor([[1, 3, 2]])
    weights = torch.full((1, 3, 3), math.nan)
    weights[0, 0, 1], weights[0, 0, 2], weights[0, 2, 1] = 3.0, 0.0, 1.0
    loss, counts = bradley_terry_loss(scores, ranks, pair_weights=weights)
    # Leads 1.5 and .5 of the pairs with weight 3 and 1.
    expected = (3 * math.log1p(math.exp(-1.5)) + math.log1p(math.exp(-0.5))) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-7)
    assert counts.item() == 3
    zero, _ = bradley_terry_loss(scores, ranks, pair_weights=torch.zeros(1, 3, 3))
    assert zero.item() == 0


def test_pair_weights_of_one_change_nothing():
    scores, ranks = rankings()
    ones = torch.ones(20, 5, 5)
    models = [
        lambda **kwargs: bradley_terry_loss(scores, ranks, **kwargs),
        lambda **kwargs: rao_kupper_loss(scores, ranks, ETA, **kwargs),
        lambda **kwargs: davidson_loss(scores, ranks, LOG_NU, **kwargs),
        lambda **kwargs: annotator_error_loss(
            scores, ranks, ERRORS, torch.zeros(20, dtype=torch.long), **kwargs
        ),
    ]
    for model in models:
        for one, other in zip(model(), model(pair_weights=ones), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


# -- annotators' errors


def test_annotator_error_by_hand():
    # Lead 1.5 for annotator 1 with e = sigmoid(-.5), and -1.5 for annotator 0 with sigmoid(-2).
    scores = torch.tensor([[1.5, 0.0], [0.0, 1.5]], dtype=torch.float64)
    ranks = torch.tensor([[1, 2], [1, 2]])
    loss, counts = annotator_error_loss(scores, ranks, ERRORS, torch.tensor([1, 0]))
    expected = []
    for lead, logit in ((1.5, -0.5), (-1.5, -2.0)):
        error = 1 / (1 + math.exp(-logit))
        expected.append(-math.log((1 - error) / (1 + math.exp(-lead)) + error / 2))
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)
    assert counts.tolist() == [1, 1]


@pytest.mark.parametrize("logit", [-math.inf, -60.0])
def test_an_annotator_without_errors_is_bradley_terry(logit):
    scores, ranks = rankings()
    logits = torch.tensor([logit], dtype=torch.float64)
    loss, _ = annotator_error_loss(scores, ranks, logits, torch.zeros(20, dtype=torch.long))
    torch.testing.assert_close(loss, bradley_terry_loss(scores, ranks)[0], rtol=1e-12, atol=0)


def test_a_wrong_pair_of_a_careless_annotator_pulls_little():
    # At a lead of -100 the answer was the coin's: loss log(2 / e), no pull on the scores.
    scores = torch.tensor([[-100.0, 0.0]], requires_grad=True)
    logits = torch.tensor([0.0])
    loss, _ = annotator_error_loss(
        scores, torch.tensor([[1, 2]]), logits, torch.zeros(1, dtype=torch.long)
    )
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(4), rel=1e-6)
    assert scores.grad.abs().max() < 1e-30


def test_shrinkage_is_a_normal_prior():
    # ((-2 + 3)^2 + (-.5 + 3)^2) / (2 * .5^2).
    assert error_shrinkage(ERRORS, center=-3.0, std=0.5).item() == pytest.approx(14.5)
    assert error_shrinkage(ERRORS[:0], center=-3.0, std=0.5).item() == 0


# -- ties as outcomes


def test_rao_kupper_golden():
    outcomes = rao_kupper_log_probs(torch.tensor(1.5, dtype=torch.float64), ETA)
    found = [p.exp().item() for p in outcomes]
    assert found == pytest.approx([0.74923471, 0.12127411, 0.12949118], abs=1e-8)


def test_davidson_golden():
    outcomes = davidson_log_probs(torch.tensor(1.5, dtype=torch.float64), torch.zeros(()))
    found = [p.exp().item() for p in outcomes]
    assert found == pytest.approx([0.58979766, 0.27860069, 0.13160165], abs=1e-8)


def test_a_threshold_of_100_is_finite():
    eta = torch.tensor(100.0, requires_grad=True)
    outcomes = rao_kupper_log_probs(torch.tensor(1.5), eta)
    # Nearly always a tie: its probability falls short of 1 by about 2 e^-100 cosh(1.5).
    assert [p.item() for p in outcomes] == pytest.approx([-98.5, 0.0, -101.5], abs=1e-4)
    sum(outcomes).backward()
    # Slopes: -1 for win and for lose, 0 for the tie.
    assert eta.grad.item() == pytest.approx(-2.0, rel=1e-6)


@given(lead=st.floats(-300, 300), parameter=st.floats(1e-4, 20))
def test_win_tie_and_lose_sum_to_1(lead, parameter):
    leads, value = (torch.tensor(x, dtype=torch.float64) for x in (lead, parameter))
    for outcomes in (
        rao_kupper_log_probs(leads, value),
        davidson_log_probs(leads, value),
        davidson_log_probs(leads, -value),
    ):
        assert sum(p.exp().item() for p in outcomes) == pytest.approx(1.0, abs=1e-12)
        assert all(p.isfinite() for p in outcomes)


def test_without_ties_both_are_bradley_terry():
    scores, _ = rankings()
    ranks = torch.rand(20, 5, generator=torch.Generator().manual_seed(0)).argsort(1) + 1
    expected = bradley_terry_loss(scores, ranks)
    eta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    log_nu = torch.tensor(-math.inf, dtype=torch.float64, requires_grad=True)
    for found, parameter in (
        (rao_kupper_loss(scores, ranks, eta), eta),
        (davidson_loss(scores, ranks, log_nu), log_nu),
    ):
        torch.testing.assert_close(found[0], expected[0], rtol=1e-12, atol=0)
        assert torch.equal(found[1], expected[1])
        found[0].sum().backward()
        assert parameter.grad.isfinite()


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_tie_models_equal_the_pairs_one_by_one(name):
    scores, ranks = rankings()
    loss, counts = LOSSES[name](scores, ranks)
    outcomes = {
        "rao_kupper": lambda lead: reference.rao_kupper(lead, 1.5),
        "davidson": lambda lead: reference.davidson(lead, math.exp(0.3)),
    }
    for row in range(20):
        pairs = reference.outcome_losses(scores[row].tolist(), ranks[row].tolist(), outcomes[name])
        assert counts[row].item() == len(pairs)
        assert loss[row].item() == pytest.approx(sum(pairs) / max(1, len(pairs)), rel=1e-12)


def test_unordered_candidates_are_no_tie():
    scores, ranks = SCORES, torch.tensor([[1, 2, 2, 0]])
    unordered = torch.tensor([[False, True, True, False]])
    for loss, counts in (
        rao_kupper_loss(scores, ranks, ETA, unordered=unordered),
        davidson_loss(scores, ranks, LOG_NU, unordered=unordered),
    ):
        assert counts.item() == 2
        assert loss.item() < 1
    both, _ = bradley_terry_loss(scores, ranks, soft_ties=True, unordered=unordered)
    assert torch.equal(both, bradley_terry_loss(scores, ranks)[0])


# -- Plackett-Luce


def test_plackett_luce_golden():
    loss, counts = plackett_luce_loss(SCORES, torch.tensor([[1, 2, 3, 4]]))
    assert loss.item() == pytest.approx(1.6770668288, rel=1e-10)
    assert counts.item() == 3


def test_plackett_luce_of_two_is_bradley_terry():
    scores, ranks = rankings(size=2, seed=1)
    for one, other in zip(
        plackett_luce_loss(scores, ranks), bradley_terry_loss(scores, ranks), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)


def test_plackett_luce_equals_the_sum_over_orders():
    scores, ranks = rankings(count=30)
    loss, counts = plackett_luce_loss(scores, ranks)
    for row in range(30):
        own = ranks[row].tolist()
        chance = reference.plackett_luce(scores[row].tolist(), own)
        assert loss[row].item() == pytest.approx(-math.log(chance), rel=1e-12, abs=1e-12)
        above = [a for a in own if a and any(b > a for b in own)]
        assert counts[row].item() == len(above)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_plackett_luce_sums_to_1_over_all_rankings(size):
    orders = torch.tensor(list(itertools.permutations(range(1, size + 1))))
    scores = rankings(count=1, size=size)[0].expand(len(orders), -1)
    loss, _ = plackett_luce_loss(scores, orders)
    assert loss.neg().exp().sum().item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("tiers", [[1, 2, 2, 3], [1, 1, 2, 2, 2], [1, 1, 1, 2], [1, 2, 3, 3, 3]])
def test_plackett_luce_sums_to_1_over_all_ways_to_fill_the_tiers(tiers):
    ways = torch.tensor(sorted(set(itertools.permutations(tiers))))
    scores = rankings(count=1, size=len(tiers))[0].expand(len(ways), -1)
    loss, _ = plackett_luce_loss(scores, ways)
    assert loss.neg().exp().sum().item() == pytest.approx(1.0, rel=1e-12)


def test_the_last_tier_is_only_chosen_against():
    # The best of four, the rest unordered: one softmax.
    loss, counts = plackett_luce_loss(SCORES, torch.tensor([[2, 1, 2, 2]]))
    assert loss.item() == pytest.approx(-SCORES.log_softmax(dim=1)[0, 1].item(), rel=1e-12)
    assert counts.item() == 1


def test_plackett_luce_says_how_many_candidates_it_takes():
    with pytest.raises(ValueError, match="at most 16 candidates, got 17"):
        plackett_luce_loss(torch.zeros(1, 17), torch.ones(1, 17, dtype=torch.long))


def test_plackett_luce_of_nine_in_one_tier_pair():
    # Nine candidates as records allow, five tied above four, all equal: one of C(9, 5) splits.
    ranks = torch.tensor([[1] * 5 + [2] * 4])
    loss, _ = plackett_luce_loss(torch.zeros(1, 9), ranks)
    assert loss.item() == pytest.approx(math.log(math.comb(9, 5)), rel=1e-6)


# -- where scores lie


def test_centering_by_hand():
    # Sums 2.5, 3, 1 (1.5 with 2, 0 and -.5 with the fourth): squares 6.25 9 1 2.25 .25 0 over 6.
    scores = SCORES.expand(2, -1)
    penalty, counts = centering_penalty(scores, MEMBERS)
    assert penalty.tolist() == pytest.approx([(6.25 + 9 + 1 + 2.25 + 0.25 + 0) / 6, 17.5 / 3])
    assert counts.tolist() == [6, 3]
    alone, none = centering_penalty(scores[:1], torch.tensor([[True, False, False, False]]))
    assert (alone.item(), none.item()) == (0, 0)


def test_all_bad_by_hand():
    bad = torch.tensor([[True, False, True, False], [False] * 4])
    loss, counts = all_bad_loss(SCORES.expand(2, -1), bad, threshold=0.5)
    expected = (math.log1p(math.exp(1.5)) + math.log1p(math.exp(0.5))) / 2
    assert loss.tolist() == pytest.approx([expected, 0.0], rel=1e-12)
    assert counts.tolist() == [2, 0]


def test_mean_over_rankings_by_hand():
    loss, counts = torch.tensor([1.0, 0.0, 4.0]), torch.tensor([6, 0, 1])
    assert mean_over_rankings(loss, counts).item() == 2.5
    # (1 * 1 + 4 * .5) / 1.5.
    weights = torch.tensor([1.0, 7.0, 0.5])
    assert mean_over_rankings(loss, counts, weights).item() == pytest.approx(2.0)
    assert mean_over_rankings(loss, torch.zeros(3)).item() == 0


# -- what all of them keep


@pytest.mark.parametrize("name", LOSSES)
def test_only_differences_of_scores_matter(name):
    scores, ranks = rankings()
    torch.testing.assert_close(
        LOSSES[name](scores + 3.0, ranks), LOSSES[name](scores, ranks), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("name", PLACES)
def test_centering_and_anchors_see_a_shift(name):
    scores = SCORES.expand(2, -1)
    assert (PLACES[name](scores + 3.0, MEMBERS)[0] - PLACES[name](scores, MEMBERS)[0] > 0.1).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_columns_does_not_matter(name):
    scores, ranks = rankings()
    order = [2, 0, 4, 3, 1]
    torch.testing.assert_close(
        LOSSES[name](scores[:, order], ranks[:, order]),
        LOSSES[name](scores, ranks),
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_tied_candidates_may_change_places(name):
    scores = torch.tensor([[2.0, 0.5, 1.0, -1.0]], dtype=torch.float64)
    swapped = scores[:, [0, 2, 1, 3]]
    ranks = torch.tensor([[1, 2, 2, 3]])
    torch.testing.assert_close(
        LOSSES[name](swapped, ranks), LOSSES[name](scores, ranks), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gaps_in_the_ranks_do_not_matter(name):
    one = LOSSES[name](SCORES, torch.tensor([[1, 2, 2, 3]]))
    other = LOSSES[name](SCORES, torch.tensor([[2, 4, 4, 7]]))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def value_and_gradient(loss, scores, given):
    scores = scores.clone().requires_grad_()
    found, counts = loss(scores, given)
    found.sum().backward()
    return found.detach(), counts, scores.grad


@pytest.mark.parametrize("junk", [7.0, -1e6, math.inf, math.nan])
@pytest.mark.parametrize("name", [*LOSSES, *PLACES])
def test_what_stands_at_padding_changes_not_a_bit(name, junk):
    scores, ranks = rankings()
    given = ranks if name in LOSSES else ranks > 0
    loss = (LOSSES | PLACES)[name]
    clean = value_and_gradient(loss, scores, given)
    dirty = value_and_gradient(loss, scores.masked_fill(ranks == 0, junk), given)
    assert all(torch.equal(one, other) for one, other in zip(clean, dirty, strict=True))
    assert (clean[2][ranks == 0] == 0).all()


@pytest.mark.parametrize("name", [*LOSSES, *PLACES])
def test_more_padding_changes_nothing(name):
    scores, ranks = rankings()
    given = ranks if name in LOSSES else ranks > 0
    loss = (LOSSES | PLACES)[name]
    wide = loss(F.pad(scores, (0, 2), value=math.nan), F.pad(given, (0, 2)))
    torch.testing.assert_close(wide, loss(scores, given), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ranks", [[1, 2, 3], [3, 2, 1], [1, 1, 2], [2, 1, 1], [1, 1, 1]])
def test_leads_of_100_are_finite_in_value_and_gradient(name, ranks, dtype):
    scores = torch.tensor([[200.0, 100.0, 0.0]], dtype=dtype)
    loss, _, gradient = value_and_gradient(LOSSES[name], scores, torch.tensor([ranks]))
    assert loss.dtype == gradient.dtype == dtype
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    if ranks == [3, 2, 1] and name in ("bradley_terry", "rao_kupper"):
        # Leads -100, -100, -200, each lost in full: gradients -+ 2/3 at the ends.
        assert gradient[0].tolist() == pytest.approx([2 / 3, 0, -2 / 3], abs=1e-6)
        assert loss.item() == pytest.approx(400 / 3, rel=0.01)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name):
    scores, ranks = rankings(count=4, size=4, seed=8)
    assert (ranks == 0).any()
    assert tied_pairs(ranks).any()
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, ranks)[0], scores)


@pytest.mark.parametrize("name", PLACES)
def test_gradients_of_places_equal_finite_differences(name):
    scores = SCORES.repeat(2, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: PLACES[name](s, MEMBERS)[0], scores)


def test_gradients_of_what_is_learnt_beside_the_scores():
    scores, ranks = rankings(count=4, size=4, seed=8)
    annotators = torch.tensor([0, 1, 1, 0])
    eta, log_nu, errors = (x.clone().requires_grad_() for x in (ETA, LOG_NU, ERRORS))
    check = torch.autograd.gradcheck
    assert check(lambda x: rao_kupper_loss(scores, ranks, x)[0], eta)
    assert check(lambda x: davidson_loss(scores, ranks, x)[0], log_nu)
    assert check(lambda x: annotator_error_loss(scores, ranks, x, annotators)[0], errors)
    assert check(lambda x: error_shrinkage(x, center=-2.0, std=0.7), errors)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), size=st.integers(2, 5))
def test_plackett_luce_is_a_probability(seed, size):
    scores, ranks = rankings(count=8, size=size, seed=seed)
    assert (plackett_luce_loss(3 * scores, ranks)[0] >= -1e-12).all()


# -- planted utilities come back

ITEMS = torch.linspace(-2.0, 2.0, 12, dtype=torch.float64)


def fit(loss, *others):
    """Utilities of the items, and other parameters, that minimise a loss."""
    utilities = torch.zeros_like(ITEMS).requires_grad_()
    parameters = [utilities, *(other.requires_grad_() for other in others)]
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(utilities)
        value.backward()
        return value

    optimizer.step(closure)
    return utilities.detach()


def slope_and_correlation(found):
    x, y = ITEMS - ITEMS.mean(), found - found.mean()
    return (float(x @ y / (x @ x)), float(x @ y / (x.norm() * y.norm())))


def draw(count, size, seed):
    """Items of each ranking, without repetition, integer (count, size)."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, len(ITEMS), generator=rng).argsort(dim=1)[:, :size], rng


def gumbel(shape, rng):
    return -torch.empty(shape, dtype=torch.float64).exponential_(generator=rng).log()


@pytest.mark.parametrize("loss", [plackett_luce_loss, bradley_terry_loss])
@pytest.mark.parametrize("kind", ["full", "tied", "top_two"])
def test_utilities_come_back_from_noisy_orders(loss, kind):
    # Plackett-Luce orders are those of utilities plus Gumbel noise. Tiers of fixed sizes say less
    # than the order, not something else. The best two of six: others worse, in no order.
    items, rng = draw(600, 6, seed=4)
    order = (-(ITEMS[items] + gumbel(items.shape, rng))).argsort(dim=1)
    tiers = {"full": [1, 2, 3, 4, 5, 6], "tied": [1, 1, 2, 2, 2, 3], "top_two": [1, 2, 3, 3, 3, 3]}
    ranks = torch.zeros_like(order).scatter(1, order, torch.tensor(tiers[kind]).expand(600, -1))
    found = fit(lambda utilities: mean_over_rankings(*loss(utilities[items], ranks)))
    slope, correlation = slope_and_correlation(found)
    assert correlation > 0.97
    if loss is plackett_luce_loss or kind == "full":
        assert slope == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("planted", [0.4, 1.0])
@pytest.mark.parametrize("model", ["rao_kupper", "davidson"])
def test_utilities_and_the_tie_parameter_come_back(model, planted):
    items, rng = draw(3000, 2, seed=5)
    lead = ITEMS[items[:, 0]] - ITEMS[items[:, 1]]
    planted = torch.tensor(planted, dtype=torch.float64)
    start = torch.zeros((), dtype=torch.float64)
    probabilities = {"rao_kupper": rao_kupper_log_probs, "davidson": davidson_log_probs}[model]
    outcomes = torch.stack(probabilities(lead, planted), dim=1).exp()
    drawn = outcomes.multinomial(1, generator=rng)[:, 0]
    ranks = torch.tensor([[1, 2], [1, 1], [2, 1]])[drawn]

    def loss(utilities):
        scores = utilities[items]
        if model == "davidson":
            return mean_over_rankings(*davidson_loss(scores, ranks, start))
        return mean_over_rankings(*rao_kupper_loss(scores, ranks, F.softplus(start)))

    slope, correlation = slope_and_correlation(fit(loss, start))
    assert correlation > 0.95
    assert slope == pytest.approx(1.0, abs=0.1)
    learnt = start if model == "davidson" else F.softplus(start)
    assert learnt.item() == pytest.approx(planted.item(), abs=0.1)


def test_annotators_errors_come_back():
    errors = torch.tensor([0.02, 0.1, 0.3, 0.6], dtype=torch.float64)
    items, rng = draw(8000, 2, seed=6)
    annotators = torch.arange(8000) % 4
    chance = torch.sigmoid(ITEMS[items[:, 0]] - ITEMS[items[:, 1]])
    chance = (1 - errors[annotators]) * chance + errors[annotators] / 2
    first = torch.rand(8000, generator=rng, dtype=torch.float64) < chance
    ranks = torch.where(first[:, None], torch.tensor([1, 2]), torch.tensor([2, 1]))
    logits = torch.full((4,), -2.0, dtype=torch.float64)

    def loss(utilities):
        found = annotator_error_loss(utilities[items], ranks, logits, annotators)
        return mean_over_rankings(*found) + error_shrinkage(logits, center=-2.0, std=1.5) / 8000

    slope, correlation = slope_and_correlation(fit(loss, logits))
    assert correlation > 0.95
    assert slope == pytest.approx(1.0, abs=0.15)
    assert torch.sigmoid(logits).tolist() == pytest.approx(errors.tolist(), abs=0.1)


def test_all_bad_pulls_scores_below_the_threshold():
    scores = torch.full((1, 3), 4.0, requires_grad=True)
    loss, _ = all_bad_loss(scores, torch.tensor([[True, True, False]]), threshold=1.0)
    loss.sum().backward()
    assert (scores.grad[0, :2] > 0.4).all()
    assert scores.grad[0, 2] == 0
