"""Token lists as batches: padded rows, and prompts computed once for all their completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.ops.masking import length_mask


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Prompts with their completions. Axes: B rows, P prompt, C completion, T = P + C tokens."""

    input_ids: Tensor
    """(B, T); the pad token stands where ``attention_mask`` is False."""
    attention_mask: Tensor
    """bool (B, T)."""
    completion_mask: Tensor
    """True at real completion tokens, bool (B, C)."""

    @property
    def completion_ids(self) -> Tensor:
        """(B, C)."""
        return self.input_ids[:, self.prompt_size :]

    @property
    def prompt_size(self) -> int:
        """P, the padded prompt length."""
        return self.input_ids.shape[1] - self.completion_mask.shape[1]

    @property
    def position_ids(self) -> Tensor:
        """Positions counted over real tokens, so that left padding does not shift them, (B, T)."""
        return (self.attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """Prompts with any number of completions each, whose common start is computed once."""

    prompts: Sequence[Sequence[int]]
    """Token ids."""
    completions: Sequence[Sequence[Sequence[int]]]
    """Per prompt, token ids of each completion, none of them empty."""
    pad_id: int
    device: torch.device

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt plus completion."""
        pairs = zip(self.prompts, self.completions, strict=True)
        return max((len(prompt) + max(map(len, own)) for prompt, own in pairs if own), default=0)


def collate(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    pad_id: int,
    device: torch.device,
) -> TokenBatch:
    """Pad rows of token ids into one batch."""
    prompt_lengths = torch.tensor([len(ids) for ids in prompts])
    completion_lengths = torch.tensor([len(ids) for ids in completions])
    p, c = int(prompt_lengths.max()), int(completion_lengths.max())
    input_ids = torch.full((len(prompts), p + c), pad_id, dtype=torch.long)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        input_ids[row, p - len(prompt) : p] = torch.tensor(prompt, dtype=torch.long)
        input_ids[row, p : p + len(completion)] = torch.tensor(completion, dtype=torch.long)
    completion_mask = length_mask(completion_lengths, c)
    prompt_mask = length_mask(prompt_lengths, p).flip(-1)
    return TokenBatch(
        input_ids=input_ids.to(device),
        attention_mask=torch.cat([prompt_mask, completion_mask], dim=-1).to(device),
        completion_mask=completion_mask.to(device),
    )
