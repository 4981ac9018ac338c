"""Log-probabilities of half-precision logits are computed in float32."""

import pytest
import torch
from torch.nn import functional as F

from rlhf.model.kernels import head_logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_upcast_before_the_log_softmax(dtype, temperature):
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 16, generator=rng).to(dtype)
    weight = torch.randn(500, 16, generator=rng).to(dtype)
    tokens = torch.randint(500, (40,), generator=rng)
    found = head_logprobs(hidden, weight, tokens, temperature=temperature)
    assert found.dtype == torch.float32
    logits = F.linear(hidden, weight)
    exact = (logits.double() / temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)
    coarse = (logits / temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert (coarse.double() - exact).abs().max() > 1e-3
