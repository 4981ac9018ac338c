"""Teacher-forced passes: log-probabilities, values and scores of given completions.

Each runs in the role scope that the caller opened. Axes: B rows, C completion tokens.
"""

from __future__ import annotations

from torch import Tensor

from rlhf.data.collation import GroupBatch, TokenBatch
from rlhf.model.heads import ScalarHead
from rlhf.model.roles import Roles


def completion_logprobs(roles: Roles, batch: TokenBatch, *, temperature: float) -> Tensor:
    """Log-probabilities of the completion tokens in nats, float32 (B, C), 0 at padding."""
    logprobs, _ = roles.forward.logprobs(batch, temperature=temperature)
    return roles.track(_padded(logprobs, batch))


def completion_values(roles: Roles, batch: TokenBatch, head: ScalarHead) -> Tensor:
    """Value of the state before each completion token, float32 (B, C), 0 at padding."""
    return roles.track(_padded(head(roles.forward.hidden(batch)), batch))


def completion_logprobs_and_values(
    roles: Roles,
    batch: TokenBatch,
    head: ScalarHead,
    *,
    temperature: float,
    detach_values: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and values as above from one pass, for a head on the policy's trunk.

    Args:
        roles: The model; the scope is the policy's.
        batch: Prompts with their completions.
        head: The value head.
        temperature: Divides the logits.
        detach_values: Keep the gradient of the values out of the trunk: the head alone gets it.
    """
    logprobs, hidden = roles.forward.logprobs(batch, temperature=temperature)
    values = head(hidden.detach() if detach_values else hidden)
    return roles.track(_padded(logprobs, batch)), roles.track(_padded(values, batch))


def completion_scores(roles: Roles, groups: GroupBatch, head: ScalarHead) -> Tensor:
    """Score of each completion, group by group, read at its last token, float32 (B,)."""
    scores: Tensor = head(roles.forward.last_hidden(groups))
    return roles.track(scores)


def _padded(flat: Tensor, batch: TokenBatch) -> Tensor:
    """Numbers of the real completion tokens, (N,), in their places, (B, C)."""
    mask = batch.completion_mask
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)
