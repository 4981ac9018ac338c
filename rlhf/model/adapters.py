"""PEFT's door for adapters on disk: make, save, load, fold into the base, concatenate.

Only plain LoRA goes through here: its update is exactly ``scale * B @ A``, so that folding and
concatenating are matrix arithmetic that can be checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from rlhf.config import AdapterConfig
from rlhf.errors import CheckpointError, ConfigError

CONFIG_NAME = "adapter_config.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class LoraDelta:
    """The update of one adapter: for each module, A (r, in), B (out, r) and their scale."""

    factors: Mapping[str, tuple[Tensor, Tensor, float]]


def lora_config(config: AdapterConfig) -> LoraConfig:
    """Translate our adapter settings for PEFT."""
    names = [name.strip() for name in config.target_modules.split(",") if name.strip()]
    if not names:
        raise ConfigError("adapter.target_modules: empty; use all-linear or module names")
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if names == ["all-linear"] else names,
        bias="none",
    )


def read_lora_config(folder: Path) -> LoraConfig:
    """Read the PEFT config of a saved adapter, refusing what is not plain LoRA."""
    try:
        stored = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {CONFIG_NAME}; not a saved adapter") from None
    traits = [name for name in ("use_dora", "use_rslora") if stored.get(name)]
    if stored.get("peft_type") != "LORA" or traits:
        kind = ", ".join(traits) or stored.get("peft_type")
        raise CheckpointError(f"{folder}: adapter is {kind}, not plain LoRA, which is needed here")
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = False
    config.base_model_name_or_path = None  # our link file decides; PEFT would warn of a moved base
    return config


def save_adapter(model: Any, name: str, folder: Path, *, base_path: Path) -> None:
    """Write one adapter so that plain ``PeftModel.from_pretrained`` loads it.

    Args:
        model: The PeftModel that holds it.
        name: Its name in the model.
        folder: Existing folder to write into.
        base_path: Recorded as the model that the adapter belongs to.
    """
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    _write(folder, model.peft_config[name], state, base_path)


def load_adapter(model: Any, name: str, folder: Path) -> None:
    """Fill the adapter ``name``, already present in ``model``, with saved weights."""
    state = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    load_adapter_state(model, name, state, where=str(folder))


def adapter_state(model: Any, name: str) -> dict[str, Tensor]:
    """Copy the weights of one adapter, under PEFT's own names."""
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    return {key: value.detach().cpu().clone() for key, value in state.items()}


def load_adapter_state(model: Any, name: str, state: Mapping[str, Tensor], *, where: str) -> None:
    """Set the weights of one adapter; anything missing or unknown is refused."""
    expected = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    if expected != set(state):
        odd = sorted(expected ^ set(state))
        raise CheckpointError(
            f"{where}: adapter weights don't fit the model: {odd[0]} (and {len(odd) - 1} more)"
        )
    set_peft_model_state_dict(model, dict(state), adapter_name=name)


def negate(model: Any, name: str) -> None:
    """Turn the sign of an adapter's update, in place."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if f".lora_B.{name}." in key:
                parameter.neg_()


def read_delta(folder: Path) -> LoraDelta:
    """Read a saved plain LoRA adapter as per-module factors."""
    config = read_lora_config(folder)
    state = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    factors = {}
    for key, a in state.items():
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        b = state[key.replace(".lora_A.", ".lora_B.")]
        factors[module] = (a.float(), b.float(), config.lora_alpha / config.r)
    return LoraDelta(factors)


def fold(model: Any, delta: LoraDelta) -> None:
    """Add an adapter's update to the weights of a plain base, computed in float32, cast once."""
    with torch.no_grad():
        for name, (a, b, scale) in delta.factors.items():
            module = model.get_submodule(name)
            weight = module.weight
            update = (b.to(weight.device) @ a.to(weight.device)) * scale
            if isinstance(module, Conv1D):  # GPT-2's own layer stores (in, out)
                update = update.T
            weight.copy_((weight.float() + update).to(weight.dtype))


def concatenate(deltas: list[LoraDelta], folder: Path, *, base_path: Path) -> None:
    """Write one adapter whose update is the exact sum of several.

    Each scale is folded into its B, and alpha equals the rank, so that the sum's scale is 1. A
    module that one adapter lacks is filled with zeros.

    Args:
        deltas: Updates to add, all for the same base.
        folder: Existing folder to write into.
        base_path: Recorded as the model that the adapter belongs to.
    """
    ranks = [next(iter(delta.factors.values()))[0].shape[0] for delta in deltas]
    modules = sorted(set().union(*(delta.factors for delta in deltas)))
    state: dict[str, Tensor] = {}
    for module in modules:
        parts = [delta.factors.get(module) for delta in deltas]
        known = next(part for part in parts if part is not None)
        width, height = known[0].shape[1], known[1].shape[0]
        a_parts, b_parts = [], []
        for part, rank in zip(parts, ranks, strict=True):
            a_parts.append(torch.zeros(rank, width) if part is None else part[0])
            b_parts.append(torch.zeros(height, rank) if part is None else part[1] * part[2])
        state[f"{_PREFIX}{module}.lora_A.weight"] = torch.cat(a_parts, dim=0)
        state[f"{_PREFIX}{module}.lora_B.weight"] = torch.cat(b_parts, dim=1)
    total = sum(ranks)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=total, lora_alpha=total, target_modules=modules, bias="none"
    )
    _write(folder, config, state, base_path)


def attach_saved(model: Any, folder: Path) -> None:
    """Load a saved adapter into a plain model with PEFT's own loader, as its users do."""
    PeftModel.from_pretrained(model, str(folder)).eval()


def _write(folder: Path, config: LoraConfig, state: Mapping[str, Tensor], base_path: Path) -> None:
    previous = (config.base_model_name_or_path, config.inference_mode)
    config.base_model_name_or_path, config.inference_mode = str(base_path), True
    config.save_pretrained(str(folder))
    config.base_model_name_or_path, config.inference_mode = previous
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
