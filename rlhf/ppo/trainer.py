"""One PPO update, in the order of the code.

Sample completions and score them (``rlhf.ppo.rollout``), shape per-token rewards with the KL to the
reference and estimate advantages (``rlhf.ppo.advantages``), then take ``num_ppo_epochs *
num_mini_batches`` optimiser steps on the policy and the value model (``rlhf.ppo.update``).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rlhf.checkpoints import load_tensors, save_tensors, verify_folder, write_folder, write_json
from rlhf.config import PPOConfig
from rlhf.data.chat import ChatFormat
from rlhf.errors import CheckpointError
from rlhf.model.adapters import adapter_state, load_adapter_state, save_adapter
from rlhf.model.base import ModelSource, load_base, write_link
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs
from rlhf.ops.kl import adapted_kl_coef, kl_k3
from rlhf.ops.losses import MAX_LOG_RATIO
from rlhf.ops.masking import masked_mean, masked_sum
from rlhf.ops.metrics import correlation, distinct_pairs, explained_variance
from rlhf.ops.scores import shape_scores
from rlhf.optimization import RoleOptimizer
from rlhf.ppo.advantages import Targets, estimate
from rlhf.ppo.alarms import (
    MAX_RATIO_ERROR,
    SOURCE_PREFIX,
    adapter_alarm,
    raise_fatal,
    start_alarm,
)
from rlhf.ppo.ptx import DemonstrationMix
from rlhf.ppo.reference import add_reference
from rlhf.ppo.rewards import RewardFunction, build_reward
from rlhf.ppo.rollout import Rollout, RolloutCollector
from rlhf.ppo.update import Learner
from rlhf.ppo.value import VALUE_ROLE, ValueModel
from rlhf.ranks import Ranks
from rlhf.records import Prompt

_LOGGER = logging.getLogger(__name__)
_VALUE_HEAD = "value_head.safetensors"


class PPOTrainer:
    """The roles on one base, their optimisers and the update.

    Args:
        config: All settings of the run.
        source: The base, from ``rlhf.model.base.resolve_base``.
        ranks: The processes of the run.
        reward_functions: Functions to use for ``config.reward_function``, where they are at hand
            and need no import.
    """

    def __init__(
        self,
        config: PPOConfig,
        source: ModelSource,
        ranks: Ranks,
        reward_functions: Sequence[RewardFunction] | None = None,
    ) -> None:
        self.config = config
        self.ranks = ranks
        base = load_base(source, dtype=config.dtype, device=ranks.device)
        self.chat = ChatFormat.of(base.tokenizer, base.model)
        self.roles = Roles(base, forward=config.forward)
        self.roles.add("policy", config.adapter, trainable=True, seed=config.seed)
        self.value = ValueModel(self.roles, config)
        self.reward = build_reward(config, self.roles, self.chat, reward_functions)
        self._start_value()
        self.collector = RolloutCollector(
            self.roles,
            self.chat,
            self.reward,
            self.value,
            config,
            ranks,
            reference=add_reference(self.roles, config),
        )
        self.policy_optimizer = self._optimizer(
            self.roles.parameters("policy"), config.learning_rate
        )
        self.value_optimizer = None
        if self.value.parameters:
            self.value_optimizer = self._optimizer(
                self.value.parameters, config.value_learning_rate
            )
        self.learner = Learner(
            config,
            self.collector,
            self.value,
            self.policy_optimizer,
            self.value_optimizer,
            self._mix(),
        )
        self.kl_coef = config.kl_coef

    def _start_value(self) -> None:
        """Let the value model start as the first reward model; say so where it can't."""
        model = self.reward.first_model
        if model is None or self.value.start_from(model, self.reward.first_weight):
            return
        if self.ranks.is_main:
            _LOGGER.warning(
                "the value starts at 0 and not as the first reward model, whose adapter differs in "
                "r, lora_alpha or target_modules; give adapter the same, or a value_warmup_steps"
            )

    def step(
        self, prompts: list[Prompt], prompt_ids: list[list[int]], update: int
    ) -> tuple[dict[str, float], Rollout, Targets]:
        """Sample, score, estimate, learn.

        Args:
            prompts: One per completion of the rollout; those of one prompt are neighbours.
            prompt_ids: Their token ids.
            update: Number of the update, from 0.

        Returns:
            One row of metrics, the rollout and what it was trained towards.

        Raises:
            TrainingError: Where going on would be for nothing (``rlhf.ppo.alarms``).
        """
        config, started = self.config, time.perf_counter()
        rollout = self.collector.collect(prompts, prompt_ids, update=update)
        metrics = _rollout_metrics(rollout, score_clip=config.score_clip)
        if update == 0:
            self._check_start(rollout, metrics["kl/base"])
        scores = shape_scores(
            rollout.scores,
            rollout.lengths,
            rollout.ended,
            clip=config.score_clip,
            length_penalty=config.length_penalty,
            missing_eos_penalty=config.missing_eos_penalty,
        )
        targets = estimate(rollout, scores, config, kl_coef=self.kl_coef)
        if self.value_optimizer is not None:
            metrics["value/explained_variance"] = float(
                explained_variance(rollout.values, targets.returns, rollout.mask)
            )
        learning = time.perf_counter()
        before = self._policy_checksum()
        metrics |= self.learner.learn(rollout, targets, update=update, kl_coef=self.kl_coef)
        if update >= config.value_warmup_steps and float(targets.spread) > 0:
            raise_fatal(adapter_alarm(before, self._policy_checksum()))
        ended = time.perf_counter()
        factor = self.learner.lr_factor(update, delay=config.value_warmup_steps)
        metrics |= {
            "score/shaped": float(scores.mean()),
            "kl/coef": self.kl_coef,
            "optimizer/learning_rate": config.learning_rate * factor,
            "time/rollout_s": rollout.sampling_s,
            "time/score_s": rollout.scoring_s,
            "time/learn_s": ended - learning,
            "time/update_s": ended - started,
            "time/tokens_per_s": float(rollout.mask.sum()) / (ended - started),
        }
        if config.kl_target is not None:
            self.kl_coef = adapted_kl_coef(
                self.kl_coef,
                metrics["kl/reference"],
                target=config.kl_target,
                horizon=config.kl_horizon,
                episodes=len(prompts),
            )
        return metrics, rollout, targets

    @torch.no_grad()
    def _check_start(self, rollout: Rollout, kl_to_base: float) -> None:
        """End a run whose policy is not the base; a random model is another fault (dropout_on)."""
        alarm = start_alarm(kl_to_base)
        if alarm is None:
            return
        rows = list(range(min(len(rollout.prompts), self.config.per_device_train_batch_size)))
        batch = self.collector.batch(rollout.prompt_ids, rollout.completion_ids, rows)
        with self.roles.use(None):
            first, second = (
                completion_logprobs(self.roles, batch, temperature=self.config.temperature)
                for _ in range(2)
            )
        if float((first - second).abs().max()) <= MAX_RATIO_ERROR:
            raise_fatal(alarm)

    def _mix(self) -> DemonstrationMix | None:
        if self.config.ptx_file is None:
            return None
        return DemonstrationMix(self.config, self.roles, self.chat, self.ranks)

    def _optimizer(
        self, parameters: Mapping[str, torch.nn.Parameter], learning_rate: float
    ) -> RoleOptimizer:
        return RoleOptimizer(
            parameters,
            learning_rate=learning_rate,
            weight_decay=self.config.weight_decay,
            max_grad_norm=self.config.max_grad_norm,
            ranks=self.ranks,
        )

    def _policy_checksum(self) -> tuple[float, float]:
        """Two sums over the policy adapter that any training moves."""
        flat = [p.detach().double() for p in self.roles.parameters("policy").values()]
        return float(sum(p.sum() for p in flat)), float(sum((p * p).sum() for p in flat))

    def save_adapter(self, folder: Path) -> None:
        """Write the policy adapter with the link to its base."""
        base = self.roles.base

        def fill(path: Path) -> None:
            save_adapter(self.roles.peft_model, "policy", path, base_path=base.path)
            write_link(path, base)

        write_folder(folder, fill, {"base_fingerprint": base.fingerprint})

    def save_checkpoint(self, folder: Path, step: int, history: Mapping[str, Any]) -> None:
        """Write all that resuming needs: adapters, value head, optimisers, the KL weight."""

        def fill(path: Path) -> None:
            for role in self._trained_adapters():
                state = adapter_state(self.roles.peft_model, role)
                save_tensors(path / f"{role}.safetensors", state)
            for name, optimizer in self._optimizers().items():
                save_tensors(path / f"{name}_optimizer.safetensors", optimizer.state())
            if self.value_optimizer is not None:
                self.value.head.save(path / _VALUE_HEAD)
            write_json(path / "controller.json", {"kl_coef": self.kl_coef})
            write_json(path / "history.json", dict(history))

        identity = {"step": step, "base_fingerprint": self.roles.base.fingerprint}
        write_folder(folder, fill, identity)

    def load_checkpoint(self, folder: Path) -> tuple[int, dict[str, Any]]:
        """Take over a checkpoint; give its step and the history up to it."""
        identity = verify_folder(folder)["identity"]
        if identity["base_fingerprint"] != self.roles.base.fingerprint:
            raise CheckpointError(
                f"{folder}: belongs to another base; give another output_dir [wrong_base]"
            )
        for role in self._trained_adapters():
            state, _ = load_tensors(folder / f"{role}.safetensors")
            load_adapter_state(self.roles.peft_model, role, state, where=str(folder))
        for name, optimizer in self._optimizers().items():
            moments, _ = load_tensors(folder / f"{name}_optimizer.safetensors")
            optimizer.load_state(moments)
        if self.value_optimizer is not None:
            self.value.head.load(folder / _VALUE_HEAD)
        controller = json.loads((folder / "controller.json").read_text(encoding="utf-8"))
        self.kl_coef = float(controller["kl_coef"])
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        return int(identity["step"]), history

    def _trained_adapters(self) -> list[str]:
        return ["policy", VALUE_ROLE] if self.value.kind == "adapter" else ["policy"]

    def _optimizers(self) -> dict[str, RoleOptimizer]:
        own = {} if self.value_optimizer is None else {"value": self.value_optimizer}
        return {"policy": self.policy_optimizer} | own


