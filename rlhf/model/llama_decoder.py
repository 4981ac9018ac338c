"""One decoding step of the Llama family, with keys and values in place.

Hidden states stand in columns, (H, B): a product ``W x`` of a large matrix with few columns is up
to twice as fast as ``x W'``, whose library packs W anew at each step. Axes: B rows that are
decoded, I inputs and O outputs of linear maps, H hidden, D size of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.model.kernels import LinearMap
from rlhf.model.llama_weights import Layer, Weights
from rlhf.model.packing import pack, packed_product, packing_pays
from rlhf.model.precision import float32_products, is_large


class LlamaDecoder:
    """See ``Decoder``; prompts are padded on the left."""

    def __init__(self, weights: Weights, mask: Tensor, size: int) -> None:
        """Make room.

        Args:
            weights: With the adapter to sample from.
            mask: True at real prompt tokens, bool (B, P).
            size: Tokens to come.
        """
        rows, width = mask.shape
        self.weights = weights
        packed = packing_pays(weights.products(), size)
        self.layers = [_StepLayer(layer, packed=packed) for layer in weights.layers]
        self.head = _Columns((LinearMap(weights.head),), packed=packed)
        self.prompt_mask = mask
        self.filled = width
        steps = torch.arange(size, device=mask.device)[:, None] + mask.sum(dim=-1)
        cos, sin = weights.angles(steps.flatten())
        self.cos = cos.view(size, rows, -1).mT.contiguous()
        """Of the angles of each token to come, (size, D / 2, B)."""
        self.sin = sin.view(size, rows, -1).mT.contiguous()
        like = weights.embedding
        dtype = _cache_dtype(like)
        room = (rows, weights.key_heads, width + size, weights.head_size)
        self.keys = [like.new_zeros(room, dtype=dtype) for _ in self.layers]
        self.values = [like.new_zeros(room, dtype=dtype) for _ in self.layers]
        self.padding: Tensor | None = None
        """Added to scores, (B, 1, 1, P + size): -inf at padding; None where there is none."""
        if not mask.all():
            self.padding = like.new_zeros(rows, 1, 1, width + size, dtype=dtype)
            self.padding[:, 0, 0, :width].masked_fill_(~mask, -torch.inf)

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Take over keys and values of all real prompt tokens, (N, key heads, D)."""
        width = self.prompt_mask.shape[1]
        for cache, new in ((self.keys[layer], keys), (self.values[layer], values)):
            cache[:, :, :width].transpose(1, 2)[self.prompt_mask] = new.to(cache.dtype)

    @torch.no_grad()
    def advance(self, tokens: Tensor) -> Tensor:
        """See ``Decoder``; the logits are float32."""
        weights = self.weights
        step = self.filled - self.prompt_mask.shape[1]
        cos, sin = self.cos[step], self.sin[step]
        hidden = F.embedding(tokens, weights.embedding).T.contiguous()
        for number, layer in enumerate(self.layers):
            normed = _rms_norm(hidden, layer.attention_norm, weights.eps)
            q, k, v = self._heads(layer.qkv(normed), layer)
            attended = self._attend(number, _turned(q, cos, sin), _turned(k, cos, sin), v)
            hidden = layer.out(attended).add_(hidden)
            normed = _rms_norm(hidden, layer.mlp_norm, weights.eps)
            gate, up = layer.gate_up(normed).chunk(2)
            hidden = layer.down(F.silu(gate).mul_(up)).add_(hidden)
        self.filled += 1
        logits = self.head(_rms_norm(hidden, weights.norm[:, None], weights.eps))
        return logits.new_empty(logits.shape[::-1], dtype=torch.float32).copy_(logits.T)

    def _heads(self, qkv: Tensor, layer: _StepLayer) -> Sequence[Tensor]:
        """Split into queries, keys and values, (heads, D, B) each."""
        heads = qkv.view(-1, self.weights.head_size, qkv.shape[-1])
        keys_at = heads.shape[0] - 2 * self.weights.key_heads
        values_at = heads.shape[0] - self.weights.key_heads
        q, k, v = heads[:keys_at], heads[keys_at:values_at], heads[values_at:]
        if layer.q_norm is not None and layer.k_norm is not None:
            q = _rms_norm(q, layer.q_norm, self.weights.eps)
            k = _rms_norm(k, layer.k_norm, self.weights.eps)
        return q, k, v

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append keys and values, attend to all so far; (heads * D, B)."""
        at, end = self.filled, self.filled + 1
        keys, values = self.keys[layer], self.values[layer]
        keys[:, :, at], values[:, :, at] = k.permute(2, 0, 1), v.permute(2, 0, 1)
        rows, key_heads, _, size = keys.shape
        # Query heads that share a key head stand where the positions of a query would.
        by_key = q.permute(2, 0, 1).to(keys.dtype).contiguous().view(rows, key_heads, -1, size)
        mask = None if self.padding is None else self.padding[..., :end]
        attended = F.scaled_dot_product_attention(
            by_key, keys[:, :, :end], values[:, :, :end], attn_mask=mask
        )
        return attended.reshape(rows, -1).T.to(q.dtype)

    def keep(self, rows: Tensor) -> None:
        """See ``Decoder``; only rows that change their place are copied."""
        places = torch.arange(len(rows), device=rows.device)
        to = (rows != places).nonzero().squeeze(-1)
        for caches in (self.keys, self.values):
            for layer, cache in enumerate(caches):
                cache[to] = cache[rows[to]]
                caches[layer] = cache[: len(rows)]
        self.cos, self.sin = self.cos[..., rows], self.sin[..., rows]
        self.padding = None if self.padding is None else self.padding[rows]


def _cache_dtype(weight: Tensor) -> torch.dtype:
    """That of the weights, or float32 where a CPU attends faster in it: one query at a time.

    bfloat16 takes half the time of float32 where a CPU has units for it (AMX), and 5 times as
    long where not; float16 twice as long.
    """
    fast = weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return weight.dtype if fast or weight.device.type != "cpu" else torch.float32


class _StepLayer:
    """A layer laid out for columns."""

    def __init__(self, layer: Layer, *, packed: bool) -> None:
        self.qkv = _Columns(layer.qkv, packed=packed)
        self.out = _Columns(layer.out, packed=packed)
        self.gate_up = _Columns(layer.gate_up, packed=packed)
        self.down = _Columns(layer.down, packed=packed)
        self.attention_norm = layer.attention_norm[:, None]
        self.mlp_norm = layer.mlp_norm[:, None]
        self.q_norm = None if layer.q_norm is None else layer.q_norm[:, None]
        self.k_norm = None if layer.k_norm is None else layer.k_norm[:, None]


class _Columns:
    """Several maps of one input: ``W_i x + b_i + scale_i B_i A_i x``, one below the other.

    The adapters act all at once: their A below each other, their B on the diagonal of one matrix,
    both in the dtype of the weights as in ``linear_maps``. Weights are copied only to be packed.
    """

    def __init__(self, maps: Sequence[LinearMap], *, packed: bool) -> None:
        weights = [m.weight for m in maps]
        like = weights[0]
        self.weights = weights
        self.outputs = sum(map(len, weights))
        self.large = is_large(like)
        self.bias = None
        if any(m.bias is not None for m in maps):
            zeros = (m.weight.new_zeros(len(m.weight)) for m in maps)
            biases = [z if m.bias is None else m.bias for m, z in zip(maps, zeros, strict=True)]
            self.bias = torch.cat(biases)[:, None]
        adapters = [m.adapter for m in maps if m.adapter is not None]
        downs = [a.down.to(like.dtype) for a in adapters]
        self.down = torch.cat(downs) if adapters else like.new_empty(0, like.shape[1])
        self.up = _on_diagonal(maps).to(like.dtype) if adapters else None
        self.packed = None
        if packed:
            self.packed = pack(torch.cat([*weights, self.down]))
            self.up = None if self.up is None else pack(self.up)

    def __call__(self, x: Tensor) -> Tensor:
        """(I, B) to (sum of O, B)."""
        if self.packed is None:
            output, low = self._products(x)
        else:  # W above A in one matrix
            both = packed_product(x.T.contiguous(), self.packed).T
            output, low = both[: self.outputs], both[self.outputs :]
        if self.bias is not None:
            output.add_(self.bias)
        if self.up is None:
            return output
        if self.packed is not None:
            return packed_product(low.T, self.up, plus=output.T).T
        return output.addmm_(self.up, low)

    def _products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``W x`` and ``A x``; the latter empty without an adapter."""
        output = x.new_empty(self.outputs, x.shape[1])
        parts = torch.split(output, [len(weight) for weight in self.weights])
        with float32_products(large=self.large):
            for weight, part in zip(self.weights, parts, strict=True):
                torch.mm(weight, x, out=part)
        return output, torch.mm(self.down, x)


def _on_diagonal(maps: Sequence[LinearMap]) -> Tensor:
    """``scale_i * B_i`` on the diagonal, (sum of O, sum of r); no column without an adapter."""
    blocks = [
        m.weight.new_zeros(len(m.weight), 0, dtype=torch.float32)
        if m.adapter is None
        else m.adapter.up * m.adapter.scale
        for m in maps
    ]
    diagonal: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]  # torch lacks it
    return diagonal


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As in ``rlhf.model.kernels``, over the last but one axis; weight (..., 1)."""
    wide = x.float()
    inverse_rms = wide.square().mean(dim=-2, keepdim=True).add_(eps).rsqrt_()
    normed = inverse_rms.mul(wide) if wide is x else inverse_rms.mul(wide).to(x.dtype)
    return normed.mul_(weight)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (d, d + D/2) of (heads, D, B) by angles (D / 2, B)."""
    first, second = x.chunk(2, dim=1)
    turned = torch.empty_like(x)
    out_first, out_second = turned.chunk(2, dim=1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    return turned
