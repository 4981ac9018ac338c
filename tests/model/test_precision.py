"""float32 stays float32, whichever library multiplies."""

import pytest
import torch

from rlhf.model import precision


@pytest.mark.parametrize("large", [True, False])
def test_products_stay_as_exact_as_float32(large):
    x = torch.randn(64, 300, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(200, 300, generator=torch.Generator().manual_seed(2))
    exact = x.double() @ weight.double().T
    with precision.float32_products(large=large):
        found = torch.nn.functional.linear(x, weight)
    assert float((found - exact).abs().max() / exact.abs().max()) < 2e-6


@pytest.mark.parametrize(("pays", "inside"), [(True, ["bf16", "ieee"]), (False, ["none", "none"])])
def test_the_setting_is_chosen_by_size_and_given_back(monkeypatch, pays, inside):
    monkeypatch.setattr(precision, "onednn_pays", lambda: pays)
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    seen = []
    for large in (True, False):
        with precision.float32_products(large=large):
            seen.append(settings.fp32_precision)
        assert settings.fp32_precision == before
    assert seen == [before if x == "none" else x for x in inside]


@pytest.mark.parametrize(
    ("maker_is_intel", "error", "pays"),
    [(False, 8e-7, True), (True, 8e-7, False), (False, 1e-3, False)],
)
def test_onednn_is_taken_only_where_the_default_is_slow_and_it_is_exact(
    monkeypatch, maker_is_intel, error, pays
):
    """A product that is off, as with bfloat16 units, is never taken."""
    monkeypatch.setattr(precision, "_default_is_fast", lambda: maker_is_intel)
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    monkeypatch.setattr(
        precision, "_error", lambda: error if settings.fp32_precision == "bf16" else 0.0
    )
    precision.onednn_pays.cache_clear()
    assert precision.onednn_pays() is pays
    assert settings.fp32_precision == before
    precision.onednn_pays.cache_clear()


@pytest.mark.parametrize(
    ("name", "fast"), [("Intel(R) Xeon(R) Processor", True), ("AMD EPYC 9B14", False)]
)
def test_the_maker_of_the_processor_is_read(monkeypatch, name, fast):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name}, raising=False)
    assert precision._default_is_fast() is fast


def test_a_build_without_mkl_has_no_slow_path(monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert precision._default_is_fast()


def test_size_decides_which_products_are_large():
    def model(*sizes):
        return torch.nn.ModuleList(torch.nn.Linear(size, size, bias=False) for size in sizes)

    assert not precision.is_large(model(64)[0].weight)
    assert precision.is_large(model(512)[0].weight)
    assert not precision.has_large_maps(model(64, 64, 64, 1024))  # one table does not decide
    assert precision.has_large_maps(model(64, 512, 512))
    assert not precision.has_large_maps(model())
