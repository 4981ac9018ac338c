"""Tiny random models of several families, made in process, with adapters that have an effect."""

from pathlib import Path

import torch
from tiny_model import make_tokenizer
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlhf.config import AdapterConfig
from rlhf.data.collation import GroupBatch, collate
from rlhf.model.base import FrozenBase
from rlhf.model.roles import Roles

CPU = torch.device("cpu")
PROMPTS = [[1, 3, 7, 8, 4], [1, 3, 9, 4], [1, 3, 7, 9, 11, 12, 4], [1, 3, 10, 4]]
COMPLETIONS = [[10, 11, 2], [6, 7, 8, 9, 2], [15, 2], [5, 6, 9, 12, 2]]
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0} | {
    "original_max_position_embeddings": 32
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

_SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
_OWN_WORDS = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
"""GPT-2's names of the sizes."""
_CLASSES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 16}),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
        | {"query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0},
    ),
    "gpt2": (GPT2LMHeadModel, GPT2Config, _OWN_WORDS),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
}


def make_family(name, *, seed=0, **overrides):
    """A model of a family with every parameter at random: zero biases and unit norms hide bugs."""
    model_class, config_class, own = _CLASSES[name]
    model = model_class(config_class(**_SIZES | own | overrides)).eval()
    rng = torch.Generator().manual_seed(seed)
    for key, parameter in model.named_parameters():
        is_norm = "norm" in key or "ln_" in key
        noise = torch.randn(parameter.shape, generator=rng) * 0.2
        parameter.data = (noise + 1 if is_norm and "bias" not in key else noise).requires_grad_(
            False
        )
    return model


def frozen(model):
    return FrozenBase(model.requires_grad_(False), make_tokenizer(), Path(), "")


def randomize(roles, *names):
    """Give adapters an effect (a fresh one's B is 0)."""
    rng = torch.Generator().manual_seed(5)
    for name in names:
        for parameter in roles.parameters(name).values():
            parameter.data = torch.randn(parameter.shape, generator=rng) * 0.1


def make_roles(model, *, targets="all-linear", **settings):
    """Policy (trained), value (trained) and reward (frozen), all with an effect."""
    roles = Roles(frozen(model), **settings)
    config = AdapterConfig(r=4, lora_alpha=8, target_modules=targets)
    for name in ("policy", "value", "reward"):
        roles.add(name, config, trainable=name != "reward")
    randomize(roles, "policy", "value", "reward")
    return roles


def batch_of(rows=(0, 1, 2, 3)):
    return collate([PROMPTS[r] for r in rows], [COMPLETIONS[r] for r in rows], pad_id=0, device=CPU)


def singles(batch):
    """A batch as groups of one completion each."""
    rows = range(len(batch.input_ids))
    prompt_mask = batch.attention_mask[:, : batch.prompt_size]
    prompts = [batch.input_ids[r, : batch.prompt_size][prompt_mask[r]].tolist() for r in rows]
    own = [[batch.completion_ids[r][batch.completion_mask[r]].tolist()] for r in rows]
    return GroupBatch(prompts, own, pad_id=0, device=CPU)