def _rollout_metrics(rollout: Rollout, *, score_clip: float) -> dict[str, float]:
    """Figures of what was sampled, before any learning from it."""
    mask, lengths = rollout.mask, rollout.lengths.float()
    clipped = rollout.scores.clamp(-score_clip, score_clip)
    log_ratio_base = rollout.logprobs - rollout.base_logprobs
    # A sampler that draws from the scored distribution has exp|difference| = 1 at every token.
    difference = (rollout.sampler_logprobs - rollout.logprobs).abs()
    sampler_error = difference.clamp(max=MAX_LOG_RATIO).exp()
    metrics = {
        "score/mean": float(rollout.scores.mean()),
        "score/std": float(rollout.scores.std(correction=0)),
        "score/clipped_std": float(clipped.std(correction=0)),
        "score/clip_fraction": float((rollout.scores.abs() >= score_clip).float().mean()),
        "score/length_correlation": correlation(rollout.scores, lengths),
        "kl/reference": float(masked_sum(rollout.log_ratio_ref, mask).mean()),
        "kl/reference_k3": float(masked_mean(kl_k3(rollout.log_ratio_ref), mask)),
        "kl/base": float(masked_sum(log_ratio_base, mask).mean()),
        "policy/entropy": float(-masked_mean(rollout.logprobs, mask)),
        "policy/sampler_error": float(masked_mean(sampler_error, mask)),
        "completion/length": float(lengths.mean()),
        "completion/truncated": float((~rollout.ended).float().mean()),
        "completion/distinct_2": distinct_pairs(rollout.completion_ids),
    }
    if len(rollout.scores_by_source) > 1:
        metrics |= {
            f"{SOURCE_PREFIX}{name}": float(part.mean())
            for name, part in rollout.scores_by_source.items()
        }
    if rollout.disagreement is not None:
        metrics["score/disagreement"] = float(rollout.disagreement.mean())
    return metrics
