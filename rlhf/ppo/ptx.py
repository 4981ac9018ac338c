"""The pretraining mix: demonstrations whose likelihood is trained along with the policy.

Source: Ouyang et al. 2022 (arXiv:2203.02155), eq. 2 (PPO-ptx); off by default.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import collate
from rlhf.data.lengths import refuse_long
from rlhf.data.readers import read_demonstrations
from rlhf.model.generation import positions
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs
from rlhf.optimization import loss_scale, scaled_gradients
from rlhf.ppo.rollout import SeededPasses
from rlhf.ranks import Ranks


class DemonstrationMix:
    """Adds the gradient of ``ptx_coef * mean negative log-likelihood`` to a policy step."""

    def __init__(self, config: PPOConfig, roles: Roles, chat: ChatFormat, ranks: Ranks) -> None:
        assert config.ptx_file is not None
        self.config = config
        self.roles = roles
        self.chat = chat
        self.ranks = ranks
        items = read_demonstrations(config.ptx_file)
        self._rows = [
            (chat.encode_prompt(item.prompt), chat.encode_completion(item.completion))
            for item in items
        ]
        sizes = [
            (len(prompt) + len(completion), item.prompt.text)
            for (prompt, completion), item in zip(self._rows, items, strict=True)
        ]
        limits = [
            (positions(roles), None),
            (
                config.max_prompt_length + config.max_new_tokens,
                "max_prompt_length + max_new_tokens",
            ),
        ]
        for limit, field in limits:
            if limit is not None:
                refuse_long(
                    sizes,
                    limit=limit,
                    field=field,
                    source=config.ptx_file,
                    what="demonstrations",
                )
        self._order = SeededPasses(len(self._rows), config.seed, purpose="ptx")

    def accumulate(self, step: int) -> Tensor:
        """Add this process's share of the gradient of one optimiser step (counted from 0).

        Returns:
            This share of the mean negative log-likelihood in nats per token, float32 ().
        """
        config = self.config
        chosen = [self._rows[i] for i in self._order.rows(step, config.ptx_batch_size)]
        tokens = sum(len(completion) for _, completion in chosen)
        total = torch.zeros((), device=self.roles.base.device)
        mine = self.ranks.share(chosen)
        size = config.per_device_train_batch_size
        scale = loss_scale(self.roles.base.model.dtype, tokens)
        with scaled_gradients(self.roles.parameters("policy").values(), scale):
            for start in range(0, len(mine), size):
                total += self._accumulate(mine[start : start + size], tokens, scale)
        return total

    def _accumulate(
        self, rows: Sequence[tuple[list[int], list[int]]], tokens: int, scale: float
    ) -> Tensor:
        prompts, completions = zip(*rows, strict=True)
        batch = collate(
            prompts, completions, pad_id=self.chat.pad_id, device=self.roles.base.device
        )
        with self.roles.use("policy"):
            loss = -completion_logprobs(self.roles, batch, temperature=1.0).sum() / tokens
            (scale * self.config.ptx_coef * loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()
