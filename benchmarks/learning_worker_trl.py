"""TRL's side of ``learning_vs_trl.py``: one PPO run, an update at a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from job import LORA_TARGETS
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from worker import Channel, now, serve


class Turns(TrainerCallback):
    """Lets the trainer go on only when told, and reports what it logs."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.started = 0.0
        self.logged: dict[str, float] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is loaded."""
        self.channel.ready()
        self._next()

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Keep the metrics of an update; they come before its end."""
        self.logged = dict(logs)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An update is done."""
        self.channel.done(
            {
                "reward": self.logged["objective/scores"],
                "kl": self.logged["objective/kl"],
                "total": now() - self.started,
            }
        )
        self._next()

    def _next(self) -> None:
        self.channel.wait()
        self.started = now()


def config_of(settings: dict[str, Any], given: argparse.Namespace) -> PPOConfig:
    """The shared settings in TRL's words."""
    return PPOConfig(
        output_dir=settings["scratch"],
        seed=settings["seed"],
        per_device_train_batch_size=settings["rollout_batch_size"],
        gradient_accumulation_steps=1,
        num_mini_batches=settings["minibatches"],
        num_ppo_epochs=settings["epochs"],
        total_episodes=settings["rollout_batch_size"] * settings["updates"],
        local_rollout_forward_batch_size=settings["rollout_batch_size"],
        response_length=settings["max_new_tokens"],
        stop_token="eos",
        missing_eos_penalty=settings["missing_eos_penalty"],
        temperature=1.0,
        learning_rate=settings["trl_learning_rate"],
        warmup_steps=settings["warmup_steps"],
        kl_coef=settings["kl_coef"],
        cliprange_value=settings["cliprange_value"],
        use_cpu=given.device == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def scorer(settings: dict[str, Any]) -> Any:
    """The exported reward model, with the bias that sequence classifiers have no place for."""
    folder = settings["reward_export"]
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    head = torch.nn.Linear(model.score.in_features, 1)
    with torch.no_grad():
        head.weight.copy_(model.score.weight)
        head.bias.fill_(settings["score_bias"])
    model.score = head
    return model


def run(given: argparse.Namespace) -> None:
    """Serve until the driver closes the pipe."""
    turns = Turns(Channel(given.answers))
    torch.set_num_threads(given.threads)
    settings = json.loads(Path(given.folder, "settings.json").read_text())
    prompt_ids = json.loads(Path(settings["prompt_ids"]).read_text())
    torch.manual_seed(settings["seed"])
    trainer = PPOTrainer(
        args=config_of(settings, given),
        processing_class=AutoTokenizer.from_pretrained(settings["base"], padding_side="left"),
        model=AutoModelForCausalLM.from_pretrained(settings["base"], dtype=torch.float32),
        ref_model=None,
        reward_model=scorer(settings),
        value_model=scorer(settings),
        train_dataset=Dataset.from_dict({"input_ids": prompt_ids}),
        callbacks=[turns],
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=settings["lora_rank"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=0.0,
            target_modules=list(LORA_TARGETS),
        ),
    )
    trainer.train()


if __name__ == "__main__":
    serve(run)
