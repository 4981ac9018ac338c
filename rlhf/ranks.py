"""The processes of one run: who am I, which rows are mine, sum over everyone.

A plain ``python`` run is one process; ``accelerate launch`` starts several. There is no DDP
wrapper (an adapter frozen at wrap time would never be synchronised): gradients are summed in one
flat buffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor, nn

T = TypeVar("T")


class Ranks:
    """This process among its peers."""

    def __init__(self) -> None:
        # Without CUDA the processes must be told to speak gloo; Apple's GPU lacks float64.
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        state = PartialState(cpu=on_cpu)
        self.rank = int(state.process_index)
        self.size = int(state.num_processes)
        self.device: torch.device = state.device

    @property
    def is_main(self) -> bool:
        """True on the one process that writes files."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Give this process's contiguous share; the shares in rank order are the whole."""
        start = len(items) * self.rank // self.size
        stop = len(items) * (self.rank + 1) // self.size
        return list(items[start:stop])

    def gather(self, items: list[T]) -> list[T]:
        """Join every process's list in rank order, on every process."""
        return items if self.size == 1 else list(gather_object(items))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place; a missing one counts as 0."""
        if self.size == 1:
            return
        owners = list(parameters)
        for parameter in owners:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.reshape(-1).float() for p in owners if p.grad is not None])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in owners])
        for parameter, part in zip(owners, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over processes."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def wait(self) -> None:
        """Let every process arrive here before any goes on."""
        if self.size > 1:
            torch.distributed.barrier()
