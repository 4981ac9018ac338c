"""Sample completions from the full distribution, one token at a time with a KV cache.

Nothing of the model's own generation config acts: no top-k, no top-p, no penalties. The noise of
a row comes from its key and the position alone, so that the same completion is sampled in any
batch, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf.data.chat import ChatFormat
from rlhf.data.collation import collate
from rlhf.errors import ConfigError
from rlhf.model.roles import Roles

NoiseKey = tuple[int, ...]
"""What a row's noise depends on: (seed, purpose, update, row)."""


def uniform_noise(keys: Sequence[NoiseKey], size: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 (B, size); a row depends on its key alone."""
    rows = [np.random.Generator(np.random.Philox(np.random.SeedSequence(key))) for key in keys]
    return torch.from_numpy(np.stack([row.random(size) for row in rows]))


def sample_completions(
    roles: Roles,
    chat: ChatFormat,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    keys: Sequence[NoiseKey] | None,
) -> list[list[int]]:
    """Sample one completion per prompt with the role in scope.

    Args:
        roles: The model; the caller has opened the scope of the role to sample from.
        chat: Stop tokens and padding.
        prompts: Token ids, one list per row.
        max_new_tokens: Longest completion; one that reaches it without a stop token is truncated.
        temperature: Divides the logits.
        keys: Noise key of each row, or None for greedy decoding.

    Returns:
        Token ids per row; the stop token, where one was sampled, is the last.

    Raises:
        ConfigError: If prompt and completion could outgrow the model's positions.
    """
    require_room(roles, max(map(len, prompts)), max_new_tokens)
    noise = None if keys is None else uniform_noise(keys, max_new_tokens)
    batch = collate(prompts, [[] for _ in prompts], pad_id=chat.pad_id, device=roles.base.device)
    completions: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=roles.base.device)
    mask = batch.attention_mask
    cache = DynamicCache(config=roles.causal_lm.config)
    input_ids, position_ids = batch.input_ids, batch.position_ids
    stops = torch.tensor(sorted(chat.stop_ids), device=rows.device)
    with torch.no_grad():
        for step in range(max_new_tokens):
            output = roles.causal_lm(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                logits_to_keep=1,
                use_cache=True,
            )
            uniform = None if noise is None else noise[rows.cpu(), step].to(rows.device)
            tokens = pick_tokens(output.logits[:, -1], uniform, temperature=temperature)
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                completions[row].append(token)
            alive = ~torch.isin(tokens, stops)
            if not alive.any():
                break
            position_ids = position_ids[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
            input_ids = tokens[:, None]
            if not alive.all():  # finished rows cost nothing further
                keep = alive.nonzero().squeeze(-1)
                cache.reorder_cache(keep)
                rows, mask = rows[keep], mask[keep]
                input_ids, position_ids = input_ids[keep], position_ids[keep]
    return completions


def positions(roles: Roles) -> int | None:
    """Tokens that the model has positions for; None where that is not bounded."""
    limit: int | None = getattr(
        roles.causal_lm.config.get_text_config(), "max_position_embeddings", None
    )
    return limit


def require_room(roles: Roles, longest: int, max_new_tokens: int) -> None:
    """Refuse a prompt length that leaves no room for the completion.

    Raises:
        ConfigError: If prompt and completion could outgrow the model's positions.
    """
    limit = positions(roles)
    if limit is not None and longest + max_new_tokens > limit:
        raise ConfigError(
            f"max_new_tokens: a prompt of {longest} tokens and {max_new_tokens} new ones don't fit "
            f"the model's {limit} positions; lower max_new_tokens or shorten the prompts"
        )


def pick_tokens(logits: Tensor, uniform: Tensor | None, *, temperature: float) -> Tensor:
    """Choose one token per row by inverting the cumulative distribution.

    Args:
        logits: (B, V), any float dtype.
        uniform: One number in [0, 1) per row, float64 (B,); None takes the likeliest token.
        temperature: Divides the logits.

    Returns:
        Token ids (B,). A token of probability 0 is never chosen.
    """
    if uniform is None:
        return logits.argmax(dim=-1)
    cumulative = (logits.float() / temperature).softmax(dim=-1).double().cumsum(dim=-1)
    # The sum may miss 1 by rounding: scale the draw instead of running past the end.
    draw = uniform[:, None] * cumulative[:, -1:]
    return (
        torch.searchsorted(cumulative, draw, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    )
