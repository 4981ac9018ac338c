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
    ("seconds", "error", "pays"), [((2, 1), 0, True), ((1.1, 1), 0, False), ((2, 1), 1e-3, False)]
)
def test_onednn_is_taken_only_where_it_is_faster_and_exact(monkeypatch, seconds, error, pays):
    """A product that is off, as with bfloat16 units, is never taken however fast."""
    times = iter(seconds)
    monkeypatch.setattr(precision, "_seconds", lambda x, weight: next(times))
    settings = torch.backends.mkldnn.matmul
    monkeypatch.setattr(
        precision, "_error", lambda: error if settings.fp32_precision == "bf16" else 3e-7
    )
    precision.onednn_pays.cache_clear()
    assert precision.onednn_pays() is pays
    precision.onednn_pays.cache_clear()
