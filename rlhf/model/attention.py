"""Attention of rows that lie one after the other without padding, and its backward pass.

Axes: N tokens of any rows, D size of a head; inside, B rows with C queries and L keys each.
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

from rlhf.model.precision import float32_products

_SHORT = 128
"""Keys up to which plain float32 products are faster on a CPU than torch's fused attention."""
_HALF = (torch.bfloat16, torch.float16)
"""Dtypes whose fused attention is slow on a CPU backward, at any length, but exact forward: it
keeps scores in float32, which products would round."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Causal attention of each row to itself; scores are divided by sqrt(D).

    Rows lie one after the other without padding; neighbours of equal length run as one batch.

    Args:
        q: (N, heads, D).
        k: (N, key heads, D); a group of query heads shares one.
        v: Likewise.
        lengths: Tokens of each row.

    Returns:
        (N, heads, D).
    """
    groups = _equal_groups(lengths)
    sizes = [rows * length for rows, length in groups]
    parts = zip(*(torch.split(x, sizes) for x in (q, k, v)), groups, strict=True)
    outputs = []
    for q_part, k_part, v_part, (rows, length) in parts:
        by_row = [
            x.view(rows, length, *x.shape[1:]).transpose(1, 2) for x in (q_part, k_part, v_part)
        ]
        outputs.append(_attend(*by_row).transpose(1, 2).reshape(q_part.shape))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@dataclass(frozen=True, slots=True)
class Branches:
    """Where completions that share a prompt find their keys. R branches, C queries, L keys each."""

    queries: Tensor
    """Which token of the branches is each branch's query, 0 at padding, (R, C)."""
    keys: Tensor
    """Which of all tokens each branch may see, in order, 0 at padding, (R, L)."""
    visible: Tensor
    """bool (R, 1, C, L)."""
    real: Tensor
    """Which of the R * C queries are no padding, one for each token of the branches, (N,)."""

    @classmethod
    def of(
        cls,
        prefixes: Sequence[tuple[int, int]],
        sizes: Sequence[int],
        *,
        first: int,
        device: torch.device,
    ) -> Branches:
        """Lay out branches whose own tokens lie one after the other.

        Args:
            prefixes: Start and length of each one's prompt among all tokens.
            sizes: Own tokens of each branch.
            first: Where the first own token of the first branch lies among all tokens.
            device: Of the tensors.
        """
        starts, lengths = torch.tensor(prefixes).unbind(dim=1)
        own = torch.tensor(sizes)
        place = torch.arange(int(own.max()))
        real = place < own[:, None]
        behind = own.cumsum(0) - own
        queries = torch.where(real, behind[:, None] + place, 0)
        key = torch.arange(int((lengths + own).max()))
        after = key - lengths[:, None]
        keys = torch.where(after < 0, starts[:, None] + key, first + behind[:, None] + after)
        keys = torch.where(after < own[:, None], keys, 0)
        visible = after[:, None, :] <= place[None, :, None]
        parts = queries, keys, visible[:, None], real.flatten().nonzero().squeeze(-1)
        return cls(*(part.to(device) for part in parts))


def branch_attention(q: Tensor, k: Tensor, v: Tensor, branches: Branches) -> Tensor:
    """Attention of each branch to its prompt and, causally, to itself.

    Args:
        q: Of the branches' own tokens, (N, heads, D).
        k: Of all tokens, (N', key heads, D).
        v: Likewise.
        branches: Where each finds its keys.

    Returns:
        (N, heads, D).
    """
    q_rows = _take(q, branches.queries).transpose(1, 2)
    k_rows, v_rows = (_take(x, branches.keys).transpose(1, 2) for x in (k, v))
    attended = _attend(q_rows, k_rows, v_rows, branches.visible).transpose(1, 2)
    return _take(attended.flatten(0, 1), branches.real)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """``x[places]`` of x (N, heads, D); the gradient of an embedding is the quicker one."""
    return F.embedding(places, x.flatten(1)).view(*places.shape, *x.shape[1:])


