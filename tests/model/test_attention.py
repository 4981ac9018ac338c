"""Attention against the formula, its gradient against finite differences, in float64."""

import pytest
import torch
from torch.autograd import gradcheck

from rlhf.model import attention
from rlhf.model.attention import Branches, branch_attention, causal_attention


@pytest.fixture
def draw():
    """Random float64 tensors that require gradients."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()

    return draw


@pytest.mark.parametrize("lengths", [[4, 4], [3, 3, 1, 2], [5]])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("short", [128, 0])
def test_attention_sees_the_own_row_up_to_the_own_token(
    draw, monkeypatch, lengths, key_heads, short
):
    """By products, where rows are short, and by torch's fused attention."""
    monkeypatch.setattr(attention, "_SHORT", short)
    count = sum(lengths)
    q, k, v = draw(count, 4, 6), draw(count, key_heads, 6), draw(count, key_heads, 6)
    found = causal_attention(q, k, v, lengths)
    start = 0
    for length in lengths:
        for at in range(start, start + length):
            for head in range(4):
                own = head * key_heads // 4
                scores = k[start : at + 1, own] @ q[at, head] / 6**0.5
                expected = scores.softmax(-1) @ v[start : at + 1, own]
                torch.testing.assert_close(found[at, head], expected)
        start += length


# (keys that count as short, dtypes with a slow backward): products both ways, the fused passes, and
# the fused forward pass with products backward, as half precision has it on a CPU.
WAYS = [(128, ()), (0, ()), (0, (torch.float64,))]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_attention_gradients(draw, monkeypatch, key_heads, way):
    monkeypatch.setattr(attention, "_SHORT", way[0])
    monkeypatch.setattr(attention, "_HALF", way[1])
    shapes = [(9, 4, 6), (9, key_heads, 6), (9, key_heads, 6)]
    inputs = [draw(*shape) for shape in shapes]
    assert gradcheck(lambda *x: causal_attention(*x, [3, 3, 2, 1]), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [7, 130])
def test_attention_has_the_same_bits_with_and_without_gradients(dtype, length):
    rng = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2 * length, 2, 8, generator=rng).to(dtype) for _ in range(3))
    plain = causal_attention(q, k, v, [length, length])
    trained = causal_attention(q.requires_grad_(), k, v, [length, length])
    assert trained.requires_grad
    assert torch.equal(plain, trained)


def test_short_and_long_rows_attend_alike(monkeypatch):
    rng = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(60, heads, 8, generator=rng) for heads in (4, 2, 2))
    products = causal_attention(q, k, v, [20, 20, 20])
    monkeypatch.setattr(attention, "_SHORT", 0)
    fused = causal_attention(q, k, v, [20, 20, 20])
    assert not torch.equal(products, fused), "two ways, not one"
    torch.testing.assert_close(products, fused, atol=1e-6, rtol=1e-6)


def test_half_precision_rounds_no_score():
    """Scores of hundreds are whole numbers apart in bfloat16; their softmax must not notice."""
    rng = torch.Generator().manual_seed(3)
    q, k, v = ((10 * torch.randn(60, 2, 8, generator=rng)).bfloat16() for _ in range(3))
    exact = causal_attention(q.double(), k.double(), v.double(), [60])
    found = causal_attention(q, k, v, [60])
    assert (found - exact).norm() < 0.003 * exact.norm()  # 0.0006; with rounded scores 0.02


PREFIXES, SIZES = [(0, 3), (0, 3), (3, 2)], [2, 1, 4]
"""Two branches of one prompt and one of another; own tokens start at 5."""


@pytest.fixture
def branches():
    return Branches.of(PREFIXES, SIZES, first=5, device=torch.device("cpu"))


def test_a_branch_attends_to_its_prompt_and_to_itself(draw, branches):
    q, k, v = draw(7, 4, 3), draw(12, 2, 3), draw(12, 2, 3)
    expected, at = [], 5
    for (start, size), own in zip(PREFIXES, SIZES, strict=True):
        for token in range(own):
            seen = [*range(start, start + size), *range(at, at + token + 1)]
            for head in range(4):
                keys, values = k[seen, head // 2], v[seen, head // 2]
                shares = torch.softmax(keys @ q[at - 5 + token, head] / 3**0.5, dim=0)
                expected.append(shares @ values)
        at += own
    found = branch_attention(q, k, v, branches)
    torch.testing.assert_close(found, torch.stack(expected).view(7, 4, 3))


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_branches(draw, branches, monkeypatch, way):
    monkeypatch.setattr(attention, "_SHORT", way[0])
    monkeypatch.setattr(attention, "_HALF", way[1])
    inputs = draw(7, 4, 3), draw(12, 2, 3), draw(12, 2, 3)
    assert gradcheck(lambda q, k, v: branch_attention(q, k, v, branches), inputs)
