import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.ops.kl import adapted_kl_coef, exact_kl, kl_k1, kl_k2, kl_k3
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


def reward_gradient(estimator, policy, ref):
    """sum_a pi(a) * grad log pi(a) * estimate(a): the estimate detached, as a reward is."""
    logits = policy.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    estimate = estimator(logprobs - ref).detach()
    (logprobs.exp().detach() * logprobs * estimate).sum().backward()
    return logits.grad


def loss_gradient(estimator, policy, ref):
    """sum_a pi(a) * grad estimate(a): the estimate differentiated, its sampling not."""
    logits = policy.clone().requires_grad_()
    logprobs = logits.log_softmax(-1)
    (logprobs.exp().detach() * estimator(logprobs - ref)).sum().backward()
    return logits.grad


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("gradient", "estimator", "expected"),
    [
        (reward_gradient, kl_k1, reference.reverse_kl_gradient),
        (reward_gradient, kl_k2, None),
        (reward_gradient, kl_k3, None),
        (loss_gradient, kl_k1, lambda logits, ref: [0.0] * len(logits)),
        (loss_gradient, kl_k2, reference.reverse_kl_gradient),
        (loss_gradient, kl_k3, reference.forward_kl_gradient),
    ],
)
def test_what_gradient_an_estimator_has(gradient, estimator, expected, seed):
    """By enumeration of all tokens, against derivatives taken on paper."""
    policy, ref = distributions(seed)
    found = gradient(estimator, policy, ref).tolist()
    if expected is None:
        right = reference.reverse_kl_gradient(policy.tolist(), ref.tolist())
        assert found != pytest.approx(right, rel=1e-2)
    else:
        right = expected(policy.tolist(), ref.tolist())
        assert found == pytest.approx(right, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("estimator", [kl_k1, kl_k2, kl_k3])
def test_estimates_are_exactly_0_where_policy_and_reference_agree(estimator):
    assert torch.equal(estimator(torch.zeros(4)), torch.zeros(4))


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        # 256 of 10000 completions: an error of .5 is clipped to .2, one of .1 counts whole.
        (9.0, 0.201024),
        (6.6, 0.200512),
        (6.0, 0.2),
        (0.0, 0.198976),
        (-3.0, 0.198976),
    ],
)
def test_kl_coef_moves_towards_the_target(kl, expected):
    found = adapted_kl_coef(0.2, kl, target=6.0, horizon=10_000, episodes=256)
    assert found == pytest.approx(expected, rel=1e-12)


@given(
    kl_coef=st.floats(1e-4, 1),
    kl=st.floats(-20, 50),
    target=st.floats(0.1, 20),
    episodes=st.integers(1, 512),
)
def test_kl_coef_equals_the_controller(kl_coef, kl, target, episodes):
    found = adapted_kl_coef(kl_coef, kl, target=target, horizon=5_000, episodes=episodes)
    expected = reference.kl_weight(kl_coef, kl, target, 5_000, episodes)
    assert found == pytest.approx(expected, rel=1e-12)
    # Never the wrong way, and never by more than a fifth of the share.
    assert (found - kl_coef) * (kl - target) >= 0
    assert abs(found / kl_coef - 1) <= 0.2 * episodes / 5_000 + 1e-12


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
