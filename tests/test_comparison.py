import pytest

from rlhf.comparison import best_of, distinct_share, mean, paired_change, win_rate


def test_win_rate_compares_every_sample_and_counts_ties_half():
    # First prompt: 1 > 0, 1 > .9 is within the margin (tie), 3 > 0, 3 > .9: 3.5 of 4.
    # Second prompt: 0 < 1 twice over one sample: 0 of 1.
    found = win_rate([[1.0, 3.0], [0.0]], [[0.0, 0.9], [1.0]], margin=0.2)
    assert found.value == pytest.approx((3.5 / 4 + 0) / 2)
    assert found.prompts == 2
    swapped = win_rate([[0.0, 0.9], [1.0]], [[1.0, 3.0], [0.0]], margin=0.2)
    assert swapped.value == pytest.approx(1 - found.value)


def test_win_rate_of_equals_is_half_with_no_spread():
    found = win_rate([[1.0], [2.0]], [[1.0], [2.0]])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_paired_change_is_after_minus_before():
    found = paired_change([[0.0, 2.0], [1.0, 1.0]], [[2.0, 2.0], [4.0, 4.0]])
    # Changes 1 and 3: mean 2, sample deviation sqrt 2, half width 1.96 * sqrt(2 / 2).
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 0.04, 3.96))


def test_best_of_takes_the_highest_scored_of_the_first():
    values, scores = [[10.0, 20.0, 30.0]], [[0.5, 0.7, 0.9]]
    assert best_of(values, scores, count=2) == [[20.0]]
    assert best_of(values, scores, count=3) == [[30.0]]


def test_means_weigh_prompts_alike():
    assert mean([[1.0, 3.0], [5.0]]) == 3.5
    assert distinct_share([["a", "a"], ["a", "b"]]) == 0.75
