import pytest
import torch

from rlhf.ops.masking import length_mask, masked_mean, masked_sum, whiten

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
