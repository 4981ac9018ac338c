"""Each kernel's gradient against finite differences, in float64, and its value against torch."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from rlhf.model import kernels
from rlhf.model.kernels import (
    Adapter,
    LinearMap,
    add_rms_norm,
    head_logprobs,
    linear_maps,
    rms_norm,
    rotate,
    swiglu,
)


@pytest.fixture
def draw():
    """Random float64 tensors that require gradients."""
    rng = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()

    return draw


def maps_of(weights, factors):
    """Three maps: adapted, adapted without a bias, and plain."""
    (w1, b1), (w2, _), (w3, b3) = weights
    a1, u1, a2, u2 = factors
    return (
        LinearMap(w1, b1, Adapter(a1, u1, 2.0)),
        LinearMap(w2, None, Adapter(a2, u2, 0.5)),
        LinearMap(w3, b3, None),
    )


@pytest.fixture
def weights(draw):
    return [(draw(size, 5).detach(), draw(size).detach()) for size in (4, 3, 6)]


@pytest.fixture
def factors(draw):
    return [draw(2, 5), draw(4, 2), draw(3, 5), draw(3, 3)]


def test_linear_maps_are_the_formula(draw, weights, factors):
    x = draw(7, 5)
    (w1, b1), (w2, _), (w3, b3) = weights
    a1, u1, a2, u2 = factors
    expected = (
        x @ (w1 + 2.0 * u1 @ a1).T + b1,
        x @ (w2 + 0.5 * u2 @ a2).T,
        x @ w3.T + b3,
    )
    for found, want in zip(linear_maps(x, maps_of(weights, factors)), expected, strict=True):
        torch.testing.assert_close(found, want)


def test_linear_maps_gradients(draw, weights, factors):
    def run(x, *factors):
        return linear_maps(x, maps_of(weights, factors))

    assert gradcheck(run, (draw(7, 5), *factors))
    assert gradcheck(run, (draw(7, 5).detach(), *factors))  # embeddings are frozen
    frozen = [factor.detach() for factor in factors]
    assert gradcheck(run, (draw(7, 5), *frozen))
    assert gradcheck(lambda x: linear_maps(x, (LinearMap(weights[0][0]),)), (draw(7, 5),))


def test_linear_maps_without_an_adapter_are_torchs_own_bits(weights):
    x = torch.randn(7, 5, dtype=torch.bfloat16)
    weight, bias = weights[0][0].bfloat16(), weights[0][1].bfloat16()
    expected = F.linear(x, weight, bias)
    none = Adapter(torch.randn(2, 5), torch.zeros(4, 2), 2.0)
    for adapter in (None, none):
        (found,) = linear_maps(x, (LinearMap(weight, bias, adapter),))
        assert torch.equal(found, expected)


def test_rms_norm_gradients(draw):
    weight = draw(6).detach()
    x = draw(5, 6)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), F.rms_norm(x, (6,), weight, 1e-5))
    assert gradcheck(lambda x: rms_norm(x, weight, 1e-5), (x,))
    assert gradcheck(lambda x: rms_norm(x, weight, 1e-5), (draw(2, 3, 6),))


def test_add_rms_norm_gradients(draw):
    weight, x, update = draw(6).detach(), draw(5, 6), draw(5, 6)
    total, normalized = add_rms_norm(x, update, weight, 1e-5)
    torch.testing.assert_close(total, x + update)
    torch.testing.assert_close(normalized, F.rms_norm(x + update, (6,), weight, 1e-5))
    for pair in ((x, update), (x.detach(), update)):
        assert gradcheck(lambda x, update: add_rms_norm(x, update, weight, 1e-5), pair)


def test_rotating_keeps_lengths_and_turns_relative_to_position(draw):
    """The product of two turned vectors depends on their distance alone."""
    x = draw(1, 1, 8).expand(6, 1, 8)
    angles = torch.arange(6.0, dtype=torch.float64)[:, None, None] * draw(4).detach()
    turned = rotate(x, angles.cos(), angles.sin())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    products = turned[:, 0] @ turned[:, 0].T
    torch.testing.assert_close(products[0, :5], products[1, 1:])


def test_rotate_gradients(draw):
    angles = draw(5, 1, 3).detach()
    assert gradcheck(lambda x: rotate(x, angles.cos(), angles.sin()), (draw(5, 2, 6),))


def test_swiglu_gradients(draw):
    gate, up = draw(5, 6), draw(5, 6)
    torch.testing.assert_close(swiglu(gate, up), F.silu(gate) * up)
    assert gradcheck(swiglu, (gate, up))


@pytest.mark.parametrize("size", [6, 4, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_head_logprobs_gradients(draw, monkeypatch, temperature, size):
    monkeypatch.setattr(kernels, "_CPU_BYTES", (8 * 9 * size, 8 * 9 * 3))
    hidden, weight = draw(6, 5), draw(9, 5).detach()
    tokens = torch.tensor([0, 8, 3, 3, 5, 1])
    found = head_logprobs(hidden, weight, tokens, temperature=temperature)
    expected = (hidden @ weight.T / temperature).log_softmax(-1)[torch.arange(6), tokens]
    torch.testing.assert_close(found, expected)
    assert gradcheck(lambda x: head_logprobs(x, weight, tokens, temperature=temperature), (hidden,))


def test_logprobs_of_impossible_tokens_stay_finite():
    """exp(-200) is 0 in float32, its logarithm is not needed."""
    hidden, weight = torch.tensor([[200.0]]), torch.tensor([[1.0], [0.0]])
    found = head_logprobs(hidden, weight, torch.tensor([1]), temperature=1.0)
    assert found.item() == -200.0


def test_nothing_is_saved_without_gradients(draw):
    x, weight = draw(5, 6), draw(6).detach()
    with torch.no_grad():
        for output in (
            rms_norm(x, weight, 1e-5),
            swiglu(x, x),
            rotate(x[:, None], x[:, None, :3], x[:, None, :3]),
            *linear_maps(x, (LinearMap(draw(4, 6), None, Adapter(draw(2, 6), draw(4, 2), 1.0)),)),
            head_logprobs(x, draw(9, 6), torch.zeros(5, dtype=torch.long), temperature=1.0),
        ):
            assert output.grad_fn is None
