"""How the base runs: teacher-forced passes and decoding, with whatever adapter is in scope.

``TransformersForward`` runs the model's own code and serves any decoder-only model;
``rlhf.model.llama`` computes the same for the Llama family in less time and memory. Axes: B rows,
P prompt, C completion tokens, N real completion tokens of all rows in the order of
``TokenBatch.completion_mask``, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf.data.collation import GroupBatch, TokenBatch, collate
from rlhf.ops.logprobs import completion_window, token_logprobs


class Decoder(Protocol):
    """Rows that are being completed, one token at a time; it holds their keys and values."""

    def advance(self, tokens: Tensor) -> Tensor:
        """Append one token to each row (B,); give the logits of the next, (B, V)."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, in this order; integer, (rows left,)."""


class Forward(Protocol):
    """The passes over a base that the rest of the library is made of."""

    def hidden(self, batch: TokenBatch) -> Tensor:
        """Last hidden state before each real completion token, (N, H)."""

    def last_hidden(self, groups: GroupBatch) -> Tensor:
        """Last hidden state at the last token of each completion, group by group, (B, H)."""

    def logprobs(self, batch: TokenBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the real completion tokens, and the states they were read from.

        Args:
            batch: Prompts with their completions.
            temperature: Divides the logits.

        Returns:
            float32 (N,) in nats, and the last hidden states (N, H), from one pass.
        """

    def prefill(self, prompts: TokenBatch, size: int) -> tuple[Tensor, Decoder]:
        """Read prompts and make room for ``size`` more tokens; without gradients.

        Returns:
            Logits of the first completion token, (B, V), and the decoder that goes on.
        """


class TransformersForward:
    """The model's own forward pass."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def hidden(self, batch: TokenBatch) -> Tensor:
        """See ``Forward``."""
        return _at_completion(self._last_hidden_state(batch), batch)

    def last_hidden(self, groups: GroupBatch) -> Tensor:
        """See ``Forward``; several completions of a prompt read it from a cache."""
        counts = torch.tensor([len(own) for own in groups.completions], device=groups.device)
        owner = torch.arange(len(counts), device=groups.device).repeat_interleave(counts)
        completions = [ids for own in groups.completions for ids in own]
        rows = [groups.prompts[place] for place in owner.tolist()]
        batch = collate(rows, completions, pad_id=groups.pad_id, device=groups.device)
        last = batch.completion_mask.sum(dim=-1) - 1
        if int(counts.max()) == 1:
            hidden = self._last_hidden_state(batch)[:, batch.prompt_size :]
        else:
            hidden = self._after_prompts(groups, batch, owner)
        return hidden[torch.arange(len(last), device=last.device), last]

    def _after_prompts(self, groups: GroupBatch, batch: TokenBatch, owner: Tensor) -> Tensor:
        """States of the completions (B, C, H), each prompt run once; exact with gradients."""
        empty: list[list[int]] = [[] for _ in groups.prompts]
        prompts = collate(groups.prompts, empty, pad_id=groups.pad_id, device=groups.device)
        cache = DynamicCache(config=self.model.config)
        self.model.base_model(**_inputs(prompts), past_key_values=cache, use_cache=True)
        cache.reorder_cache(owner)
        size = prompts.prompt_size
        surplus = batch.prompt_size - size
        hidden: Tensor = self.model.base_model(
            input_ids=batch.completion_ids,
            attention_mask=batch.attention_mask[:, surplus:],
            position_ids=batch.position_ids[:, batch.prompt_size :],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def logprobs(self, batch: TokenBatch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """See ``Forward``."""
        states: list[Tensor] = []
        hook = self.model.base_model.register_forward_hook(
            lambda _module, _inputs, output: states.append(output.last_hidden_state)
        )
        size = batch.completion_mask.shape[1]
        with hook:
            output = self.model(**_inputs(batch), logits_to_keep=size + 1, use_cache=False)
        logits = completion_window(output.logits, size)
        logprobs = token_logprobs(logits, batch.completion_ids, temperature=temperature)
        return logprobs[batch.completion_mask], _at_completion(states[0], batch)

    def prefill(self, prompts: TokenBatch, size: int) -> tuple[Tensor, Decoder]:
        """See ``Forward``; the cache grows as it is filled."""
        decoder = _TransformersDecoder(self.model, prompts)
        return decoder.logits(prompts.input_ids), decoder

    def _last_hidden_state(self, batch: TokenBatch) -> Tensor:
        """(B, T, H)."""
        hidden: Tensor = self.model.base_model(**_inputs(batch), use_cache=False).last_hidden_state
        return hidden


def _inputs(batch: TokenBatch) -> dict[str, Tensor]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }


def _at_completion(hidden: Tensor, batch: TokenBatch) -> Tensor:
    """States (B, T, H) before each real completion token, (N, H)."""
    return completion_window(hidden, batch.completion_mask.shape[1])[batch.completion_mask]


class _TransformersDecoder:
    """Decoding with transformers' cache; prompts are padded on the left."""

    def __init__(self, model: Any, prompts: TokenBatch) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        self.mask = prompts.attention_mask
        self.positions = prompts.position_ids

    def logits(self, input_ids: Tensor) -> Tensor:
        """Append tokens (B, any number) whose positions and mask are set."""
        with torch.no_grad():
            output = self.model(
                input_ids=input_ids,
                attention_mask=self.mask,
                position_ids=self.positions,
                past_key_values=self.cache,
                logits_to_keep=1,
                use_cache=True,
            )
        logits: Tensor = output.logits[:, -1]
        return logits

    def advance(self, tokens: Tensor) -> Tensor:
        """See ``Decoder``."""
        self.positions = self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=-1)
        return self.logits(tokens[:, None])

    def keep(self, rows: Tensor) -> None:
        """See ``Decoder``."""
        self.cache.reorder_cache(rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]
