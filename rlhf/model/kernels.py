"""The parts of a Llama layer over frozen weights, with their backward passes written out.

Each part is an autograd function that saves as little as its gradient needs, takes no gradient of
a frozen weight, and computes the same bits with and without gradients. Axes: N tokens of any rows,
H hidden, I and O inputs and outputs of a linear map, r rank of an adapter, D size of a head, V
vocabulary. Norms and log-probabilities are computed in float32 whatever the dtype of their input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from rlhf.model.precision import float32_products, is_large

_CPU_BYTES = (2**25, 2**19)
"""Logits that one product gives, and that are read at once (they stay in a core's cache)."""

_GPU_BYTES = (2**28, 2**28)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A low-rank update ``scale * up @ down`` of a linear map."""

    down: Tensor
    """PEFT's A, (r, I)."""
    up: Tensor
    """PEFT's B, (O, r)."""
    scale: float


@dataclass(frozen=True, slots=True)
class LinearMap:
    """A frozen linear map with the adapter that acts on it, if one does."""

    weight: Tensor
    """(O, I)."""
    bias: Tensor | None = None
    """(O,)."""
    adapter: Adapter | None = None


def _apply(function: type[Function], *arguments: Any) -> Any:
    return function.apply(*arguments)  # type: ignore[no-untyped-call]  # torch lacks it


def linear_maps(x: Tensor, maps: Sequence[LinearMap]) -> tuple[Tensor, ...]:
    """Apply several maps to one input (N, I), giving (N, O) each.

    ``y = x W' + bias + scale * (x A') B'``, the last term added in place; a map without an adapter,
    and a map whose B is 0, gives the bits of ``F.linear``. A and B are cast to the dtype of x.
    """
    factors = [f for m in maps if m.adapter for f in (m.adapter.down, m.adapter.up)]
    if not factors:
        return tuple(F.linear(x, m.weight, m.bias) for m in maps)
    outputs: tuple[Tensor, ...] = _apply(_LinearMaps, x, tuple(maps), *factors)
    return outputs


class _LinearMaps(Function):
    """``dx = sum g W + l A``, ``dA = l' x``, ``dB = scale g' (x A')`` with ``l = scale g B``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, maps: tuple[LinearMap, ...], *factors: Tensor) -> Any:
        adapters = [m.adapter for m in maps if m.adapter is not None]
        down = torch.cat([adapter.down for adapter in adapters]).to(x.dtype)
        ups = [(adapter.up * adapter.scale).to(x.dtype) for adapter in adapters]
        low = x @ down.T
        outputs = [F.linear(x, m.weight, m.bias) for m in maps]
        adapted = [y for y, m in zip(outputs, maps, strict=True) if m.adapter is not None]
        parts = torch.split(low, [up.shape[1] for up in ups], dim=-1)
        for output, part, up in zip(adapted, parts, ups, strict=True):
            output.addmm_(part, up.T)
        ctx.maps = maps
        trained = any(ctx.needs_input_grad[2:])
        ctx.save_for_backward(x if trained else None, low if trained else None, down, *ups)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, low, down, *ups = ctx.saved_tensors
        adapted = [
            (g, m.adapter)
            for g, m in zip(gradients, ctx.maps, strict=True)
            if m.adapter is not None
        ]
        ranks = [up.shape[1] for up in ups]
        of_low = torch.cat([g @ up for (g, _), up in zip(adapted, ups, strict=True)], dim=-1)
        of_factors: list[Tensor | None] = [None] * (2 * len(ups))
        if x is not None:
            of_down = (of_low.T @ x).to(adapted[0][1].down.dtype)
            of_factors[::2] = torch.split(of_down, ranks)
            of_factors[1::2] = [
                (g.T @ part).to(adapter.up.dtype).mul_(adapter.scale)
                for (g, adapter), part in zip(adapted, torch.split(low, ranks, -1), strict=True)
            ]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = gradients[0] @ ctx.maps[0].weight
            for g, m in zip(gradients[1:], ctx.maps[1:], strict=True):
                of_x.addmm_(g, m.weight)
            of_x.addmm_(of_low, down)
        return of_x, None, *of_factors


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis, rounded once at the end."""
    if not x.requires_grad:
        return _normalized(x, weight, eps)[0]
    normalized: Tensor = _apply(_RMSNorm, x, weight, eps)
    return normalized


def add_rms_norm(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Give ``x + update`` and its ``rms_norm``, (N, H) each."""
    if not (x.requires_grad or update.requires_grad):
        total = x + update
        return total, _normalized(total, weight, eps)[0]
    outputs: tuple[Tensor, Tensor] = _apply(_AddRMSNorm, x, update, weight, eps)
    return outputs


class _RMSNorm(Function):
    """See ``_norm_gradient``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normalized, inverse_rms = _normalized(x, weight, eps)
        ctx.save_for_backward(x, inverse_rms, weight)
        return normalized

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, inverse_rms, weight = ctx.saved_tensors
        return _norm_gradient(gradient, x, inverse_rms, weight).to(x.dtype), None, None


class _AddRMSNorm(Function):
    """Both summands get the gradient of the sum, plus what comes back through the norm."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor, weight: Tensor, eps: float) -> Any:
        total = x + update
        normalized, inverse_rms = _normalized(total, weight, eps)
        ctx.save_for_backward(total, inverse_rms, weight)
        return total, normalized

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor, of_normalized: Tensor) -> Any:
        total, inverse_rms, weight = ctx.saved_tensors
        gradient = _norm_gradient(of_normalized, total, inverse_rms, weight)
        gradient = gradient.add_(of_total).to(total.dtype)
        needs_x, needs_update, *_ = ctx.needs_input_grad
        return gradient if needs_x else None, gradient if needs_update else None, None, None


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _normalized(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x / sqrt(mean(x^2) + eps) * weight`` and ``1 / sqrt(mean(x^2) + eps)``, (..., 1)."""
    wide = x.to(_wide(x))
    norm: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse_rms = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    normalized = wide * inverse_rms if wide is x else wide.mul_(inverse_rms)
    return normalized.mul_(weight).to(x.dtype), inverse_rms


def _norm_gradient(gradient: Tensor, x: Tensor, inverse_rms: Tensor, weight: Tensor) -> Tensor:
    """``s (g w) - x s^3 mean(g w x)`` with s the inverse root mean square, float32."""
    x = x.to(_wide(x))
    weighted = gradient * weight if gradient.dtype == x.dtype else gradient.to(x.dtype).mul_(weight)
    along = torch.linalg.vecdot(weighted, x).unsqueeze(-1)
    along.mul_(inverse_rms.pow(3)).div_(x.shape[-1])
    return weighted.mul_(inverse_rms).addcmul_(x, along, value=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (d, d + D/2) of each head by its position's angles (RoPE).

    Args:
        x: (N, heads, D).
        cos: Of the angles, (N, 1, D / 2), in the dtype of x.
        sin: Likewise.

    Source: arXiv:2104.09864, eq. 34, with transformers' order of the pairs.
    """
    if not x.requires_grad:
        return _rotated(x, cos, sin, 1)
    rotated: Tensor = _apply(_Rotate, x, cos, sin)
    return rotated


class _Rotate(Function):
    """The gradient turns by the negative angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    rotated = torch.empty_like(x, memory_format=torch.contiguous_format)
    out_first, out_second = rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin, value=sign)
    return rotated


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    if not (gate.requires_grad or up.requires_grad):
        return F.silu(gate).mul_(up)
    product: Tensor = _apply(_SwiGLU, gate, up)
    return product


class _SwiGLU(Function):
    """``dgate = g up silu'(gate)``, ``dup = g silu(gate)``."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        active = F.silu(gate)  # as long to compute as all else here
        ctx.save_for_backward(gate, up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gate, up, active = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), gradient * active


def head_logprobs(hidden: Tensor, weight: Tensor, tokens: Tensor, *, temperature: float) -> Tensor:
    """Log-probabilities under ``softmax(hidden W' / temperature)``, without keeping logits.

    Args:
        hidden: (N, H).
        weight: The output head, frozen, (V, H).
        tokens: Token ids (N,).
        temperature: The temperature that the tokens were sampled at.

    Returns:
        float32 (N,), in nats.
    """
    with float32_products(large=is_large(weight)):
        logprobs: Tensor = _apply(_HeadLogprobs, hidden, weight, tokens, temperature)
    return logprobs


class _HeadLogprobs(Function):
    """``d logprob / d hidden = (onehot - softmax) W / temperature``.

    A log-probability depends on its own row of hidden states alone, so that its gradient is that
    direction times a number, and the direction (N, H) is computed while the logits are at hand:
    no more than a piece of them ever exists.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float
    ) -> Tensor:
        derive = ctx.needs_input_grad[0]
        logprobs, directions = [], []
        limits = _CPU_BYTES if weight.device.type == "cpu" else _GPU_BYTES
        size, part = (max(1, limit // (weight.shape[0] * weight.itemsize)) for limit in limits)
        for piece, wanted in zip(torch.split(hidden, size), torch.split(tokens, size), strict=True):
            logits = F.linear(piece, weight)
            blocks = zip(torch.split(logits, part), torch.split(wanted, part), strict=True)
            for block, ids in blocks:
                logprobs.append(_read_logprobs(block, ids, temperature, derive=derive))
            if derive:
                directions.append(logits @ weight)
        if derive:
            ctx.save_for_backward(torch.cat(directions))
        return torch.cat(logprobs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (direction,) = ctx.saved_tensors
        return (direction * gradient.unsqueeze(-1)).to(direction.dtype), None, None, None


def _read_logprobs(logits: Tensor, tokens: Tensor, temperature: float, *, derive: bool) -> Tensor:
    """Log-probabilities (n,) of tokens (n,); the logits (n, V) are used up.

    With ``derive`` their place holds the gradient of each row's log-probability.
    """
    wide = logits.to(_wide(logits))
    if temperature != 1.0:
        wide.div_(temperature)
    at = tokens.unsqueeze(-1)
    chosen = wide.gather(-1, at)
    top = wide.amax(dim=-1, keepdim=True)
    total = wide.sub_(top).exp_().sum(dim=-1, keepdim=True)
    logprobs: Tensor = (chosen - top - total.log()).squeeze(-1)
    if derive:
        wide.div_(total.mul_(-temperature))
        wide.scatter_add_(-1, at, torch.full_like(chosen, 1 / temperature))
        logits.copy_(wide)
    return logprobs
