"""Figures from judged answers: win rates, paired changes, means by task.

Answers are given as numbers per prompt and sample, ``values[prompt][sample]``. Prompts are the
independent units of every interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.ops.metrics import mean_interval

Values = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float
    prompts: int

    @classmethod
    def of(cls, outcomes: Sequence[float]) -> Interval:
        """Average outcomes, one per prompt."""
        value, low, high = mean_interval(list(outcomes))
        return cls(value, low, high, len(outcomes))

    def clipped(self) -> Interval:
        """Keep the interval of a share within 0 and 1."""
        return Interval(self.value, max(0.0, self.low), min(1.0, self.high), self.prompts)


def win_rate(ours: Values, theirs: Values, *, margin: float = 0.0) -> Interval:
    """Share of comparisons that ``ours`` wins; ties count half.

    Every sample of a prompt is compared with every sample of the other side.

    Args:
        ours: Value of each of our answers.
        theirs: Value of each of theirs, for the same prompts.
        margin: Differences up to this are ties.
    """
    return Interval.of(
        [_share_won(a, b, margin) for a, b in zip(ours, theirs, strict=True)]
    ).clipped()


def paired_change(before: Values, after: Values) -> Interval:
    """Mean change per prompt from one model to the other."""
    pairs = zip(before, after, strict=True)
    return Interval.of([_mean(b) - _mean(a) for a, b in pairs])


def best_of(values: Values, scores: Values, *, count: int) -> list[list[float]]:
    """Per prompt, the value of the highest-scored of the first ``count`` samples."""
    picked = []
    for own, score in zip(values, scores, strict=True):
        best = max(range(count), key=lambda sample: score[sample])
        picked.append([own[best]])
    return picked


def mean(values: Values) -> float:
    """Mean over prompts of the mean over samples."""
    return _mean([_mean(own) for own in values])


def distinct_share(texts: Sequence[Sequence[str]]) -> float:
    """Mean share of different texts among the samples of a prompt."""
    return _mean([len(set(own)) / len(own) for own in texts])


def _share_won(ours: Sequence[float], theirs: Sequence[float], margin: float) -> float:
    points = 0.0
    for a in ours:
        for b in theirs:
            points += 1.0 if a > b + margin else 0.0 if a < b - margin else 0.5
    return points / (len(ours) * len(theirs))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
