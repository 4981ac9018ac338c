"""Our PPO update, one at a time; imports what ``rlhf ppo`` imports."""

from __future__ import annotations

import argparse
import random
from typing import Any

import torch
from job import JOB, JobFolder
from worker import Channel, Phases, now, serve

from rlhf.cli import quiet_libraries
from rlhf.config import AdapterConfig, PPOConfig
from rlhf.data.readers import read_prompts
from rlhf.model.base import resolve_model
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ranks import Ranks

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def config_of(folder: JobFolder, mode: str, updates: int) -> PPOConfig:
    """The job in our own words."""
    dtype, _, value = mode.partition("-")
    return PPOConfig(
        model_name_or_path=str(folder.base),
        output_dir=str(folder.scratch / mode),
        train_file=str(folder.prompts),
        reward_model=str(folder.reward),
        accept_reward_model=True,
        dtype=DTYPES[dtype],
        value=value,
        learning_rate=JOB.learning_rate,
        value_learning_rate=JOB.learning_rate,
        warmup_steps=0,
        max_steps=updates,
        kl_coef=JOB.kl_coef,
        missing_eos_penalty=0.0,
        rollout_batch_size=JOB.sequences,
        per_device_train_batch_size=JOB.minibatch,
        num_ppo_epochs=JOB.epochs,
        num_mini_batches=JOB.minibatches,
        max_new_tokens=JOB.completion_tokens,
        adapter=AdapterConfig(r=JOB.lora_rank, lora_alpha=JOB.lora_alpha),
    )


class Updates:
    """Drives the trainer as the PPO stage does."""

    def __init__(self, config: PPOConfig) -> None:
        self.config = config
        self.trainer = PPOTrainer(config, resolve_model(config.model_name_or_path), Ranks())
        self.prompts = read_prompts(config.train_file)
        self.prompt_ids = [self.trainer.chat.encode_prompt(prompt) for prompt in self.prompts]
        self.draw = random.Random(config.seed)
        self.waiting: list[int] = []

    def step(self, update: int) -> dict[str, float]:
        """Take one update; give its metrics."""
        rows = [self._next_row() for _ in range(self.config.rollout_batch_size)]
        prompts = [self.prompts[row] for row in rows]
        prompt_ids = [self.prompt_ids[row] for row in rows]
        return dict(self.trainer.step(prompts, prompt_ids, update)[0])

    def _next_row(self) -> int:
        """Go through the prompts in seeded passes."""
        if not self.waiting:
            self.waiting = list(range(len(self.prompts)))
            self.draw.shuffle(self.waiting)
        return self.waiting.pop()


def measure(updates: Updates, update: int) -> dict[str, Any]:
    """Time one update; without a time of its own, scoring is part of the rollout."""
    started = now()
    metrics = updates.step(update)
    total = now() - started
    length = metrics["completion/length"]
    if length != JOB.completion_tokens:
        raise SystemExit(f"completions have {length} tokens on average, not 48")
    rollout = metrics.get("time/rollout_s", 0.0)
    phases = Phases(rollout, metrics.get("time/score_s", 0.0), total)
    return phases.answer(tokens=round(length * JOB.sequences))


def run(given: argparse.Namespace) -> None:
    """Serve until the driver closes the pipe."""
    channel = Channel(given.answers)
    quiet_libraries()
    torch.set_num_threads(given.threads)
    updates = Updates(config_of(JobFolder(given.folder), given.mode, given.updates))
    channel.ready()
    for update in range(given.updates):
        channel.wait()
        channel.done(measure(updates, update))
    channel.wait()  # stays in memory, like the others, until all are done


if __name__ == "__main__":
    serve(run)
