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
    if not packing.keeps_bits():
        pytest.skip("nothing is packed on this processor")
    packed = pack(weight)
    for rows in (1, 5, 16, 33):
        x = torch.randn(rows, 70, generator=torch.Generator().manual_seed(rows)).bfloat16()
        plain = F.linear(x, weight)
        assert torch.equal(packed_product(x, packed), plain)
        summed = plain.clone().addmm_(x, weight.T)
        assert torch.equal(packed_product(x, packed, plus=plain), summed)


def test_packing_pays_for_many_products_of_bfloat16(weight, room, monkeypatch):
    monkeypatch.setattr(packing, "keeps_bits", lambda: True)
    assert packing_pays([weight, weight], 100)
    assert not packing_pays([weight, weight], 8), "packing costs more than it saves"
    assert not packing_pays([weight, weight.float()], 100)
    assert not packing_pays([weight.to("meta")], 100), "not on a CPU"


def test_packing_needs_the_same_bits_and_room(weight, monkeypatch):
    monkeypatch.setattr(packing, "keeps_bits", lambda: True)
    monkeypatch.setattr(packing, "_free_memory", lambda: 4 * weight.nbytes)
    assert packing_pays([weight], 100)
    assert not packing_pays([weight, weight], 100)
    monkeypatch.setattr(packing, "_free_memory", lambda: 2**40)
    monkeypatch.setattr(packing, "keeps_bits", lambda: False)
    assert not packing_pays([weight], 100)


def test_free_memory_is_read():
    assert 0 <= packing._free_memory() < 2**50


@pytest.mark.parametrize(("wrong", "wrong_sum"), [(0.0, 0.0), (2**-6, 0.0), (0.0, 2**-6)])
def test_a_product_of_other_bits_is_noticed(monkeypatch, wrong, wrong_sum):
    """One last place of bfloat16 near 1 is 2**-7 or 2**-8."""

    def product(x, weight, *, plus=None):
        plain = (weight @ x.T).T * (1 + wrong)
        return plain if plus is None else plus.T.clone().addmm_(weight, x.T).T * (1 + wrong_sum)

    monkeypatch.setattr(packing, "pack", lambda weight: weight)
    monkeypatch.setattr(packing, "packed_product", product)
    packing.keeps_bits.cache_clear()
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert packing.keeps_bits() is (supported and wrong == wrong_sum == 0.0)
    packing.keeps_bits.cache_clear()
