"""Floating-point operations and bytes of one PPO update with LoRA, by counting. No torch.

A multiplication and an addition are two operations. Norms, activations, softmax and the optimiser
are left out, so a time derived from this is a floor.
"""

from __future__ import annotations

from dataclasses import dataclass

from job import Job, Shape


@dataclass(frozen=True, slots=True)
class Work:
    """What one update asks of the machine at the least."""

    prefill: float
    """FLOPs of the prompts' forward pass, adapter merged, logits at the last position."""
    decode_steps: int
    """Steps after the prefill; the prefill gives the first token."""
    decode: float
    """FLOPs of one step for all sequences, adapter merged, at the mean context length."""
    decode_bytes: float
    """Bytes read in one step: every weight once, and keys and values at the mean length."""
    scoring: float
    """FLOPs of the passes without gradients."""
    optimisation: float
    """FLOPs of forward and backward passes of all optimiser steps."""


def update_work(shape: Shape, job: Job, *, weight_bytes: int, shared_value: bool) -> Work:
    """Count one PPO update.

    - Rollout: one prefill of ``sequences x prompt_tokens``, then ``completion_tokens - 1`` steps.
      Weights are read once per step for the whole batch; the adapter is merged, so it costs
      nothing; keys and values are held in the weights' precision.
    - Scoring: policy and reference over all tokens but the last with logits at the completion,
      the reward over all tokens and an end token without logits, and, with a separate value
      adapter, the value without logits.
    - Optimisation: ``epochs`` forward and backward passes of the policy, and of the value without
      logits where it is an adapter of its own. A shared value costs one head: nothing.

    Args:
        shape: The model.
        job: Lengths and counts.
        weight_bytes: Bytes per weight: 4 or 2.
        shared_value: Whether values are read from the policy's trunk.
    """
    prompt, completion, rank = job.prompt_tokens, job.completion_tokens, job.lora_rank
    read = prompt + completion - 1
    reference = forward_flops(shape, read, logits=completion, rank=0)
    policy = forward_flops(shape, read, logits=completion, rank=rank)
    value = forward_flops(shape, read, logits=0, rank=rank)
    reward = forward_flops(shape, read + 2, logits=0, rank=rank)
    policy_back = backward_flops(shape, read, logits=completion, rank=rank)
    value_back = backward_flops(shape, read, logits=0, rank=rank)
    scored, learnt = policy + reference + reward, policy + policy_back
    if not shared_value:
        scored, learnt = scored + value, learnt + value + value_back
    context = prompt + completion / 2
    attended = 4 * shape.hidden * context * shape.layers
    keys_and_values = 2 * shape.kv_width * context * shape.layers * job.sequences
    weights = linear_weights(shape) + shape.hidden * shape.vocab
    return Work(
        prefill=job.sequences * forward_flops(shape, prompt, logits=1, rank=0),
        decode_steps=completion - 1,
        decode=job.sequences * (2 * weights + attended),
        decode_bytes=weight_bytes * (weights + keys_and_values),
        scoring=job.sequences * scored,
        optimisation=job.sequences * job.epochs * learnt,
    )


def layer_maps(shape: Shape) -> list[tuple[int, int]]:
    """The (in, out) widths of a layer's linear maps: q, k, v, o, gate, up, down."""
    h, kv, mlp = shape.hidden, shape.kv_width, shape.mlp
    return [(h, h), (h, kv), (h, kv), (h, h), (h, mlp), (h, mlp), (mlp, h)]


def linear_weights(shape: Shape) -> int:
    """Weights of all layers' linear maps."""
    return shape.layers * sum(i * o for i, o in layer_maps(shape))


def forward_flops(shape: Shape, length: int, *, logits: int, rank: int) -> float:
    """FLOPs of a forward pass over one sequence.

    Args:
        shape: The model.
        length: Tokens of the sequence.
        logits: Positions that the output head is applied to.
        rank: Of the LoRA adapter on every linear map; 0 for none or a merged one.
    """
    maps = layer_maps(shape)
    linear = 2 * linear_weights(shape) * length
    lora = 2 * rank * sum(i + o for i, o in maps) * shape.layers * length
    return linear + lora + _attention(shape, length) + 2 * shape.hidden * shape.vocab * logits


def backward_flops(shape: Shape, length: int, *, logits: int, rank: int) -> float:
    """FLOPs of the backward pass of ``forward_flops`` when only the adapter is trained.

    A frozen map costs the gradient of its input, as much as its forward pass; the first layer's
    q, k and v and their adapters need none, for the embedding below is frozen. An adapter costs
    twice its forward pass (input and weights), attention twice its own, the head the gradient of
    its input.
    """
    maps = layer_maps(shape)
    linear = 2 * (linear_weights(shape) - sum(i * o for i, o in maps[:3])) * length
    lora = 4 * rank * sum(i + o for i, o in maps) * shape.layers * length
    lora -= 2 * rank * sum(i for i, _ in maps[:3]) * length
    attention = 2 * _attention(shape, length)
    return linear + lora + attention + 2 * shape.hidden * shape.vocab * logits


def _attention(shape: Shape, length: int) -> float:
    """Scores and weighted sums of one sequence, the masked half left out."""
    return 4 * shape.hidden * shape.layers * length * (length + 1) / 2
