"""Sample completions from the policy and record all that the update needs, on every process.

Rows are sampled, scored and gathered, so that each process holds the whole rollout; the
optimisation then splits each minibatch. Old log-probabilities come from the training path in the
micro-batches of the first pass, so that the ratio in the first minibatch is exactly 1.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import TokenBatch, collate
from rlhf.model.generation import sample_completions
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs
from rlhf.ops.masking import length_mask
from rlhf.ppo.rewards import Reward, Scores
from rlhf.ppo.value import ValueModel
from rlhf.ranks import Ranks
from rlhf.records import Prompt

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
    sampler_logprobs: Tensor
    """Of the distribution that the tokens were drawn from."""
    logprobs: Tensor
    """Of the policy that sampled, as the training path sees it."""
    ref_logprobs: Tensor
    """Of the reference that the KL is taken to."""
    base_logprobs: Tensor
    """Of the frozen base; the same tensor where the base is the reference."""
    values: Tensor
    """Before each token; 0 without a value model."""
    # what it is worth; float32 (B,)
    scores: Tensor
    """Weighted sum of the rewards, as they gave it."""
    scores_by_source: dict[str, Tensor]
    disagreement: Tensor | None
    """Standard deviation between the members of a reward ensemble."""
    # what it took
    sampling_s: float
    scoring_s: float

    @property
    def lengths(self) -> Tensor:
        """Real tokens per completion, (B,)."""
        return self.mask.sum(dim=-1)

    @property
    def log_ratio_ref(self) -> Tensor:
        """Log-probability of the policy less that of the reference, (B, C)."""
        return self.logprobs - self.ref_logprobs


class SeededPasses:
    """Which item each place of an endless stream gets: seeded passes over all items."""

    def __init__(self, count: int, seed: int, *, purpose: str = "prompts") -> None:
        self._count = count
        self._key = f"{purpose}/{seed}"
        self._passes: dict[int, list[int]] = {}

    def rows(self, batch: int, size: int) -> list[int]:
        """Item numbers of one batch (from 0) of ``size``."""
        return [self._at(batch * size + row) for row in range(size)]

    def _at(self, index: int) -> int:
        number, place = divmod(index, self._count)
        if number not in self._passes:
            order = list(range(self._count))
            random.Random(f"{self._key}/{number}").shuffle(order)
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
    """Samples with the policy, scores with the rewards, records for the update."""

    def __init__(
        self,
        roles: Roles,
        chat: ChatFormat,
        reward: Reward,
        value: ValueModel,
        config: PPOConfig,
        ranks: Ranks,
        *,
        reference: str | None,
    ) -> None:
        self.roles = roles
        self.chat = chat
        self.reward = reward
        self.value = value
        self.config = config
        self.ranks = ranks
        self.reference = reference

    def collect(
        self, prompts: list[Prompt], prompt_ids: list[list[int]], *, update: int
    ) -> Rollout:
        """Sample one completion per row and record the batch.

        Args:
            prompts: One per row of the rollout batch, of all processes.
            prompt_ids: Their token ids.
            update: Number of the update, from 0; keys the noise.
        """
        started = time.perf_counter()
        mine = self.ranks.share(range(len(prompts)))
        sampled = self.ranks.gather(self._sample(mine, prompt_ids, update))
        completion_ids = [ids for ids, _ in sampled]
        lengths = torch.tensor([len(ids) for ids in completion_ids])
        sampler_logprobs = torch.zeros(len(sampled), int(lengths.max()))
        for row, (_, drawn_at) in enumerate(sampled):
            sampler_logprobs[row, : len(drawn_at)] = torch.tensor(drawn_at)
        sampled_at = time.perf_counter()
        scores = self._score(mine, prompts, prompt_ids, completion_ids)
        logprobs, ref_logprobs, base_logprobs, values = self._analyse(
            prompt_ids, completion_ids, update
        )
        device = self.roles.base.device
        return Rollout(
            prompts=prompts,
            prompt_ids=prompt_ids,
            completion_ids=completion_ids,
            ended=torch.tensor([self.chat.has_ended(i) for i in completion_ids], device=device),
            mask=length_mask(lengths, int(lengths.max())).to(device),
            sampler_logprobs=sampler_logprobs.to(device),
            logprobs=logprobs,
            ref_logprobs=ref_logprobs,
            base_logprobs=base_logprobs,
            values=values,
            scores=scores.total.to(device),
            scores_by_source={name: part.to(device) for name, part in scores.by_source.items()},
            disagreement=None if scores.disagreement is None else scores.disagreement.to(device),
            sampling_s=sampled_at - started,
            scoring_s=time.perf_counter() - sampled_at,
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

    def _sample(
        self, rows: list[int], prompt_ids: list[list[int]], update: int
    ) -> list[tuple[list[int], list[float]]]:
        """Completion ids of this process's rows, and the log-probabilities they were drawn at."""
        found: list[tuple[list[int], list[float]]] = []
        size = self.config.per_device_generation_batch_size
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            with self.roles.use("policy"):
                sampled = sample_completions(
                    self.roles,
                    self.chat,
                    [prompt_ids[row] for row in chunk],
                    max_new_tokens=self.config.max_new_tokens,
                    temperature=self.config.temperature,
                    keys=[(self.config.seed, _ROLLOUT_NOISE, update, row) for row in chunk],
                )
            found += zip(sampled.ids, sampled.logprobs, strict=True)
        return found

    def _score(
        self,
        rows: list[int],
        prompts: list[Prompt],
        prompt_ids: list[list[int]],
        completion_ids: list[list[int]],
    ) -> Scores:
        """Score this process's rows and gather everyone's."""
        parts: list[Scores] = []
        if rows:
            parts = [
                self.reward.score(
                    [prompts[row] for row in rows],
                    [prompt_ids[row] for row in rows],
                    [completion_ids[row] for row in rows],
                )
            ]
        return Scores.join(self.ranks.gather(parts))

    @torch.no_grad()
    def _analyse(
        self, prompt_ids: list[list[int]], completion_ids: list[list[int]], update: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-probabilities of policy, reference and base, and values: float32 (B, C) each."""
        lengths = [len(p) + len(c) for p, c in zip(prompt_ids, completion_ids, strict=True)]
        plan = minibatch_plan(lengths, self.config, update=update, epoch=0)
        found: list[tuple[list[int], Tensor]] = []
        for minibatch in plan:
            for rows in self.ranks.share(minibatch):
                batch = self.batch(prompt_ids, completion_ids, rows)
                found.append((rows, self._analyse_batch(batch).cpu()))
        size = max(len(ids) for ids in completion_ids)
        recorded = torch.zeros(4, len(completion_ids), size)
        for rows, tensors in self.ranks.gather(found):
            recorded[:, torch.tensor(rows), : tensors.shape[-1]] = tensors
        logprobs, ref_logprobs, base_logprobs, values = recorded.to(self.roles.base.device)
        return logprobs, ref_logprobs, base_logprobs, values

    def _analyse_batch(self, batch: TokenBatch) -> Tensor:
        """Log-probabilities of policy, reference and base, and values, stacked as (4, b, c)."""
        temperature = self.config.temperature
        logprobs, values = self.value.record(batch, temperature=temperature)
        with self.roles.use(None):
            base_logprobs = completion_logprobs(self.roles, batch, temperature=temperature)
        ref_logprobs = base_logprobs
        if self.reference is not None:
            with self.roles.use(self.reference):
                ref_logprobs = completion_logprobs(self.roles, batch, temperature=temperature)
        return torch.stack([logprobs, ref_logprobs, base_logprobs, values])
