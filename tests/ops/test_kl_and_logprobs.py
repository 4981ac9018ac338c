import pytest
import reference
import torch

from rlhf.ops.kl import exact_kl, kl_k1, kl_k2, kl_k3
from rlhf.ops.logprobs import completion_window, token_logprobs


def distributions(seed):
    rng = torch.Generator().manual_seed(seed)
    policy = torch.randn(6, generator=rng, dtype=torch.float64).log_softmax(-1)
    ref = torch.randn(6, generator=rng, dtype=torch.float64).log_softmax(-1)
    return policy, ref


@pytest.mark.parametrize("seed", range(5))
def test_k1_and_k3_are_unbiased_and_k2_is_not(seed):
    policy, ref = distributions(seed)
    exact = reference.kl(policy.exp().tolist(), ref.exp().tolist())
    expectation = {
        k.__name__: float((policy.exp() * k(policy - ref)).sum()) for k in (kl_k1, kl_k2, kl_k3)
    }
    assert expectation["kl_k1"] == pytest.approx(exact, rel=1e-12)
    assert expectation["kl_k3"] == pytest.approx(exact, rel=1e-12)
    assert expectation["kl_k2"] != pytest.approx(exact, rel=1e-3)
    assert float(exact_kl(policy, ref)) == pytest.approx(exact, rel=1e-12)
    assert (kl_k3(policy - ref) >= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_k1_in_the_reward_has_the_gradient_of_the_reverse_kl(seed):
    """sum_a pi(a) * grad log pi(a) * k1(a), by enumeration, against autograd of the exact KL."""
    policy, ref = distributions(seed)
    logits = policy.clone().requires_grad_()
    exact_kl(logits.log_softmax(-1), ref).backward()
    true_gradient = logits.grad.clone()
    for estimator, right in ((kl_k1, True), (kl_k3, False)):
        logits.grad = None
        logprobs = logits.log_softmax(-1)
        reward = estimator(logprobs - ref).detach()
        (logprobs.exp().detach() * logprobs * reward).sum().backward()
        assert torch.allclose(logits.grad, true_gradient, rtol=1e-10, atol=1e-12) is right


def test_token_logprobs_equal_the_slow_log_softmax():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, generator=rng, dtype=torch.float64) * 3
    tokens = torch.tensor([0, 8, 3, 3])
    found = token_logprobs(logits, tokens, temperature=0.7)
    for row in range(4):
        expected = reference.log_softmax(logits[row].tolist(), 0.7)[tokens[row]]
        assert found[row].item() == pytest.approx(expected, rel=1e-12)


def test_bfloat16_logits_are_upcast_before_the_log_softmax():
    logits = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens = torch.tensor([7, 40_000])
    found = token_logprobs(logits, tokens)
    exact = logits.double().log_softmax(-1)[torch.arange(2), tokens]
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5


def test_the_window_predicts_the_completion():
    # Logits at position t name token t + 1 with certainty: 5 tokens, the last 2 are completion.
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    logits = torch.full((1, 5, 6), -50.0)
    for t in range(4):
        logits[0, t, ids[0, t + 1]] = 50.0
    window = completion_window(logits, 2)
    assert token_logprobs(window, ids[:, -2:]).abs().max() < 1e-6
    with pytest.raises(ValueError, match="keep at least 6"):
        completion_window(logits, 5)