def _equal_groups(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of equal neighbours as (how many, which length)."""
    groups: list[tuple[int, int]] = []
    for length in lengths:
        if groups and groups[-1][1] == length:
            groups[-1] = (groups[-1][0] + 1, length)
        else:
            groups.append((1, length))
    return groups


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """Attention of q (B, heads, C, D) to k, v (B, key heads, L, D); causal without a mask."""
    if q.device.type != "cpu":
        return _fused(q, k, v, visible)
    with float32_products(large=False):
        needs_gradient = q.requires_grad or k.requires_grad or v.requires_grad
        if needs_gradient and (q.dtype in _HALF or _is_short(q, k)):
            attended: Tensor = _ProductAttention.apply(q, k, v, visible)  # type: ignore[no-untyped-call]  # torch lacks it
            return attended
        return _forward(q, k, v, visible)


def _is_short(q: Tensor, k: Tensor) -> bool:
    return q.dtype not in _HALF and k.shape[2] <= _SHORT


def _forward(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """By products where rows are short, the same with and without gradients."""
    if not _is_short(q, k):
        return _fused(q, k, v, visible)
    attended = torch.bmm(_shares(q, k, visible), v.reshape(-1, *v.shape[2:]))
    return attended.view(q.shape)


def _fused(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, visible, is_causal=visible is None, enable_gqa=q.shape[1] != k.shape[1]
    )


def _stacked(x: Tensor, key_heads: int) -> Tensor:
    """Stack the queries of all heads that share keys: (B * key heads, group * C, D)."""
    return x.reshape(x.shape[0] * key_heads, -1, x.shape[-1])


def _shares(q: Tensor, k: Tensor, visible: Tensor | None) -> Tensor:
    """``softmax(q k' / sqrt(D))`` where keys are visible, (B * key heads, group * C, L)."""
    rows, heads, length, size = q.shape
    key_heads, keys = k.shape[1:3]
    group = heads // key_heads
    hidden = torch.full((length, keys), -torch.inf, dtype=q.dtype).triu_(1).repeat(group, 1)
    if visible is not None:
        hidden = torch.zeros(visible.shape, dtype=q.dtype).masked_fill_(~visible, -torch.inf)
        hidden = hidden.expand(rows, key_heads, length, keys).repeat(1, 1, group, 1)
        hidden = hidden.view(rows * key_heads, group * length, keys)
    k_flat = k.reshape(-1, keys, size)
    scores = torch.baddbmm(hidden, _stacked(q, key_heads), k_flat.mT, alpha=size**-0.5)
    # Twice as fast by way of float32 where rows are no multiple of the vector size.
    wide = torch.promote_types(scores.dtype, torch.float32)
    return torch.softmax(scores, dim=-1, dtype=wide).to(scores.dtype)


class _ProductAttention(Function):
    """Matrix products backward, with the shares computed anew.

    With ``P`` the shares, ``dv = P' g``, ``dS = P (g v' - <g v', P>)``, ``dq = dS k / sqrt(D)``,
    ``dk = dS' q / sqrt(D)``.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, k, v, visible)
        return _forward(q, k, v, visible)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, k, v, visible = ctx.saved_tensors
        key_heads = k.shape[1]
        q_flat, g_flat = (_stacked(x, key_heads) for x in (q, gradient))
        k_flat, v_flat = (x.reshape(-1, *x.shape[2:]) for x in (k, v))
        with float32_products(large=False):
            shares = _shares(q, k, visible)
            v_gradient = torch.bmm(shares.mT, g_flat)
            of_shares = torch.bmm(g_flat, v_flat.mT)
            of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
            of_scores.mul_(q.shape[-1] ** -0.5)
            q_gradient = torch.bmm(of_scores, k_flat)
            k_gradient = torch.bmm(of_scores.mT, q_flat)
        return q_gradient.view(q.shape), k_gradient.view(k.shape), v_gradient.view(v.shape), None
