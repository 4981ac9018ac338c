"""Which float32 matrix product a CPU runs.

torch sends float32 products to MKL, which takes a slow path on processors that are not Intel's.
oneDNN is up to twice as fast there, and torch reaches it through ``fp32_precision = "bf16"``. What
that setting does depends on the processor: with units for bfloat16 (AMX) the arithmetic really is
bfloat16, elsewhere it stays float32. So its error is measured once, and oneDNN is taken only where
it is as exact as float32. Time is not measured: a choice by time could differ from run to run, and
a resumed run would no longer be the straight one bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_LARGE = 2**17
"""Elements of a weight from which on oneDNN is the faster one; a call of it costs more."""
_SHAPE = (256, 512, 1024)
"""Rows, inputs and outputs of the product whose error is measured."""
_LARGEST_ERROR = 2e-6
"""Of the largest output; MKL's own is near 3e-7, bfloat16's near 3e-3."""


@contextmanager
def float32_products(*, large: bool) -> Iterator[None]:
    """Run float32 products on the CPU through whichever library suits their size.

    Args:
        large: True for products with large weights; False for small ones and those of attention,
            where oneDNN is the slower one.
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


def is_large(weight: Tensor) -> bool:
    """Whether products with a weight count as large."""
    return weight.numel() >= _LARGE


def has_large_maps(model: nn.Module) -> bool:
    """Whether products with most of a model's matrices count as large."""
    sizes = sorted(p.numel() for p in model.parameters() if p.ndim == 2)
    return bool(sizes) and sizes[len(sizes) // 2] >= _LARGE


@cache
def onednn_pays() -> bool:
    """Whether oneDNN multiplies float32 exactly, on a processor where the default is slow."""
    onednn: Any = torch.backends.mkldnn
    if not onednn.is_available() or _default_is_fast():
        return False
    settings = onednn.matmul
    before = settings.fp32_precision
    try:
        settings.fp32_precision = "bf16"
        return _error() <= _LARGEST_ERROR
    finally:
        settings.fp32_precision = before


def _default_is_fast() -> bool:
    """Whether float32 products are MKL's on a processor of its maker, or not MKL's at all."""
    mkl: Any = torch.backends.mkl
    if not mkl.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return True
    return "Intel" in str(torch.cpu.get_capabilities().get("cpu_name", "Intel"))


def _error() -> float:
    """Largest error of a product, as a share of its largest element."""
    rows, inputs, outputs = _SHAPE
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    exact = x.double() @ weight.double().T
    return float((x @ weight.T - exact).abs().max() / exact.abs().max())
