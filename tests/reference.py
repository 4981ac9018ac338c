"""Slow formulas on plain floats, transcribed from the papers; imports nothing from rlhf."""

import itertools
import math


def gae(rewards, values, gamma, lam):
    """arXiv:1506.02438 eq. 16 as its double sum; the value after the last token is 0."""
    after = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    size = len(rewards)
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(size - t)) for t in range(size)]


def rloo(totals, size):
    """arXiv:2402.14740 eq. 8: each total less the mean of the others in its group of ``size``."""
    found = []
    for place, total in enumerate(totals):
        start = place // size * size
        others = [totals[i] for i in range(start, start + size) if i != place]
        found.append(total - sum(others) / len(others))
    return found


def policy_loss(new, old, advantage, eps, high=None, dual=None):
    """arXiv:1707.06347 eq. 7, negated, for one token.

    ``high`` as in arXiv:2503.14476 eq. 10, ``dual`` as in arXiv:1912.09729 eq. 5.
    """
    ratio = math.exp(new - old)
    above = 1 + (eps if high is None else high)
    objective = min(ratio * advantage, min(max(ratio, 1 - eps), above) * advantage)
    if dual is not None and advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective


def policy_gradient(new, old, advantage, eps, high=None, dual=None):
    """Derivative of ``policy_loss`` by ``new``, case by case."""
    ratio = math.exp(new - old)
    above = 1 + (eps if high is None else high)
    if advantage >= 0:
        return -advantage * ratio if ratio <= above else 0.0
    bound = math.inf if dual is None else dual
    return -advantage * ratio if 1 - eps <= ratio <= bound else 0.0


def value_loss(value, old, target, clip):
    clipped = min(max(value, old - clip), old + clip)
    return 0.5 * max((value - target) ** 2, (clipped - target) ** 2)


def value_gradient(value, old, target, clip):
    """Derivative of ``value_loss`` by ``value``: 0 where moving on would go unnoticed."""
    if value > old + clip and abs(old + clip - target) > abs(value - target):
        return 0.0
    if value < old - clip and abs(old - clip - target) > abs(value - target):
        return 0.0
    return value - target


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


def plackett_luce(scores, ranks):
    """Probability of a ranking: the draws of every order that it allows, added up."""
    ranked = [i for i, rank in enumerate(ranks) if rank]
    total = 0.0
    for order in itertools.permutations(ranked):
        if all(ranks[a] <= ranks[b] for a, b in itertools.pairwise(order)):
            chance = 1.0
            for place, i in enumerate(order):
                chance *= math.exp(scores[i]) / sum(math.exp(scores[j]) for j in order[place:])
            total += chance
    return total


def rao_kupper(lead, theta):
    """Rao and Kupper 1967: win, tie, lose in terms of the worths e^lead and 1."""
    a, b = math.exp(lead), 1.0
    win, lose = a / (a + theta * b), b / (theta * a + b)
    return win, a * b * (theta**2 - 1) / ((a + theta * b) * (theta * a + b)), lose


def davidson(lead, nu):
    """Davidson 1970: win, tie, lose in terms of the worths e^lead and 1."""
    a, b = math.exp(lead), 1.0
    total = a + b + nu * math.sqrt(a * b)
    return a / total, nu * math.sqrt(a * b) / total, b / total


def outcome_losses(scores, ranks, probabilities):
    """-log of what happened, pair by pair; ``probabilities`` gives win, tie, lose of a lead."""
    losses = []
    for i, j in itertools.combinations(range(len(ranks)), 2):
        if ranks[i] and ranks[j]:
            win, tie, lose = probabilities(scores[i] - scores[j])
            outcome = tie if ranks[i] == ranks[j] else win if ranks[i] < ranks[j] else lose
            losses.append(-math.log(outcome))
    return losses


def kendall_tau_b(x, y):
    """Kendall 1945, pair by pair: (C - D) / sqrt((pairs untied in x) (pairs untied in y))."""
    together = untied_x = untied_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        a, b = (x[i] > x[j]) - (x[i] < x[j]), (y[i] > y[j]) - (y[i] < y[j])
        together, untied_x, untied_y = together + a * b, untied_x + abs(a), untied_y + abs(b)
    return together / math.sqrt(untied_x * untied_y) if untied_x and untied_y else math.nan


def log_softmax(logits, temperature=1.0):
    scaled = [x / temperature for x in logits]
    top = max(scaled)
    total = top + math.log(sum(math.exp(x - top) for x in scaled))
    return [x - total for x in scaled]


def kl(p, q):
    """KL of two probability lists."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def reverse_kl_gradient(logits, ref):
    """Derivative of KL(softmax(logits) || softmax(ref)) by the logits: p * (d - KL)."""
    p, q = log_softmax(logits), log_softmax(ref)
    mean = sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
    return [math.exp(a) * (a - b - mean) for a, b in zip(p, q, strict=True)]


def forward_kl_gradient(logits, ref):
    """Derivative of KL(softmax(ref) || softmax(logits)) by the logits: p - q."""
    p, q = log_softmax(logits), log_softmax(ref)
    return [math.exp(a) - math.exp(b) for a, b in zip(p, q, strict=True)]


def kl_weight(weight, kl, target, horizon, episodes):
    """arXiv:1909.08593 section 2.2: one step of the controller."""
    error = (kl - target) / target
    if error > 0.2:
        error = 0.2
    elif error < -0.2:
        error = -0.2
    return weight + weight * error * episodes / horizon


def whiten(values, eps=1e-8):
    mean = sum(values) / len(values)
    variance = sum((x - mean) ** 2 for x in values) / len(values)
    return [(x - mean) / math.sqrt(variance + eps) for x in values]


def distinct_pairs(rows):
    """arXiv:1510.03055 section 5.2: distinct bigrams over bigrams."""
    seen, count = [], 0
    for row in rows:
        for place in range(1, len(row)):
            count += 1
            if (row[place - 1], row[place]) not in seen:
                seen.append((row[place - 1], row[place]))
    return len(seen) / count
