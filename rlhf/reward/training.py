"""Optimiser steps over rankings: each prompt with all of its completions at once."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlhf.config import RewardConfig
from rlhf.model.heads import ScalarHead
from rlhf.model.scoring import completion_scores
from rlhf.ops.metrics import pair_outcomes
from rlhf.optimization import RoleOptimizer, lr_factor
from rlhf.ranks import Ranks
from rlhf.records import Ranking
from rlhf.reward.model import RewardModel
from rlhf.reward.objective import RankingObjective

OnStep = Callable[[int, int, dict[str, float]], None]
"""Told of each step, from 1, of how many, with its figures."""


@dataclass(frozen=True, slots=True)
class EncodedRanking:
    """A ranking as token ids."""

    ranking: Ranking
    prompt: list[int]
    completions: list[list[int]]
    weight: float = 1.0

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest completion."""
        return len(self.prompt) + max(map(len, self.completions))

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and of all completions."""
        return len(self.prompt) + sum(map(len, self.completions))


def encode(model: RewardModel, ranking: Ranking, weight: float = 1.0) -> EncodedRanking:
    """Tokenise a ranking."""
    chat = model.chat
    completions = [chat.encode_completion(text) for text in ranking.completions]
    return EncodedRanking(ranking, chat.encode_prompt(ranking.prompt), completions, weight)


def train(
    model: RewardModel,
    objective: RankingObjective,
    encoded: Sequence[EncodedRanking],
    config: RewardConfig,
    ranks: Ranks,
    on_step: OnStep | None = None,
) -> list[float]:
    """Train a reward role and its head.

    Args:
        model: The role to train.
        objective: Made of the same rankings.
        encoded: Rankings that the objective uses.
        config: Steps, rates and batch sizes.
        ranks: The processes; each takes its share of every batch.
        on_step: Told of every step, where given.

    Returns:
        The loss of each step, nats.
    """
    start_head(model.head, config.seed)
    for parameter in objective.parameters.values():
        parameter.data = parameter.data.to(ranks.device)
    optimizers = _optimizers(model, objective, config, ranks)
    size = config.per_device_train_batch_size * ranks.size
    total = math.ceil(len(encoded) / size) * config.num_train_epochs
    losses: list[float] = []
    for step, batch in enumerate(_batches(encoded, size, config)):
        figures = accumulate(
            model,
            objective,
            ranks.share(batch),
            total_weight=sum(item.weight for item in batch),
            micro_batch_tokens=config.micro_batch_tokens,
        )
        loss, right, pairs = ranks.sum(figures).tolist()
        prior = objective.prior()
        if prior.requires_grad and ranks.is_main:  # its gradient is summed over processes
            prior.backward()  # type: ignore[no-untyped-call]  # torch has none
        factor = lr_factor(config.lr_scheduler_type, step, total=total, warmup=config.warmup_steps)
        norms = [optimizer.step(factor) for optimizer in optimizers]
        losses.append(loss)
        row = {
            "loss/train": loss,
            "reward/pair_accuracy_train": right / pairs if pairs else math.nan,
            "optimizer/learning_rate": config.learning_rate * factor,
            "optimizer/grad_norm": norms[0],
        }
        if on_step is not None:
            on_step(step + 1, total, row | objective.figures())
    return losses


def start_head(head: ScalarHead, seed: int) -> None:
    """Draw the head's weight from N(0, 1 / (H + 1)), so that the adapter learns from step 1.

    H is the hidden size. Source: Huang et al. 2024 (arXiv:2403.17031).
    """
    generator = torch.Generator().manual_seed(seed)
    std = (len(head.weight) + 1) ** -0.5
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * std)


def accumulate(
    model: RewardModel,
    objective: RankingObjective,
    share: Sequence[EncodedRanking],
    *,
    total_weight: float,
    micro_batch_tokens: int,
) -> Tensor:
    """Add the gradients of one process's share of a batch.

    Args:
        model: The role that is trained.
        objective: Its loss.
        share: This process's rankings.
        total_weight: Of the batch over all processes; the loss is the weighted mean over it.
        micro_batch_tokens: Rankings run together until they have so many tokens. The split
            changes nothing but rounding.

    Returns:
        float32 (3,): this share's part of the mean loss, its rightly ordered pairs, its pairs.
    """
    figures = torch.zeros(3, device=model.roles.base.device)
    for part in _micro_batches(share, micro_batch_tokens):
        targets = objective.targets([item.ranking for item in part]).to(figures.device)
        weights = torch.tensor([item.weight for item in part], device=figures.device)
        with model.roles.use(model.role):
            groups = model.group([item.prompt for item in part], [i.completions for i in part])
            flat = completion_scores(model.roles, groups, model.head)
            counts = [len(item.completions) for item in part]
            scores = pad_sequence(list(torch.split(flat, counts)), batch_first=True)
            loss = (objective.loss(scores, targets) * weights).sum() / total_weight
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        figures[0] += loss.detach()
        for own, ranks in zip(scores.detach(), targets.ranks, strict=True):
            pairs, right = pair_outcomes(own, ranks)
            figures[1] += right
            figures[2] += pairs
    return figures


def _optimizers(
    model: RewardModel, objective: RankingObjective, config: RewardConfig, ranks: Ranks
) -> list[RoleOptimizer]:
    """One for the role, and one for what the objective learns, if it does."""
    role = RoleOptimizer(
        model.trainable(),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        ranks=ranks,
    )
    if not objective.parameters:
        return [role]
    own = RoleOptimizer(
        objective.parameters,
        learning_rate=config.objective_learning_rate,
        weight_decay=0.0,
        max_grad_norm=config.max_grad_norm,
        ranks=ranks,
    )
    return [role, own]


def _batches(
    encoded: Sequence[EncodedRanking], size: int, config: RewardConfig
) -> Iterator[list[EncodedRanking]]:
    """Shuffled batches of every epoch, the same on every process."""
    for epoch in range(config.num_train_epochs):
        order = list(range(len(encoded)))
        random.Random(f"reward/{config.seed}/{epoch}").shuffle(order)
        for start in range(0, len(order), size):
            yield [encoded[row] for row in order[start : start + size]]


def _micro_batches(share: Sequence[EncodedRanking], limit: int) -> Iterator[list[EncodedRanking]]:
    """Rankings of similar length together, up to ``limit`` tokens; a longer one stands alone."""
    part: list[EncodedRanking] = []
    for item in sorted(share, key=lambda item: item.longest):
        if part and sum(other.tokens for other in part) + item.tokens > limit:
            yield part
            part = []
        part.append(item)
    if part:
        yield part
