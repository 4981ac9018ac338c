"""What the Llama pass reads of a model: references to its weights and to the adapter in scope.

Only models whose every part is known are read; ``supports`` tells them from the rest. Axes: H
hidden, D size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from rlhf.model.kernels import Adapter, LinearMap

_CLASSES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Kinds of RoPE whose frequencies do not depend on the length of the sequence."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_HOMES = ("torch.nn.", "peft.tuners.lora.", "transformers.models.", "transformers.activations")
"""Packages whose modules run as their class says."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer with the adapter in scope."""

    qkv: tuple[LinearMap, ...]
    out: tuple[LinearMap, ...]
    gate_up: tuple[LinearMap, ...]
    down: tuple[LinearMap, ...]
    attention_norm: Tensor
    """(H,)."""
    mlp_norm: Tensor
    """(H,)."""
    q_norm: Tensor | None
    """Qwen3 normalises each query and key head, (D,)."""
    k_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class Weights:
    """References to a model's weights; none is copied."""

    embedding: Tensor
    """(V, H)."""
    layers: tuple[Layer, ...]
    norm: Tensor
    """(H,)."""
    head: Tensor
    """(V, H)."""
    eps: float
    head_size: int
    key_heads: int
    frequencies: Tensor
    """Angle per position of each pair, (D / 2,)."""
    rope_scale: float
    """Factor of cosine and sine; 1 but for yarn."""

    @classmethod
    def of(cls, model: Any) -> Weights:
        """Read a model and its tuner layers as they are now."""
        trunk = model.model
        return cls(
            embedding=trunk.embed_tokens.weight,
            layers=tuple(_layer_of(layer) for layer in trunk.layers),
            norm=trunk.norm.weight,
            head=model.lm_head.weight,
            eps=trunk.norm.variance_epsilon,
            head_size=trunk.layers[0].self_attn.head_dim,
            key_heads=model.config.num_key_value_heads,
            frequencies=trunk.rotary_emb.inv_freq,
            rope_scale=trunk.rotary_emb.attention_scaling,
        )

    def products(self) -> list[Tensor]:
        """All weights that a hidden state is multiplied with."""
        groups = (g for x in self.layers for g in (x.qkv, x.out, x.gate_up, x.down))
        return [m.weight for group in groups for m in group] + [self.head]

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the angles at positions (N,), (N, D / 2) in the model's dtype."""
        angles = positions[:, None].float() * self.frequencies.float()
        dtype = self.embedding.dtype
        return (
            (angles.cos() * self.rope_scale).to(dtype),
            (angles.sin() * self.rope_scale).to(dtype),
        )


def _layer_of(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return Layer(
        qkv=(_map_of(attention.q_proj), _map_of(attention.k_proj), _map_of(attention.v_proj)),
        out=(_map_of(attention.o_proj),),
        gate_up=(_map_of(mlp.gate_proj), _map_of(mlp.up_proj)),
        down=(_map_of(mlp.down_proj),),
        attention_norm=layer.input_layernorm.weight,
        mlp_norm=layer.post_attention_layernorm.weight,
        q_norm=None if q_norm is None else q_norm.weight,
        k_norm=None if k_norm is None else k_norm.weight,
    )


def _map_of(layer: Any) -> LinearMap:
    """The frozen map, with the adapter that PEFT would apply now."""
    if not isinstance(layer, BaseTunerLayer):
        return LinearMap(layer.weight, layer.bias)
    base = layer.base_layer
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or not active:
        return LinearMap(base.weight, base.bias)
    (name,) = active
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    return LinearMap(base.weight, base.bias, Adapter(down, up, layer.scaling[name]))


def sliding_window(model: Any) -> int | None:
    """The window of any layer that has one; a row that it holds attends as without it."""
    config = model.config
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    window: int | None = getattr(config, "sliding_window", None)
    return window if "sliding_attention" in kinds else None


def supports(model: Any) -> bool:
    """Whether every part of a model, its adapters included, is what the Llama pass computes."""
    if type(model) not in _CLASSES:
        return False
    rotary = model.model.rotary_emb
    base = [p for name, p in model.named_parameters() if ".lora_" not in name]
    return (
        model.config.hidden_act == "silu"
        and not model.config.attention_dropout
        and rotary.rope_type in _FIXED_ROPE
        and 2 * len(rotary.inv_freq) == model.model.layers[0].self_attn.head_dim
        and {(p.dtype, p.device) for p in base} == {(model.dtype, model.device)}
        and model.dtype in _DTYPES
        and all(_is_known(module) for module in model.modules())
        and type(model.lm_head) is nn.Linear
    )


def _is_known(module: nn.Module) -> bool:
    """Neither quantised nor hooked, and of PEFT's layers only plain LoRA around a linear map."""
    hooked = module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook")
    if hooked or not type(module).__module__.startswith(_HOMES):
        return False
    if isinstance(module, nn.Linear):
        return type(module.weight) is nn.Parameter
    if isinstance(module, BaseTunerLayer):
        odd = module.merged or module.fan_in_fan_out or module.lora_variant
        return type(module) is lora.Linear and not (odd or any(module.lora_bias.values()))
    return True
