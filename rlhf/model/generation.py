"""Sample completions from the full distribution, one token at a time with a KV cache.

Nothing of the model's own generation config acts: no top-k, no top-p, no penalties. The noise of
a row comes from its key and the position alone, so that the same completion is sampled in any
batch, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.data.chat import ChatFormat
from rlhf.data.collation import collate
from rlhf.errors import ConfigError
from rlhf.model.precision import float32_products
from rlhf.model.roles import Roles

NoiseKey = tuple[int, ...]
"""What a row's noise depends on: (seed, purpose, update, row)."""

_BLOCK = 256
"""Tokens that are summed before the cumulative sum."""


def uniform_noise(keys: Sequence[NoiseKey], size: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 (B, size); a row depends on its key alone."""
    rows = [np.random.Generator(np.random.Philox(np.random.SeedSequence(key))) for key in keys]
    return torch.from_numpy(np.stack([row.random(size) for row in rows]))


@dataclass(frozen=True, slots=True)
class Sampled:
    """Completions of several prompts; axis order: rows, tokens."""

    ids: list[list[int]]
    """Token ids; the stop token, where one was sampled, is the last."""
    logprobs: list[list[float]]
    """Of each token under the distribution that it was drawn from, nats."""


def sample_completions(
    roles: Roles,
    chat: ChatFormat,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    keys: Sequence[NoiseKey] | None,
) -> Sampled:
    """Sample one completion per prompt with the role in scope.

    Args:
        roles: The model; the caller has opened the scope of the role to sample from.
        chat: Stop tokens and padding.
        prompts: Token ids, one list per row.
        max_new_tokens: Longest completion; one that reaches it without a stop token is truncated.
        temperature: Divides the logits.
        keys: Noise key of each row, or None for greedy decoding.

    Raises:
        ConfigError: If prompt and completion could outgrow the model's positions.
    """
    require_room(roles, max(map(len, prompts)), max_new_tokens)
    device = roles.base.device
    noise = None if keys is None else uniform_noise(keys, max_new_tokens).to(device)
    batch = collate(prompts, [[] for _ in prompts], pad_id=chat.pad_id, device=device)
    sampled = Sampled([[] for _ in prompts], [[] for _ in prompts])
    rows = list(range(len(prompts)))
    with torch.no_grad(), float32_products(large=False):
        logits, decoder = roles.forward.prefill(batch, max_new_tokens)
        for step in range(max_new_tokens):
            uniform = None if noise is None else noise[rows, step]
            tokens, logprobs = pick_tokens(logits, uniform, temperature=temperature)
            drawn = tokens.tolist()
            for row, token, logprob in zip(rows, drawn, logprobs.tolist(), strict=True):
                sampled.ids[row].append(token)
                sampled.logprobs[row].append(logprob)
            alive = [token not in chat.stop_ids for token in drawn]
            if not any(alive) or step == max_new_tokens - 1:
                break
            if not all(alive):  # finished rows cost nothing further
                order = _close_up(alive)
                kept = torch.tensor(order, device=device)
                decoder.keep(kept)
                tokens, rows = tokens[kept], [rows[at] for at in order]
            logits = decoder.advance(tokens)
    return sampled


def _close_up(alive: list[bool]) -> list[int]:
    """The rows that are alive, the last of them in the places of the others."""
    count = sum(alive)
    behind = [at for at in range(count, len(alive)) if alive[at]]
    return [at if alive[at] else behind.pop() for at in range(count)]


def positions(roles: Roles) -> int | None:
    """Tokens that the model has positions for; None where that is not bounded."""
    limit: int | None = getattr(
        roles.causal_lm.config.get_text_config(), "max_position_embeddings", None
    )
    return limit


def require_room(roles: Roles, longest: int, max_new_tokens: int, *, closed: bool = False) -> None:
    """Refuse a prompt length that leaves no room for the completion.

    Args:
        roles: The model.
        longest: Tokens of the longest prompt.
        max_new_tokens: Longest completion.
        closed: Whether a truncated completion gets an end token behind it, as for a reward model.

    Raises:
        ConfigError: If prompt and completion could outgrow the model's positions.
    """
    limit = positions(roles)
    if limit is not None and longest + max_new_tokens + closed > limit:
        end = ", with the end token that the reward model reads," if closed else ""
        raise ConfigError(
            f"max_new_tokens: a prompt of {longest} tokens and {max_new_tokens} new ones{end} "
            f"don't fit the model's {limit} positions; lower max_new_tokens or shorten the prompts"
        )


def pick_tokens(
    logits: Tensor, uniform: Tensor | None, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Choose one token per row by inverting the cumulative distribution.

    The sum runs in two steps, over blocks of the vocabulary and then inside one block: a long
    cumulative sum costs more than the softmax.

    Args:
        logits: (B, V), any float dtype.
        uniform: One number in [0, 1) per row, float64 (B,); None takes the likeliest token.
        temperature: Divides the logits.

    Returns:
        Token ids (B,), none of probability 0, and their log-probabilities, float32 (B,).
    """
    scaled = logits.float()
    logprobs = (scaled if temperature == 1.0 else scaled / temperature).log_softmax(dim=-1)
    if uniform is None:
        best = logprobs.max(dim=-1)
        return best.indices, best.values
    blocks = _blocks(logprobs.exp())
    block, rest = _invert(blocks.sum(dim=-1), uniform[:, None])
    inside = blocks[torch.arange(len(blocks), device=block.device), block[:, 0]]
    tokens = block * _BLOCK + _invert(inside, rest)[0]
    return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]


def _blocks(masses: Tensor) -> Tensor:
    """Cut (B, V) into (B, V / _BLOCK rounded up, _BLOCK), filled up with zeros."""
    missing = -masses.shape[-1] % _BLOCK
    whole = F.pad(masses, (0, missing)) if missing else masses
    return whole.view(len(masses), -1, _BLOCK)


def _invert(masses: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Find where a share ``uniform`` of the total mass is passed.

    Args:
        masses: (B, n).
        uniform: In [0, 1], float64 (B, 1).

    Returns:
        The element, never one of mass 0, and the share of its own mass that was passed, (B, 1)
        each.
    """
    cumulative = masses.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    # Below the total, even where the product is rounded up: the last mass is the last choice.
    draw = torch.minimum(uniform * total, total.nextafter(torch.zeros_like(total)))
    chosen = torch.searchsorted(cumulative, draw, right=True)
    chosen.clamp_(max=masses.shape[-1] - 1)  # NaN is passed nowhere; callers find it in logprobs
    left = (cumulative.gather(-1, chosen) - draw) / masses.gather(-1, chosen)
    return chosen, (1 - left).clamp_(0, 1)
