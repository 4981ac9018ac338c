"""Packed weights multiply to the same bits, and only where that is possible and worth it."""

import pytest
import torch
import torch.nn.functional as F

from rlhf.model import packing
from rlhf.model.packing import pack, packed_product, packing_pays


@pytest.fixture
def weight():
    return torch.randn(48, 70, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.fixture
def room(monkeypatch):
    monkeypatch.setattr(packing, "_free_memory", lambda: 2**40)


def test_a_packed_product_has_the_bits_of_the_plain_one(weight):
    if not packing._has_units():
        pytest.skip("no bfloat16 products of oneDNN on this processor")
    packed = pack(weight)
    for rows in (1, 5, 16, 33):
        x = torch.randn(rows, 70, generator=torch.Generator().manual_seed(rows)).bfloat16()
        assert torch.equal(packed_product(x, packed), F.linear(x, weight))


def test_packing_pays_for_many_products_of_bfloat16(weight, room, monkeypatch):
    monkeypatch.setattr(packing, "_has_units", lambda: True)
    assert packing_pays([weight, weight], 100)
    assert not packing_pays([weight, weight], 8), "packing costs more than it saves"
    assert not packing_pays([weight, weight.float()], 100)
    assert not packing_pays([weight.to("meta")], 100), "not on a CPU"


def test_packing_needs_units_and_room(weight, monkeypatch):
    monkeypatch.setattr(packing, "_has_units", lambda: True)
    monkeypatch.setattr(packing, "_free_memory", lambda: 4 * weight.nbytes)
    assert packing_pays([weight], 100)
    assert not packing_pays([weight, weight], 100)
    monkeypatch.setattr(packing, "_free_memory", lambda: 2**40)
    monkeypatch.setattr(packing, "_has_units", lambda: False)
    assert not packing_pays([weight], 100)


def test_free_memory_is_read():
    assert 0 <= packing._free_memory() < 2**50
