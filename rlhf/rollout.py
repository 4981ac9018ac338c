"""Sample completions from the policy and record all that the update needs, on every process.

Rows are sampled, scored and gathered, so that each process holds the whole rollout; the
optimisation then splits each minibatch. Old log-probabilities come from the training path in the
micro-batches of the first pass, so that the ratio in the first minibatch is exactly 1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import TokenBatch, collate
from rlhf.model.generation import sample_completions
from rlhf.model.heads import ScalarHead
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs, completion_values
from rlhf.ops.masking import length_mask
from rlhf.ranks import Ranks
from rlhf.records import Prompt
from rlhf.rewards import RewardSource

_ROLLOUT_NOISE = 1
"""Purpose number in the noise keys; see ``rlhf.model.generation``."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One batch of sampled completions. Axes: B completions, C tokens (padded on the right)."""

    # what was sampled
    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    ended: Tensor
    """True where a completion ended by itself, bool (B,)."""
    mask: Tensor
    """True at real completion tokens, bool (B, C)."""
    # what the models say of it; float32 (B, C), 0 at padding
    logprobs: Tensor
    """Of the policy that sampled."""
    ref_logprobs: Tensor
    """Of the frozen base."""
    values: Tensor
    """Before each token."""
    # what it is worth
    scores: Tensor
    """As the reward source gave them, float32 (B,)."""

    @property
    def lengths(self) -> Tensor:
        """Real tokens per completion, (B,)."""
        return self.mask.sum(dim=-1)


class PromptOrder:
    """Which prompt a row of an update gets: seeded passes over all prompts."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._passes: dict[int, list[int]] = {}

    def rows(self, update: int, size: int) -> list[int]:
        """Prompt numbers of one update (from 0)."""
        return [self._at(update * size + row) for row in range(size)]

    def _at(self, index: int) -> int:
        number, place = divmod(index, self._count)
        if number not in self._passes:
            order = list(range(self._count))
            random.Random(f"prompts/{self._seed}/{number}").shuffle(order)
            self._passes = {number - 1: self._passes.get(number - 1, []), number: order}
        return self._passes[number][place]


def minibatch_plan(
    lengths: Sequence[int], config: PPOConfig, *, update: int, epoch: int
) -> list[list[list[int]]]:
    """Split a rollout into minibatches of micro-batches, the same on every process.

    Rows are dealt to minibatches at random; inside one they are sorted by length, so that a
    micro-batch holds little padding.

    Args:
        lengths: Tokens of each row, prompt included.
        config: Sizes and seed.
        update: Number of the update, from 0.
        epoch: Number of the pass over this rollout, from 0.

    Returns:
        Row numbers as minibatches of micro-batches.
    """
    order = list(range(len(lengths)))
    random.Random(f"minibatches/{config.seed}/{update}/{epoch}").shuffle(order)
    size = len(order) // config.num_mini_batches
    micro = config.per_device_train_batch_size
    plan = []
    for start in range(0, len(order), size):
        rows = sorted(order[start : start + size], key=lambda row: (lengths[row], row))
        plan.append([rows[at : at + micro] for at in range(0, len(rows), micro)])
    return plan


class RolloutCollector:
    """Samples with the policy, scores with the reward source, records for the update."""

    def __init__(
        self,
        roles: Roles,
        chat: ChatFormat,
        reward: RewardSource,
        value_head: ScalarHead,
        config: PPOConfig,
        ranks: Ranks,
    ) -> None:
        self.roles = roles
        self.chat = chat
        self.reward = reward
        self.value_head = value_head
        self.config = config
        self.ranks = ranks

    def collect(
        self, prompts: list[Prompt], prompt_ids: list[list[int]], *, update: int
    ) -> Rollout:
        """Sample one completion per prompt and record the batch.

        Args:
            prompts: One per row of the rollout batch, of all processes.
            prompt_ids: Their token ids.
            update: Number of the update, from 0; keys the noise.
        """
        mine = self.ranks.share(range(len(prompts)))
        completion_ids = self.ranks.gather(self._sample(mine, prompt_ids, update))
        scores = self.ranks.gather(self._score(mine, prompts, prompt_ids, completion_ids))
        lengths = torch.tensor([len(ids) for ids in completion_ids])
        logprobs, ref_logprobs, values = self._analyse(prompt_ids, completion_ids, update)
        device = self.roles.base.device
        return Rollout(
            prompts=prompts,
            prompt_ids=prompt_ids,
            completion_ids=completion_ids,
            ended=torch.tensor([self.chat.has_ended(i) for i in completion_ids], device=device),
            mask=length_mask(lengths, int(lengths.max())).to(device),
            logprobs=logprobs.to(device),
            ref_logprobs=ref_logprobs.to(device),
            values=values.to(device),
            scores=torch.tensor(scores, device=device),
        )

    def batch(
        self, prompt_ids: list[list[int]], completion_ids: list[list[int]], rows: list[int]
    ) -> TokenBatch:
        """Pad the given rows into one micro-batch."""
        return collate(
            [prompt_ids[row] for row in rows],
            [completion_ids[row] for row in rows],
            pad_id=self.chat.pad_id,
            device=self.roles.base.device,
        )

    def _sample(self, rows: list[int], prompt_ids: list[list[int]], update: int) -> list[list[int]]:
        if not rows:
            return []
        keys = [(self.config.seed, _ROLLOUT_NOISE, update, row) for row in rows]
        with self.roles.use("policy"):
            return sample_completions(
                self.roles,
                self.chat,
                [prompt_ids[row] for row in rows],
                max_new_tokens=self.config.max_new_tokens,
                temperature=self.config.temperature,
                keys=keys,
            )

    def _score(
        self,
        rows: list[int],
        prompts: list[Prompt],
        prompt_ids: list[list[int]],
        completion_ids: list[list[int]],
    ) -> list[float]:
        if not rows:
            return []
        scores: list[float] = self.reward.score(
            [prompts[row] for row in rows],
            [prompt_ids[row] for row in rows],
            [completion_ids[row] for row in rows],
        ).tolist()
        return scores

    @torch.no_grad()
    def _analyse(
        self, prompt_ids: list[list[int]], completion_ids: list[list[int]], update: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of policy and base, and values: float32 (B, C) each, on the CPU."""
        lengths = [len(p) + len(c) for p, c in zip(prompt_ids, completion_ids, strict=True)]
        plan = minibatch_plan(lengths, self.config, update=update, epoch=0)
        found: list[tuple[list[int], Tensor]] = []
        for minibatch in plan:
            for rows in self.ranks.share(minibatch):
                batch = self.batch(prompt_ids, completion_ids, rows)
                found.append((rows, self._analyse_batch(batch).cpu()))
        size = max(len(ids) for ids in completion_ids)
        recorded = torch.zeros(3, len(completion_ids), size)
        for rows, tensors in self.ranks.gather(found):
            recorded[:, torch.tensor(rows), : tensors.shape[-1]] = tensors
        return recorded[0], recorded[1], recorded[2]

    def _analyse_batch(self, batch: TokenBatch) -> Tensor:
        """Stack policy log-probabilities, base log-probabilities and values, (3, b, c)."""
        temperature = self.config.temperature
        with self.roles.use("policy"):
            logprobs = completion_logprobs(self.roles, batch, temperature=temperature)
        with self.roles.use(None):
            ref_logprobs = completion_logprobs(self.roles, batch, temperature=temperature)
        with self.roles.use("value"):
            values = completion_values(self.roles, batch, self.value_head)
        return torch.stack([logprobs, ref_logprobs, values])
