"""The scalar head that turns a hidden state into a score or a value; always float32."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf.checkpoints import load_tensors, save_tensors
from rlhf.errors import CheckpointError


class ScalarHead(nn.Module):
    """A linear map to one number, then ``(raw - mean) / std``.

    It lives outside PEFT (an adapter loaded into another model type silently loses its head).
    The score head has no bias, like transformers' sequence classifiers; ``mean`` and ``std`` are
    set once after training so that scores are centred and of unit spread, and then frozen.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., H) to (...,) in float32."""
        raw = hidden.float() @ self.weight + self.bias
        return (raw - self.mean) / self.std

    def normalize(self, mean: float, std: float) -> None:
        """Fix the constants that centre and scale the output."""
        if not std > 0:
            raise ValueError(f"std must be more than 0, not {std}")
        self.mean.fill_(mean)
        self.std.fill_(std)

    def copy_normalized(self, source: ScalarHead, factor: float = 1.0) -> None:
        """Become ``factor`` times ``source``, its normalisation folded into the weights."""
        with torch.no_grad():
            self.weight.copy_(factor * source.weight / source.std)
            self.bias.copy_(factor * (source.bias - source.mean) / source.std)

    def save(self, path: Path) -> None:
        """Write weights and constants as safetensors."""
        save_tensors(path, {name: value.cpu() for name, value in self.state_dict().items()})

    def load(self, path: Path) -> None:
        """Read what ``save`` wrote; anything missing or extra is an error."""
        if not path.is_file():
            raise CheckpointError(
                f"{path}: the head is missing, and without it an adapter's scores mean nothing; "
                "restore the whole folder [head_missing]"
            )
        tensors, _ = load_tensors(path)
        self.load_state_dict(tensors)
