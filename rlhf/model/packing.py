"""bfloat16 weights in the order that a CPU multiplies from.

A product of oneDNN first brings its weight into blocks. With few rows, as in decoding, that takes
longer than the product itself, so that a copy which already lies in blocks halves its time. Copies
are made only where products then have the same bits, so that nothing depends on the memory at hand.
Axes: B rows, I inputs and O outputs of a linear map.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

_LEAST_PRODUCTS = 32
"""Packing takes as long as about eight products save."""
_SHARE_OF_FREE = 4
"""A copy of all weights may take this part of the memory that is free."""


def packing_pays(weights: list[Tensor], products: int) -> bool:
    """Whether a packed copy of weights is possible, fits, and is used often enough.

    Args:
        weights: All that would be packed.
        products: How often each will be multiplied.
    """
    possible = all(w.dtype == torch.bfloat16 and w.device.type == "cpu" for w in weights)
    if not possible or products < _LEAST_PRODUCTS or not keeps_bits():
        return False
    return sum(w.nbytes for w in weights) * _SHARE_OF_FREE <= _free_memory()


def pack(weight: Tensor) -> Tensor:
    """Copy a weight (O, I) into blocks; only ``packed_product`` reads the result."""
    packed: Tensor = _operators()._reorder_linear_weight(weight, None)
    return packed


def packed_product(x: Tensor, packed: Tensor, *, plus: Tensor | None = None) -> Tensor:
    """``x W'`` of x (B, I), to which ``plus`` (B, O) is added before rounding; bfloat16 (B, O)."""
    product: Tensor
    if plus is None:
        product = _operators()._linear_pointwise(x, packed, None, "none", [], "")
    else:
        product = _operators()._linear_pointwise.binary(x, plus, packed, None, "add")
    return product


@cache
def keeps_bits() -> bool:
    """Whether oneDNN multiplies bfloat16 here, and to the same bits from blocks; tried once."""
    onednn: Any = torch.backends.mkldnn
    known = onednn.is_available() and hasattr(_operators(), "_linear_pointwise")
    if not known or not _operators()._is_mkldnn_bf16_supported():
        return False
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(320, 1100, generator=generator).bfloat16()
    packed = pack(weight)
    for rows in (1, 16, 50):
        x = torch.randn(rows, 1100, generator=generator).bfloat16()
        plain = weight @ x.T
        same = torch.equal(packed_product(x, packed), plain.T)
        more = packed_product(x, packed, plus=plain.T)
        if not (same and torch.equal(more, plain.addmm_(weight, x.T).T)):
            return False
    return True


def _operators() -> Any:
    return torch.ops.mkldnn


def _free_memory() -> int:
    """Bytes that no process uses."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not every system tells
        return 0
