"""Slow formulas on plain floats, transcribed from the papers; imports nothing from rlhf."""

import math


def gae(rewards, values, gamma, lam):
    """arXiv:1506.02438 eq. 16 as its double sum; the value after the last token is 0."""
    after = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    size = len(rewards)
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(size - t)) for t in range(size)]


def policy_loss(new, old, advantage, eps):
    """arXiv:1707.06347 eq. 7, negated, for one token."""
    ratio = math.exp(new - old)
    return -min(ratio * advantage, min(max(ratio, 1 - eps), 1 + eps) * advantage)


def value_loss(value, old, target, clip):
    clipped = min(max(value, old - clip), old + clip)
    return 0.5 * max((value - target) ** 2, (clipped - target) ** 2)


def pair_losses(scores, ranks, smoothing=0.0):
    """-log sigmoid(better - worse) of every strict pair; rank 0 is unranked."""
    losses = []
    for i, a in enumerate(ranks):
        for j, b in enumerate(ranks):
            if a and b and a < b:
                margin = scores[i] - scores[j]
                losses.append(
                    (1 - smoothing) * math.log(1 + math.exp(-margin))
                    + smoothing * math.log(1 + math.exp(margin))
                )
    return losses


def log_softmax(logits, temperature=1.0):
    scaled = [x / temperature for x in logits]
    top = max(scaled)
    total = top + math.log(sum(math.exp(x - top) for x in scaled))
    return [x - total for x in scaled]


def kl(p, q):
    """KL of two probability lists."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
