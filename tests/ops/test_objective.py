"""The ops together: the expected policy gradient is that of E[score] - kl_coef * KL, exactly.

A language of 3 tokens, at most 2 long, 0 ends it: 7 completions, so that expectations are sums.
"""

from itertools import product

import pytest
import torch

from rlhf.ops.kl import kl_k2
from rlhf.ops.losses import clipped_policy_loss
from rlhf.ops.masking import length_mask, masked_sum
from rlhf.ops.returns import gae, rloo, shape_rewards

COMPLETIONS = [[0], *([first, second] for first, second in product((1, 2), (0, 1, 2)))]
IDS = torch.tensor([[*row, 0][:2] for row in COMPLETIONS])
MASK = length_mask(torch.tensor([len(row) for row in COMPLETIONS]), 2)
KL_COEF = 0.3


def logprobs_of(model):
    """Log-probabilities of all completions, (7, 2), 0 at padding."""
    first, second = model[0].log_softmax(-1), model[1:].log_softmax(-1)
    tokens = torch.stack([first[IDS[:, 0]], second[IDS[:, 0], IDS[:, 1]]], dim=1)
    return tokens.masked_fill(~MASK, 0.0)


def setting(seed):
    """A policy (row 0: first token, row 1 + t: the token after t), reference, scores, values."""
    rng = torch.Generator().manual_seed(seed)
    model, ref = (torch.randn(4, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    scores = torch.randn(7, generator=rng, dtype=torch.float64)
    start, after = torch.randn(1, generator=rng, dtype=torch.float64), torch.randn(3, generator=rng)
    values = torch.stack([start.expand(7), after.double()[IDS[:, 0]]], dim=1)
    return model.requires_grad_(), logprobs_of(ref), scores, values


def true_gradient(model, ref_logprobs, scores):
    totals = logprobs_of(model).sum(dim=1)
    objective = (totals.exp() * (scores - KL_COEF * (totals - ref_logprobs.sum(dim=1)))).sum()
    return torch.autograd.grad(-objective, model)[0]


def expected_gradient(model, advantages, extra=0.0):
    """Of the policy loss at ratio 1, summed over tokens, each completion by its probability."""
    logprobs = logprobs_of(model)
    loss = clipped_policy_loss(logprobs, logprobs.detach(), advantages, cliprange=0.2) + extra
    chance = logprobs.sum(dim=1).exp().detach()
    return torch.autograd.grad((chance * masked_sum(loss, MASK)).sum(), model)[0]


@pytest.mark.parametrize("seed", range(3))
def test_gae_with_the_kl_in_the_reward(seed):
    """Whatever the values are: at lambda 1 they are a baseline."""
    model, ref, scores, values = setting(seed)
    log_ratio = logprobs_of(model).detach() - ref
    rewards = shape_rewards(scores, log_ratio, MASK, kl_coef=KL_COEF)
    advantages, _ = gae(rewards, values, MASK, gamma=1.0, lam=1.0)
    found, expected = expected_gradient(model, advantages), true_gradient(model, ref, scores)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_rloo_with_the_kl_in_the_reward(seed):
    """Over all pairs of completions of the prompt."""
    model, ref, scores, _ = setting(seed)
    logprobs = logprobs_of(model).detach()
    totals = masked_sum(shape_rewards(scores, logprobs - ref, MASK, kl_coef=KL_COEF), MASK)
    pairs = list(product(range(7), repeat=2))
    compared = rloo(totals[torch.tensor(pairs)].flatten(), num_generations=2).view(-1, 2)
    chance = logprobs.sum(dim=1).exp()
    mean = torch.zeros(7, dtype=torch.float64)
    for (one, other), (advantage, opposite) in zip(pairs, compared, strict=True):
        # Each of the pair with its advantage, by the chance of its sibling; the loss is their mean.
        mean[one] += 0.5 * chance[other] * advantage
        mean[other] += 0.5 * chance[one] * opposite
    found = expected_gradient(model, mean[:, None].expand(7, 2))
    expected = true_gradient(model, ref, scores)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_k2_in_the_loss_misses_the_kl_that_a_token_brings_about_later():
    """Token by token it is the gradient of each next-token KL, not of the completion's."""
    model, ref, scores, values = setting(0)
    advantages, _ = gae(
        shape_rewards(scores, torch.zeros(7, 2).double(), MASK, kl_coef=0.0),
        values,
        MASK,
        gamma=1.0,
        lam=1.0,
    )
    extra = KL_COEF * kl_k2(logprobs_of(model) - ref)
    found, expected = expected_gradient(model, advantages, extra), true_gradient(model, ref, scores)
    # The last token has nothing after it.
    torch.testing.assert_close(found[1:], expected[1:], rtol=1e-10, atol=1e-14)
    assert not torch.allclose(found[0], expected[0], rtol=1e-2)
