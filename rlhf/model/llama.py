"""The forward pass of the Llama family over the model's own weights, without padding.

Real tokens of all rows lie one after the other, so that a linear map sees no padding; only
attention knows rows. Equal to transformers and PEFT up to rounding, and bitwise the same with and
without gradients. What is not exactly known here (another architecture, quantised or hooked
layers, unusual adapters, a sliding window shorter than a row) runs through the model's own code.
Axes: B rows, N tokens of all rows, M tokens that are read, H hidden, D size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.data.collation import GroupBatch, TokenBatch
from rlhf.model.attention import Branches, branch_attention, causal_attention
from rlhf.model.forward import Decoder, TransformersForward
from rlhf.model.kernels import (
    add_rms_norm,
    head_logprobs,
    linear_maps,
    rms_norm,
    rotate,
    swiglu,
)
from rlhf.model.llama_decoder import LlamaDecoder
from rlhf.model.llama_weights import Weights, sliding_window

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer: its number, q (N, heads, D), k and v (N, key heads, D), all turned."""


class LlamaForward:
    """Fast passes for Llama, Mistral, Qwen2 and Qwen3; see ``supports``."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.general = TransformersForward(model)
        self.window = sliding_window(model)

    def hidden(self, batch: TokenBatch) -> Tensor:
        """See ``Forward``."""
        if self._too_long(batch.input_ids.shape[1]):
            return self.general.hidden(batch)
        return self._trunk(_before_completion(batch))

    def last_hidden(self, groups: GroupBatch) -> Tensor:
        """See ``Forward``; completions of one prompt are branches that attend to it."""
        if self._too_long(groups.longest):
            return self.general.last_hidden(groups)
        tokens, branches = _lay_out_groups(groups)
        return self._trunk(tokens, branches)

    def logprobs(self, batch: TokenBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """See ``Forward``; logits exist for real completion tokens only, piece by piece."""
        if self._too_long(batch.input_ids.shape[1]):
            return self.general.logprobs(batch, temperature=temperature)
        hidden = self._trunk(_before_completion(batch))
        tokens = batch.completion_ids[batch.completion_mask]
        weight = self.model.lm_head.weight
        return head_logprobs(hidden, weight, tokens, temperature=temperature), hidden

    def prefill(self, prompts: TokenBatch, size: int) -> tuple[Tensor, Decoder]:
        """See ``Forward``; keys and values get all their room at once."""
        if self._too_long(prompts.input_ids.shape[1] + size):
            return self.general.prefill(prompts, size)
        weights, tokens = Weights.of(self.model), _up_to_last(prompts)
        decoder = LlamaDecoder(weights, prompts.attention_mask, size)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            decoder.store(layer, k, v)
            return causal_attention(q, k, v, tokens.lengths)

        with torch.no_grad():
            return F.linear(_run(weights, tokens, attend), weights.head), decoder

    def _too_long(self, length: int) -> bool:
        return self.window is not None and length > self.window

    def _trunk(self, tokens: _Tokens, branches: Branches | None = None) -> Tensor:
        """Last hidden state where it is read, (M, H)."""
        weights = Weights.of(self.model)
        if not tokens.lengths:
            return weights.norm.new_empty(0, len(weights.norm))

        def attend(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if branches is None:
                return causal_attention(q, k, v, tokens.lengths)
            size = sum(tokens.lengths)
            rows = causal_attention(q[:size], k[:size], v[:size], tokens.lengths)
            return torch.cat([rows, branch_attention(q[size:], k, v, branches)])

        return _run(weights, tokens, attend)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens of several rows, one row after the other; those of branches follow."""

    ids: Tensor
    """(N,)."""
    positions: Tensor
    """Of each in its row, (N,)."""
    lengths: Sequence[int]
    """Tokens per row, none of them 0."""
    read: Tensor | None
    """Which hidden states are wanted, (M,); None for all."""


def _before_completion(batch: TokenBatch) -> _Tokens:
    """All that the completion tokens are predicted from: no last token, nothing after it."""
    sizes = batch.completion_mask.sum(dim=-1).cpu()
    total = batch.attention_mask.sum(dim=-1).cpu()
    return _lay_out(batch, (total - 1) * (sizes > 0), sizes)


