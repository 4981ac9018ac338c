"""Our side of ``learning_vs_trl.py``: one PPO run, an update at a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from worker import Channel, now, serve
from worker_ours import Updates

from rlhf.config import AdapterConfig, PPOConfig


def config_of(settings: dict[str, Any]) -> PPOConfig:
    """The shared settings in our own words."""
    return PPOConfig(
        model_name_or_path=settings["base"],
        output_dir=settings["scratch"],
        train_file=settings["prompts"],
        reward_model=settings["reward"],
        seed=settings["seed"],
        dtype="float32",
        value=settings["value"],
        learning_rate=settings["learning_rate"],
        value_learning_rate=settings["value_learning_rate"],
        warmup_steps=settings["warmup_steps"],
        max_steps=settings["updates"],
        kl_coef=settings["kl_coef"],
        missing_eos_penalty=settings["missing_eos_penalty"],
        rollout_batch_size=settings["rollout_batch_size"],
        per_device_train_batch_size=settings["rollout_batch_size"] // settings["minibatches"],
        num_ppo_epochs=settings["epochs"],
        num_mini_batches=settings["minibatches"],
        max_new_tokens=settings["max_new_tokens"],
        cliprange_value=settings["cliprange_value"],
        adapter=AdapterConfig(r=settings["lora_rank"], lora_alpha=settings["lora_alpha"]),
    )


def run(given: argparse.Namespace) -> None:
    """Serve until the driver closes the pipe."""
    channel = Channel(given.answers)
    torch.set_num_threads(given.threads)
    settings = json.loads(Path(given.folder, "settings.json").read_text())
    updates = Updates(config_of(settings))
    channel.ready()
    for update in range(given.updates):
        channel.wait()
        started = now()
        metrics = updates.step(update)
        channel.done(
            {
                "reward": metrics["score/shaped"],
                "kl": metrics["kl/reference"],
                "total": now() - started,
            }
        )


if __name__ == "__main__":
    serve(run)
