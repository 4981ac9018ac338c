"""Which float32 matrix product a CPU runs.

torch sends float32 products to MKL, which takes a slow path on processors that are not Intel's.
oneDNN is about twice as fast there, and torch reaches it through ``fp32_precision = "bf16"``. What
that setting does depends on the processor: with units for bfloat16 (AMX) the arithmetic really is
bfloat16, elsewhere it stays float32. So both error and time are measured once, and oneDNN is taken
only where it is as exact as float32 and clearly faster.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

_SHAPE = (256, 512, 1024)
"""Rows, inputs and outputs of the product that is measured."""
_LARGEST_ERROR = 2e-6
"""Of the largest output; MKL's own is near 3e-7, bfloat16's near 3e-3."""
_GAIN = 1.2
_ROUNDS = 5


@contextmanager
def float32_products(*, large: bool) -> Iterator[None]:
    """Run float32 products on the CPU through whichever library suits their size.

    Args:
        large: True for passes over whole sequences; False for decoding, where the products of
            oneDNN are the slower ones.
    """
    if not onednn_pays():
        yield
        return
    onednn: Any = torch.backends.mkldnn
    settings = onednn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16" if large else "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before


@cache
def onednn_pays() -> bool:
    """Measure whether oneDNN multiplies float32 exactly enough and faster than the default."""
    onednn: Any = torch.backends.mkldnn
    if not onednn.is_available():
        return False
    settings = onednn.matmul
    before = settings.fp32_precision
    x, weight = _operands()
    try:
        settings.fp32_precision = "ieee"
        default = _seconds(x, weight)
        settings.fp32_precision = "bf16"
        return default > _GAIN * _seconds(x, weight) and _error() <= _LARGEST_ERROR
    finally:
        settings.fp32_precision = before


def _operands() -> tuple[Tensor, Tensor]:
    rows, inputs, outputs = _SHAPE
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=generator)
    return x, torch.randn(outputs, inputs, generator=generator)


def _error() -> float:
    """Largest error of a product, as a share of its largest element."""
    x, weight = _operands()
    exact = x.double() @ weight.double().T
    return float((x @ weight.T - exact).abs().max() / exact.abs().max())


def _seconds(x: Tensor, weight: Tensor) -> float:
    """Best time of a product."""
    found = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        found.append(time.perf_counter() - started)
    return min(found)
