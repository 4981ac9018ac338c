"""Learning from one rollout: passes over it in minibatches, losses, gradients, optimiser steps.

Losses are sums over tokens divided by the token count of the whole minibatch over all processes,
so that neither the size of a micro-batch nor the number of processes changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.data.collation import TokenBatch
from rlhf.model.scoring import (
    completion_logprobs,
    completion_logprobs_and_values,
    completion_values,
)
from rlhf.ops.kl import kl_k2, kl_k3
from rlhf.ops.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    truncated_importance_weights,
)
from rlhf.optimization import RoleOptimizer, loss_scale, lr_factor, scaled_gradients
from rlhf.ppo.advantages import Targets
from rlhf.ppo.alarms import raise_fatal, trainable_alarm
from rlhf.ppo.ptx import DemonstrationMix
from rlhf.ppo.rollout import Rollout, RolloutCollector, minibatch_plan
from rlhf.ppo.value import VALUE_ROLE, ValueModel

_STATISTICS = (
    "policy/loss",
    "policy/kl_loss",
    "policy/ptx_loss",
    "policy/clip_fraction",
    "policy/ratio_error",
    "kl/old_k3",
    "value/loss",
)
"""Token means over a minibatch, in the order of their tensor."""
_DISTANCES = ("policy/clip_fraction", "kl/old_k3")
"""Those that tell how far the policy has gone since the rollout."""
_SPREAD_FLOOR = 1e-4
"""Bounds the weight of the KL in the loss where the advantages of a rollout hardly spread."""


class Learner:
    """Takes the optimiser steps of one update."""

    def __init__(
        self,
        config: PPOConfig,
        collector: RolloutCollector,
        value: ValueModel,
        policy_optimizer: RoleOptimizer,
        value_optimizer: RoleOptimizer | None,
        ptx: DemonstrationMix | None,
    ) -> None:
        self.config = config
        self.roles = collector.roles
        self.ranks = collector.ranks
        self.collector = collector
        self.value = value
        self.policy_optimizer = policy_optimizer
        self.value_optimizer = value_optimizer
        self.ptx = ptx
        self._trainable = self._trainable_names()

    def lr_factor(self, update: int, *, delay: int = 0) -> float:
        """Learning-rate factor of a role that begins to learn after ``delay`` updates."""
        config = self.config
        return lr_factor(
            config.lr_scheduler_type,
            max(0, update - delay),
            total=config.max_steps - delay,
            warmup=config.warmup_steps,
        )

    def learn(
        self, rollout: Rollout, targets: Targets, *, update: int, kl_coef: float
    ) -> dict[str, float]:
        """Pass over a rollout ``num_ppo_epochs`` times; give mean losses and statistics.

        The ratio error is that of the first minibatch, where it must be 0. How far the policy went
        is measured before each step, of which the first finds 0; after it where it is the only one.

        Raises:
            TrainingError: Where other parameters would train than at the start of the run.
        """
        config = self.config
        raise_fatal(trainable_alarm(self._trainable, self._trainable_names()))
        train_policy = update >= config.value_warmup_steps
        lengths = [
            len(p) + len(c) for p, c in zip(rollout.prompt_ids, rollout.completion_ids, strict=True)
        ]
        rows_of_metrics: list[dict[str, float]] = []
        planned = config.num_ppo_epochs * config.num_mini_batches
        for epoch in range(config.num_ppo_epochs):
            for minibatch in minibatch_plan(lengths, config, update=update, epoch=epoch):
                statistics = self._accumulate(
                    rollout, targets, minibatch, kl_coef=kl_coef, train_policy=train_policy
                )
                if train_policy and self.ptx is not None:
                    step = update * planned + len(rows_of_metrics)
                    statistics[_STATISTICS.index("policy/ptx_loss")] = self.ptx.accumulate(step)
                summed = self.ranks.sum(statistics).tolist()
                row = dict(zip(_STATISTICS, summed, strict=True))
                if config.target_kl is not None and row["kl/old_k3"] > config.target_kl:
                    self._discard_gradients()
                    return self._summary(rows_of_metrics or [row], len(rows_of_metrics))
                rows_of_metrics.append(row | self._step(update, train_policy=train_policy))
        if planned == 1 and train_policy:
            rows_of_metrics[0] |= self._distance(rollout, targets, minibatch)
        return self._summary(rows_of_metrics, len(rows_of_metrics))

    def _trainable_names(self) -> frozenset[str]:
        named = {**dict(self.roles.peft_model.named_parameters()), **self.value.parameters}
        return frozenset(name for name, parameter in named.items() if parameter.requires_grad)

    @torch.no_grad()
    def _distance(
        self, rollout: Rollout, targets: Targets, minibatch: list[list[int]]
    ) -> dict[str, float]:
        """How far the only step of an update went: no later step is there to measure it."""
        tokens = rollout.mask.sum()
        totals = torch.zeros(len(_DISTANCES), device=tokens.device)
        for rows in self.ranks.share(minibatch):
            batch = self.collector.batch(rollout.prompt_ids, rollout.completion_ids, rows)
            with self.roles.use("policy"):
                logprobs = completion_logprobs(
                    self.roles, batch, temperature=self.config.temperature
                )
            moved = _Part(rollout, targets, batch, rows, tokens)
            found: dict[str, Tensor] = {}
            self._note_ratio(moved, logprobs - moved.of(rollout.logprobs), found)
            totals += torch.stack([found[name] for name in _DISTANCES])
        return dict(zip(_DISTANCES, self.ranks.sum(totals).tolist(), strict=True))

    def _step(self, update: int, *, train_policy: bool) -> dict[str, float]:
        """Step the optimisers; give the gradient norms before clipping."""
        norms = {}
        if self.value_optimizer is not None:
            norms["value/grad_norm"] = self.value_optimizer.step(self.lr_factor(update))
        if train_policy:
            factor = self.lr_factor(update, delay=self.config.value_warmup_steps)
            norms["policy/grad_norm"] = self.policy_optimizer.step(factor)
        return norms

    def _discard_gradients(self) -> None:
        self.policy_optimizer.discard()
        if self.value_optimizer is not None:
            self.value_optimizer.discard()

    def _summary(self, rows: list[dict[str, float]], steps: int) -> dict[str, float]:
        """Average over the minibatches, leaving out what this run does not have."""
        config = self.config
        unused = set()
        if config.kl_in == "reward":
            unused.add("policy/kl_loss")
        if self.ptx is None:
            unused.add("policy/ptx_loss")
        if self.value_optimizer is None:
            unused.add("value/loss")
        means = {
            name: sum(row[name] for row in rows) / len(rows) for name in rows[-1].keys() - unused
        }
        return means | {
            "policy/ratio_error": rows[0]["policy/ratio_error"],
            "optimizer/steps": steps,
        }

    def _accumulate(
        self,
        rollout: Rollout,
        targets: Targets,
        minibatch: list[list[int]],
        *,
        kl_coef: float,
        train_policy: bool,
    ) -> Tensor:
        """Add this process's gradients of one minibatch; give its share of the statistics."""
        all_rows = torch.tensor([row for rows in minibatch for row in rows])
        tokens = rollout.mask[all_rows].sum()
        totals = torch.zeros(len(_STATISTICS), device=tokens.device)
        scale = loss_scale(self.roles.base.model.dtype, int(tokens))
        trained = self.roles.parameters("policy") | self.value.parameters
        with scaled_gradients(trained.values(), scale):
            for rows in self.ranks.share(minibatch):
                batch = self.collector.batch(rollout.prompt_ids, rollout.completion_ids, rows)
                part = _Part(rollout, targets, batch, rows, tokens, scale)
                found = self._backward(part, kl_coef=kl_coef, train_policy=train_policy)
                totals += torch.stack(
                    [found.get(name, tokens.new_zeros(())) for name in _STATISTICS]
                )
        return totals

    def _backward(self, part: _Part, *, kl_coef: float, train_policy: bool) -> Mapping[str, Tensor]:
        """Run the roles that learn over one micro-batch, each forward and backward in its scope."""
        config, roles, batch = self.config, self.roles, part.batch
        statistics: dict[str, Tensor] = {}
        if self.value.kind == "shared":
            with roles.use("policy"):
                logprobs, values = completion_logprobs_and_values(
                    roles,
                    batch,
                    self.value.head,
                    temperature=config.temperature,
                    detach_values=not train_policy,
                )
                loss = config.vf_coef * self._value_loss(part, values, statistics)
                if train_policy:
                    loss = loss + self._policy_loss(part, logprobs, kl_coef, statistics)
                part.backward(loss)
            return statistics
        if train_policy:
            with roles.use("policy"):
                logprobs = completion_logprobs(roles, batch, temperature=config.temperature)
                part.backward(self._policy_loss(part, logprobs, kl_coef, statistics))
        if self.value.kind == "adapter":
            with roles.use(VALUE_ROLE):
                values = completion_values(roles, batch, self.value.head)
                part.backward(self._value_loss(part, values, statistics))
        return statistics

    def _policy_loss(
        self, part: _Part, logprobs: Tensor, kl_coef: float, statistics: dict[str, Tensor]
    ) -> Tensor:
        """Clipped surrogate, with the KL where it acts in the loss; notes what happened."""
        config = self.config
        old_logprobs = part.of(part.rollout.logprobs)
        per_token = clipped_policy_loss(
            logprobs,
            old_logprobs,
            part.of(part.targets.advantages),
            cliprange=config.cliprange,
            cliprange_high=config.cliprange_high,
            dual_clip=config.dual_clip,
        )
        if config.importance_sampling_cap is not None:
            per_token = per_token * truncated_importance_weights(
                old_logprobs,
                part.of(part.rollout.sampler_logprobs),
                cap=config.importance_sampling_cap,
            )
        loss = part.mean(per_token)
        statistics["policy/loss"] = loss.detach()
        if config.kl_in == "loss":
            kl_loss = part.mean(kl_k2(logprobs - part.of(part.rollout.ref_logprobs)))
            statistics["policy/kl_loss"] = kl_loss.detach()
            loss = loss + kl_coef / part.targets.spread.clamp(min=_SPREAD_FLOOR) * kl_loss
        self._note_ratio(part, logprobs.detach() - old_logprobs, statistics)
        return loss

    def _note_ratio(self, part: _Part, log_ratio: Tensor, statistics: dict[str, Tensor]) -> None:
        config = self.config
        log_ratio = log_ratio.masked_fill(~part.batch.completion_mask, 0.0)
        change = log_ratio.expm1()
        high = config.cliprange if config.cliprange_high is None else config.cliprange_high
        clipped = (change < -config.cliprange) | (change > high)
        statistics["policy/clip_fraction"] = part.mean(clipped.float())
        statistics["policy/ratio_error"] = part.mean(change.abs())
        # k3 of KL(old || new): the ratio new / old takes the place of reference / policy.
        statistics["kl/old_k3"] = part.mean(kl_k3(-log_ratio))

    def _value_loss(self, part: _Part, values: Tensor, statistics: dict[str, Tensor]) -> Tensor:
        loss = part.mean(
            clipped_value_loss(
                values,
                part.of(part.rollout.values),
                part.of(part.targets.returns),
                cliprange_value=self.config.cliprange_value,
            )
        )
        statistics["value/loss"] = loss.detach()
        return loss


class _Part:
    """One micro-batch with its place in the rollout."""

    def __init__(
        self,
        rollout: Rollout,
        targets: Targets,
        batch: TokenBatch,
        rows: list[int],
        tokens: Tensor,
        scale: float = 1.0,
    ) -> None:
        self.rollout = rollout
        self.targets = targets
        self.batch = batch
        mask = batch.completion_mask
        self._at = (torch.tensor(rows, device=mask.device), slice(mask.shape[1]))
        self._tokens = tokens
        self._scale = scale

    def of(self, recorded: Tensor) -> Tensor:
        """Cut this micro-batch out of a (B, C) tensor of the rollout."""
        return recorded[self._at]

    def mean(self, per_token: Tensor) -> Tensor:
        """This micro-batch's share of the minibatch's mean over real tokens, ()."""
        return per_token.masked_fill(~self.batch.completion_mask, 0.0).sum() / self._tokens

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, at the scale of the minibatch."""
        (self._scale * loss).backward()  # type: ignore[no-untyped-call]