def _up_to_last(batch: TokenBatch) -> _Tokens:
    """All tokens, read at the last one of each row."""
    total = batch.attention_mask.sum(dim=-1).cpu()
    return _lay_out(batch, total, torch.ones_like(total))


def _lay_out(batch: TokenBatch, lengths: Tensor, reads: Tensor) -> _Tokens:
    """Take the first ``lengths`` real tokens of each row; the last ``reads`` of them are read."""
    device = batch.input_ids.device
    starts = batch.attention_mask.int().argmax(dim=-1).cpu()
    positions = torch.arange(batch.input_ids.shape[1]) - starts[:, None]
    taken = (positions >= 0) & (positions < lengths[:, None])
    read = (positions >= (lengths - reads)[:, None])[taken]
    return _Tokens(
        ids=batch.input_ids[taken.to(device)],
        positions=positions[taken].to(device),
        lengths=[length for length in lengths.tolist() if length],
        read=None if read.all() else read.nonzero().squeeze(-1).to(device),
    )


def _lay_out_groups(groups: GroupBatch) -> tuple[_Tokens, Branches | None]:
    """Put prompts first and completions after them, each read at its end.

    A prompt's only completion is part of its row; several are branches.
    """
    rows: list[Sequence[int]] = []
    branches: list[tuple[int, int, Sequence[int]]] = []  # start and length of the prompt, own ids
    reads: list[tuple[bool, int]] = []  # whether in a branch, and where there
    at, past = 0, 0
    for prompt, own in zip(groups.prompts, groups.completions, strict=True):
        row = [*prompt, *own[0]] if len(own) == 1 else prompt
        if len(own) == 1:
            reads.append((False, at + len(row) - 1))
        else:
            for ids in own:
                branches.append((at, len(prompt), ids))
                past += len(ids)
                reads.append((True, past - 1))
        rows.append(row)
        at += len(row)
    ids = [i for row in rows for i in row] + [i for *_, own in branches for i in own]
    positions = [i for row in rows for i in range(len(row))]
    positions += [size + i for _, size, own in branches for i in range(len(own))]
    read = [at + place if is_branch else place for is_branch, place in reads]
    tokens = _Tokens(
        ids=torch.tensor(ids, dtype=torch.long, device=groups.device),
        positions=torch.tensor(positions, dtype=torch.long, device=groups.device),
        lengths=[len(row) for row in rows if row],
        read=torch.tensor(read, dtype=torch.long, device=groups.device),
    )
    if not branches:
        return tokens, None
    prefixes = [(start, size) for start, size, _ in branches]
    sizes = [len(own) for *_, own in branches]
    return tokens, Branches.of(prefixes, sizes, first=at, device=groups.device)


def _run(weights: Weights, tokens: _Tokens, attend: Attend) -> Tensor:
    """Run all layers; give the normalised hidden state where it is read, (M, H)."""
    eps, read = weights.eps, tokens.read
    total = F.embedding(tokens.ids, weights.embedding)
    cos, sin = (table[:, None] for table in weights.angles(tokens.positions))
    following = [layer.attention_norm for layer in weights.layers[1:]] + [weights.norm]
    hidden = rms_norm(total, weights.layers[0].attention_norm, eps)
    for number, (layer, next_norm) in enumerate(zip(weights.layers, following, strict=True)):
        q, k, v = (x.view(len(x), -1, weights.head_size) for x in linear_maps(hidden, layer.qkv))
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = rms_norm(q, layer.q_norm, eps), rms_norm(k, layer.k_norm, eps)
        attended = attend(number, rotate(q, cos, sin), rotate(k, cos, sin), v).flatten(1)
        if read is not None and number == len(weights.layers) - 1:
            attended, total = attended[read], total[read]
        (update,) = linear_maps(attended, layer.out)
        total, hidden = add_rms_norm(total, update, layer.mlp_norm, eps)
        (update,) = linear_maps(swiglu(*linear_maps(hidden, layer.gate_up)), layer.down)
        total, hidden = add_rms_norm(total, update, next_norm, eps)
    return hidden
