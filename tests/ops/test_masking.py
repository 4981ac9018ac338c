import statistics

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.masking import length_mask, masked_mean, masked_sum, masked_variance, whiten

# The advantages of the GAE golden test at lambda .95, six real tokens.
VALUES = torch.tensor(
    [[0.392538125, 0.5289875, 0.32525, 0.795], [0.365, 0.7, 9.0, 9.0]], dtype=torch.float64
)
MASK = length_mask(torch.tensor([4, 2]), 4)


def test_mask_comes_from_lengths():
    assert MASK.tolist() == [[True] * 4, [True, True, False, False]]


def test_whiten_uses_the_biased_variance_of_real_tokens():
    # Mean .5177959375, biased variance .0310459533 (unbiased would be .0372551).
    expected = [-0.71088975, 0.06351673, -1.09277761, 1.57324739, -0.86717997, 1.03408321]
    found = whiten(VALUES, MASK)
    assert found[MASK].tolist() == pytest.approx(expected, abs=1e-7)
    assert (found[~MASK] == 0).all()


def test_whiten_ignores_padding_and_survives_a_constant():
    junk = VALUES.clone()
    junk[~MASK] = float("inf")
    assert torch.equal(whiten(junk, MASK), whiten(VALUES, MASK))
    assert whiten(torch.ones(2, 4), MASK).abs().max() == 0


def test_masked_mean_and_sum():
    assert masked_mean(VALUES, MASK).item() == pytest.approx(0.5177959375)
    assert masked_sum(VALUES, MASK).tolist() == pytest.approx([2.041775625, 1.065])
    assert masked_mean(VALUES, torch.zeros_like(MASK)).item() == 0


def test_masked_variance_is_the_biased_one():
    assert masked_variance(VALUES, MASK).item() == pytest.approx(0.0310459533, rel=1e-8)
    assert masked_variance(VALUES, torch.zeros_like(MASK)).item() == 0
    assert masked_variance(VALUES[:, :1], MASK[:, :1]).item() == pytest.approx(
        ((0.392538125 - 0.365) / 2) ** 2, rel=1e-12
    )


LENGTHS = st.lists(st.integers(1, 7), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), lengths=LENGTHS, scale=st.floats(0.01, 100))
def test_statistics_equal_plain_floats(seed, lengths, scale):
    rng = torch.Generator().manual_seed(seed)
    values = scale * torch.randn(len(lengths), 7, generator=rng, dtype=torch.float64) + scale
    mask = length_mask(torch.tensor(lengths), 7)
    real = values[mask].tolist()
    assert masked_mean(values, mask).item() == pytest.approx(statistics.fmean(real), rel=1e-12)
    spread = masked_variance(values, mask)
    assert spread.item() == pytest.approx(statistics.pvariance(real), rel=1e-11)
    white = whiten(values, mask)
    assert white[mask].tolist() == pytest.approx(reference.whiten(real), rel=1e-11, abs=1e-11)
    assert masked_mean(white, mask).abs() < 1e-12
    # eps = 1e-8 takes a little off the variance of 1.
    assert masked_variance(white, mask).item() == pytest.approx(float(spread / (spread + 1e-8)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), order=st.permutations(range(6)))
def test_whitening_does_not_ask_how_tokens_lie_in_rows(seed, order):
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(6, 4, generator=rng, dtype=torch.float64)
    mask = length_mask(torch.tensor([4, 1, 3, 2, 4, 2]), 4)
    white = whiten(values, mask)
    dealt = whiten(values[order], mask[order])
    torch.testing.assert_close(dealt, white[order], rtol=1e-12, atol=1e-12)
    one_row = whiten(values.view(1, 24), mask.view(1, 24))
    torch.testing.assert_close(one_row.view(6, 4), white, rtol=1e-12, atol=1e-12)
    # Half of the rows by themselves would be another thing.
    assert not torch.allclose(whiten(values[:3], mask[:3]), white[:3], rtol=1e-3)
