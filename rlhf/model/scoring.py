"""Teacher-forced passes: log-probabilities, values and scores of given completions.

Each runs in the role scope that the caller opened. Axes: B rows, P prompt, C completion tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.data.collation import TokenBatch
from rlhf.model.heads import ScalarHead
from rlhf.model.roles import Roles
from rlhf.ops.logprobs import completion_window, token_logprobs


def completion_logits(roles: Roles, batch: TokenBatch) -> Tensor:
    """Logits that predict the completion tokens, (B, C, V); no other position is computed."""
    size = batch.completion_mask.shape[1]
    output = roles.causal_lm(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        logits_to_keep=size + 1,
        use_cache=False,
    )
    return completion_window(output.logits, size)


def completion_logprobs(roles: Roles, batch: TokenBatch, *, temperature: float) -> Tensor:
    """Log-probabilities of the completion tokens in nats, float32 (B, C), 0 at padding."""
    logits = completion_logits(roles, batch)
    logprobs = token_logprobs(logits, batch.completion_ids, temperature=temperature)
    return roles.track(logprobs.masked_fill(~batch.completion_mask, 0.0))


def completion_values(roles: Roles, batch: TokenBatch, head: ScalarHead) -> Tensor:
    """Value of the state before each completion token, float32 (B, C), 0 at padding."""
    size = batch.completion_mask.shape[1]
    values = head(_hidden(roles, batch)[:, -size - 1 : -1])
    return roles.track(values.masked_fill(~batch.completion_mask, 0.0))


def completion_scores(roles: Roles, batch: TokenBatch, head: ScalarHead) -> Tensor:
    """Score of each completion, read at its last real token, float32 (B,)."""
    last = batch.prompt_size + batch.completion_mask.sum(dim=-1) - 1
    hidden = _hidden(roles, batch)
    rows = torch.arange(len(last), device=last.device)
    return roles.track(head(hidden[rows, last]))


def _hidden(roles: Roles, batch: TokenBatch) -> Tensor:
    """Last hidden state of the backbone, (B, T, H)."""
    output = roles.backbone(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden
