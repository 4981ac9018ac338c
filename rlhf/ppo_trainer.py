"""One PPO update, in the order of the code.

Sample completions and score them (``rlhf.rollout``), shape per-token rewards with the KL to the
frozen base, estimate advantages, then take ``num_ppo_epochs * num_mini_batches`` optimiser steps
on the policy and the value adapter. Losses are sums over tokens divided by the token count of the
whole minibatch over all processes, so that the size of a micro-batch changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.checkpoints import load_tensors, save_tensors, verify_folder, write_folder, write_json
from rlhf.config import PPOConfig
from rlhf.data.chat import ChatFormat
from rlhf.errors import CheckpointError, TrainingError
from rlhf.model.adapters import adapter_state, load_adapter_state, save_adapter
from rlhf.model.base import ModelSource, load_base, write_link
from rlhf.model.heads import ScalarHead
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs, completion_values
from rlhf.ops.kl import kl_k3
from rlhf.ops.losses import clipped_policy_loss, clipped_value_loss
from rlhf.ops.masking import masked_mean, masked_sum, whiten
from rlhf.ops.metrics import explained_variance
from rlhf.ops.returns import gae, shape_rewards
from rlhf.optimization import RoleOptimizer, lr_factor
from rlhf.ranks import Ranks
from rlhf.records import Prompt
from rlhf.reward import RewardModel
from rlhf.rewards import FunctionReward, ModelReward, RewardFunction, RewardSource
from rlhf.rollout import Rollout, RolloutCollector, minibatch_plan

_STATISTICS = (
    "policy/loss",
    "value/loss",
    "policy/clip_fraction",
    "kl/old_k3",
    "policy/ratio_error",
)
"""Token means over a minibatch, in the order of their tensor."""


class PPOTrainer:
    """The four roles, their optimisers and the update."""

    def __init__(
        self,
        config: PPOConfig,
        source: ModelSource,
        ranks: Ranks,
        reward_function: RewardFunction | None = None,
    ) -> None:
        self.config = config
        self.ranks = ranks
        base = load_base(source, dtype=config.dtype, device=ranks.device)
        self.chat = ChatFormat.of(base.tokenizer, base.model)
        self.roles = Roles(base)
        self.roles.add("policy", config.adapter, trainable=True, seed=config.seed)
        self.roles.add("value", config.adapter, trainable=True, seed=config.seed)
        self.value_head = ScalarHead(base.hidden_size).to(base.device)
        self.collector = RolloutCollector(
            self.roles,
            self.chat,
            self._reward_source(reward_function),
            self.value_head,
            config,
            ranks,
        )
        self.policy_optimizer = self._optimizer("policy", config.learning_rate)
        self.value_optimizer = self._optimizer("value", config.value_learning_rate)

    def step(
        self, prompts: list[Prompt], prompt_ids: list[list[int]], update: int
    ) -> tuple[dict[str, float], Rollout]:
        """Sample, score, estimate, learn; give one row of metrics and the rollout."""
        config, started = self.config, time.perf_counter()
        rollout = self.collector.collect(prompts, prompt_ids, update=update)
        collected = time.perf_counter()
        log_ratio_ref = rollout.logprobs - rollout.ref_logprobs
        kl = float(masked_sum(log_ratio_ref, rollout.mask).mean())
        if update == 0 and abs(kl) > 1e-4:
            raise TrainingError(
                f"the KL to the base is {kl:.4g} before the first update, not 0: the policy did "
                "not start as the base"
            )
        scores = self._clip_scores(rollout)
        rewards = shape_rewards(scores, log_ratio_ref, rollout.mask, kl_coef=config.kl_coef)
        advantages, returns = gae(
            rewards, rollout.values, rollout.mask, gamma=config.gamma, lam=config.lam
        )
        factor = self._lr_factor(update)
        losses = self._learn(
            rollout, whiten(advantages, rollout.mask), returns, update=update, factor=factor
        )
        metrics = _rollout_metrics(rollout, scores, returns, kl) | losses
        metrics |= {
            "kl/coef": config.kl_coef,
            "optimizer/learning_rate": config.learning_rate
            * self._lr_factor(update, delay=config.value_warmup_steps),
            "time/rollout_s": collected - started,
            "time/learn_s": time.perf_counter() - collected,
        }
        return metrics, rollout

    def _lr_factor(self, update: int, *, delay: int = 0) -> float:
        """Learning-rate factor of a role that begins to learn after ``delay`` updates."""
        config = self.config
        return lr_factor(
            config.lr_scheduler_type,
            max(0, update - delay),
            total=config.max_steps - delay,
            warmup=config.warmup_steps,
        )

    def _clip_scores(self, rollout: Rollout) -> Tensor:
        """Clip scores and charge completions that did not end."""
        clip = self.config.score_clip
        penalty = self.config.missing_eos_penalty * (~rollout.ended).float()
        return rollout.scores.clamp(-clip, clip) - penalty

    def _learn(
        self, rollout: Rollout, advantages: Tensor, returns: Tensor, *, update: int, factor: float
    ) -> dict[str, float]:
        """Take the optimiser steps of one update; give mean losses and statistics."""
        config = self.config
        train_policy = update >= config.value_warmup_steps
        lengths = [
            len(p) + len(c) for p, c in zip(rollout.prompt_ids, rollout.completion_ids, strict=True)
        ]
        policy_factor = self._lr_factor(update, delay=config.value_warmup_steps)
        rows_of_metrics = []
        for epoch in range(config.num_ppo_epochs):
            for minibatch in minibatch_plan(lengths, config, update=update, epoch=epoch):
                statistics = self._accumulate(
                    rollout, advantages, returns, minibatch, train_policy=train_policy
                )
                row = dict(zip(_STATISTICS, self.ranks.sum(statistics).tolist(), strict=True))
                row["value/grad_norm"] = self.value_optimizer.step(factor)
                if train_policy:
                    row["policy/grad_norm"] = self.policy_optimizer.step(policy_factor)
                rows_of_metrics.append(row)
        first = rows_of_metrics[0]["policy/ratio_error"]
        means = {
            name: _mean([row[name] for row in rows_of_metrics if name in row])
            for name in rows_of_metrics[-1]
        }
        return means | {"policy/ratio_error": first}

    def _accumulate(
        self,
        rollout: Rollout,
        advantages: Tensor,
        returns: Tensor,
        minibatch: list[list[int]],
        *,
        train_policy: bool,
    ) -> Tensor:
        """Add this process's gradients of one minibatch; give its share of the statistics."""
        config, roles = self.config, self.roles
        all_rows = torch.tensor([row for rows in minibatch for row in rows])
        tokens = rollout.mask[all_rows].sum()
        statistics = torch.zeros(len(_STATISTICS), device=tokens.device)
        for rows in self.ranks.share(minibatch):
            batch = self.collector.batch(rollout.prompt_ids, rollout.completion_ids, rows)
            mask = batch.completion_mask
            at = (torch.tensor(rows, device=mask.device), slice(mask.shape[1]))
            if train_policy:
                with roles.use("policy"):
                    logprobs = completion_logprobs(roles, batch, temperature=config.temperature)
                    per_token = clipped_policy_loss(
                        logprobs, rollout.logprobs[at], advantages[at], cliprange=config.cliprange
                    )
                    policy_loss = per_token.masked_fill(~mask, 0.0).sum() / tokens
                    policy_loss.backward()  # type: ignore[no-untyped-call]
                statistics += (
                    _policy_statistics(
                        logprobs.detach(), rollout.logprobs[at], mask, config.cliprange
                    )
                    / tokens
                )
                statistics[0] += policy_loss.detach()
            with roles.use("value"):
                values = completion_values(roles, batch, self.value_head)
                per_token = clipped_value_loss(
                    values,
                    rollout.values[at],
                    returns[at],
                    cliprange_value=config.cliprange_value,
                )
                value_loss = per_token.masked_fill(~mask, 0.0).sum() / tokens
                value_loss.backward()  # type: ignore[no-untyped-call]
            statistics[1] += value_loss.detach()
        return statistics

    def _reward_source(self, function: RewardFunction | None) -> RewardSource:
        """Load what scores completions; a reward adapter also starts the value model."""
        config = self.config
        if function is not None:
            return FunctionReward(function, str(config.reward_function), self.chat)
        model = RewardModel.load(Path(str(config.reward_model)), self.roles, self.chat)
        self._value_from_reward(model)
        return ModelReward(model)

    def _value_from_reward(self, model: RewardModel) -> None:
        """Start the value model as a copy of the reward model, where shapes and scales agree.

        The head's normalisation is folded in, so that the first values are normalised scores.
        """
        reward = adapter_state(self.roles.peft_model, "reward")
        value = adapter_state(self.roles.peft_model, "value")
        shapes = {name: tensor.shape for name, tensor in value.items()}
        same_shapes = shapes == {name: tensor.shape for name, tensor in reward.items()}
        if same_shapes and self.roles.scale("value") == self.roles.scale("reward"):
            load_adapter_state(self.roles.peft_model, "value", reward, where="reward adapter")
            self.value_head.copy_normalized(model.head)

    def _optimizer(self, role: str, learning_rate: float) -> RoleOptimizer:
        parameters = dict(self.roles.parameters(role))
        if role == "value":
            parameters |= {f"value_head.{n}": p for n, p in self.value_head.named_parameters()}
        return RoleOptimizer(
            parameters,
            learning_rate=learning_rate,
            weight_decay=self.config.weight_decay,
            max_grad_norm=self.config.max_grad_norm,
            ranks=self.ranks,
        )

    def save_adapter(self, folder: Path) -> None:
        """Write the policy adapter with the link to its base."""
        base = self.roles.base

        def fill(path: Path) -> None:
            save_adapter(self.roles.peft_model, "policy", path, base_path=base.path)
            write_link(path, base)

        write_folder(folder, fill, {"base_fingerprint": base.fingerprint})

    def save_checkpoint(self, folder: Path, step: int, history: Mapping[str, Any]) -> None:
        """Write all that resuming needs: both adapters, the value head, both optimisers."""

        def fill(path: Path) -> None:
            for role, optimizer in self._roles_and_optimizers():
                save_tensors(
                    path / f"{role}.safetensors", adapter_state(self.roles.peft_model, role)
                )
                save_tensors(path / f"{role}_optimizer.safetensors", optimizer.state())
            self.value_head.save(path / "value_head.safetensors")
            write_json(path / "history.json", dict(history))

        identity = {"step": step, "base_fingerprint": self.roles.base.fingerprint}
        write_folder(folder, fill, identity)

    def load_checkpoint(self, folder: Path) -> tuple[int, dict[str, Any]]:
        """Take over a checkpoint; give its step and the history up to it."""
        identity = verify_folder(folder)["identity"]
        if identity["base_fingerprint"] != self.roles.base.fingerprint:
            raise CheckpointError(f"{folder}: belongs to another base; give another output_dir")
        for role, optimizer in self._roles_and_optimizers():
            state, _ = load_tensors(folder / f"{role}.safetensors")
            load_adapter_state(self.roles.peft_model, role, state, where=str(folder))
            moments, _ = load_tensors(folder / f"{role}_optimizer.safetensors")
            optimizer.load_state(moments)
        self.value_head.load(folder / "value_head.safetensors")
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        return int(identity["step"]), history

    def _roles_and_optimizers(self) -> list[tuple[str, RoleOptimizer]]:
        return [("policy", self.policy_optimizer), ("value", self.value_optimizer)]


def _policy_statistics(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, cliprange: float
) -> Tensor:
    """Sums over one micro-batch's tokens, in the order of ``_STATISTICS``."""
    log_ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
    error = log_ratio.expm1().abs()
    clipped = (error > cliprange).float().sum()
    # k3 of KL(old || new): the ratio new / old takes the place of reference / policy.
    old_kl = kl_k3(-log_ratio).sum()
    zero = torch.zeros_like(old_kl)
    return torch.stack([zero, zero, clipped, old_kl, error.sum()])


def _rollout_metrics(
    rollout: Rollout, scores: Tensor, returns: Tensor, kl: float
) -> dict[str, float]:
    """Figures of what was sampled, before any learning from it."""
    mask, lengths = rollout.mask, rollout.lengths.float()
    log_ratio_ref = rollout.logprobs - rollout.ref_logprobs
    return {
        "score/mean": float(rollout.scores.mean()),
        "score/std": float(rollout.scores.std(correction=0)),
        "score/shaped": float(scores.mean()),
        "kl/reference": kl,
        "kl/reference_k3": float(masked_mean(kl_k3(log_ratio_ref), mask)),
        "policy/entropy": float(-masked_mean(rollout.logprobs, mask)),
        "completion/length": float(lengths.mean()),
        "completion/truncated": float((~rollout.ended).float().mean()),
        "value/explained_variance": float(explained_variance(rollout.values, returns, mask)),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
