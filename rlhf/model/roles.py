"""One frozen base, several roles: which adapter acts is chosen by scope.

=========  ==============================================
role       what runs
=========  ==============================================
policy     base + LoRA "policy"
reference  base, adapters off (``None``): bitwise the base
reward     base + LoRA "reward", read by the score head
value      base + LoRA "value", read by the value head
=========  ==============================================

Rules that remove a class of silent bugs (PEFT's ``set_adapter`` and ``disable_adapter`` rewrite
``requires_grad`` and drop gradients when called between forward and backward):

1. Switching flips the tuner layers' active adapter and nothing else; ``requires_grad`` is set
   once, when a role is added.
2. Forward and backward of one role stay in one scope. Outputs passed to ``track`` raise when
   their gradient arrives in another scope (with gradient checkpointing the recomputation would
   run another adapter and give wrong gradients).
3. Nothing is ever merged into the live base.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhf.config import AdapterConfig
from rlhf.errors import ConfigError
from rlhf.model.adapters import load_adapter, lora_config, read_lora_config
from rlhf.model.base import FrozenBase, weights_digest
from rlhf.model.forward import Forward, TransformersForward
from rlhf.model.llama import LlamaForward
from rlhf.model.llama_weights import supports
from rlhf.model.precision import float32_products, has_large_maps


class Roles:
    """The frozen base with its named adapters."""

    def __init__(
        self, base: FrozenBase, *, forward: Literal["auto", "transformers"] = "auto"
    ) -> None:
        """Take over a base.

        Args:
            base: Loaded and frozen.
            forward: ``auto`` runs models that ``LlamaForward`` knows through it; ``transformers``
                runs any model through its own code.
        """
        self.base = base
        self.causal_lm = base.model
        self._general = forward == "transformers"
        self.forward = self._choose_forward()
        self._frozen = list(base.model.named_parameters())
        self._is_large = has_large_maps(base.model)
        self._peft: Any = None
        self._layers: list[BaseTunerLayer] = []
        self._scope: str | None = None
        self._in_scope = False

    @property
    def peft_model(self) -> Any:
        """The PeftModel around the base; there is one once a role was added."""
        return self._peft

    def _choose_forward(self) -> Forward:
        fast = not self._general and supports(self.causal_lm)
        return LlamaForward(self.causal_lm) if fast else TransformersForward(self.causal_lm)

    def add(
        self, name: str, config: AdapterConfig | Path, *, trainable: bool, seed: int = 0
    ) -> None:
        """Add an adapter: a fresh one (its update is 0), or a saved one from its folder.

        Args:
            name: The role.
            config: Settings of a fresh adapter, or the folder of a saved one.
            trainable: Whether its parameters require gradients, for good.
            seed: Of a fresh adapter's random A matrices; torch's own generator is left alone.
        """
        saved = isinstance(config, Path)
        settings = read_lora_config(config) if isinstance(config, Path) else lora_config(config)
        device = self.base.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self._attach(name, settings)
        if saved:
            load_adapter(self._peft, name, Path(str(config)))
        for parameter in self.parameters(name).values():
            parameter.requires_grad_(trainable)

    def _attach(self, name: str, settings: LoraConfig) -> None:
        trainable = {p for p in self.causal_lm.parameters() if p.requires_grad}
        try:
            if self._peft is None:
                self._peft = get_peft_model(self.causal_lm, settings, adapter_name=name)
            else:
                self._peft.add_adapter(name, settings)
        except ValueError as error:
            raise ConfigError(f"adapter.target_modules: {str(error).splitlines()[0]}") from error
        self._refuse_odd_targets()
        for parameter in self._peft.parameters():
            parameter.requires_grad_(parameter in trainable)
        self._peft.eval()
        self._layers = [m for m in self.causal_lm.modules() if isinstance(m, BaseTunerLayer)]
        self.forward = self._choose_forward()

    def _refuse_odd_targets(self) -> None:
        """Only linear maps that share their weight with nothing can be folded exactly."""
        embedding = self.causal_lm.get_input_embeddings()
        tied = getattr(embedding, "base_layer", embedding).weight
        for name, layer in self.causal_lm.named_modules():
            if isinstance(layer, BaseTunerLayer):
                inner = layer.get_base_layer()
                if not isinstance(inner, (nn.Linear, Conv1D)) or inner.weight is tied:
                    raise ConfigError(
                        f"adapter.target_modules: {name} is no linear map of its own; use "
                        "all-linear or name linear maps inside the layers"
                    )

    def scale(self, name: str) -> float:
        """What an adapter's B @ A is multiplied by."""
        settings = self._peft.peft_config[name]
        return float(settings.lora_alpha / settings.r)

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Parameters of one adapter by name."""
        of_role = re.compile(rf"\.lora_\w+\.{re.escape(name)}(\.|$)")
        named = self._peft.named_parameters()
        return {key: parameter for key, parameter in named if of_role.search(key)}

    @contextmanager
    def use(self, name: str | None) -> Iterator[None]:
        """Run the base with one adapter, or with none (the reference), inside the scope."""
        if self._in_scope:
            raise RuntimeError(f"role {name!r} was asked for inside the scope of {self._scope!r}")
        before = [(layer._active_adapter, layer._disable_adapters) for layer in self._layers]
        for layer in self._layers:
            layer._active_adapter = [name] if name is not None else layer._active_adapter
            layer._disable_adapters = name is None
        self._scope, self._in_scope = name, True
        try:
            with float32_products(large=self._is_large):
                yield
        finally:
            for layer, (active, disabled) in zip(self._layers, before, strict=True):
                layer._active_adapter, layer._disable_adapters = active, disabled
            self._scope, self._in_scope = None, False

    def track(self, output: Tensor) -> Tensor:
        """Make sure that the backward pass of ``output`` runs in the scope it was made in."""
        made_in = self._scope
        if not self._in_scope:
            raise RuntimeError("a role's output was made outside of any scope")

        def check(gradient: Tensor) -> Tensor:
            if not self._in_scope or self._scope != made_in:
                raise RuntimeError(
                    f"backward of role {made_in!r} ran in the scope of {self._scope!r}; keep "
                    "forward and backward of one role in one scope"
                )
            return gradient

        if output.requires_grad:
            output.register_hook(check)  # type: ignore[no-untyped-call]  # torch lacks it
        return output

    def base_digest(self) -> str:
        """sha256 of the base's parameters in memory; it must never change."""
        return weights_digest(self._frozen)
