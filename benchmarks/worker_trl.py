"""TRL's PPO update, one at a time, set up as its documentation shows.

The policy has LoRA; the value model is trained in full, and the reward model is a whole model,
since TRL's interface asks for sequence classifiers. Everything is float32.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
import trl.experimental.ppo.ppo_trainer as engine
from datasets import Dataset
from job import JOB, LORA_TARGETS, JobFolder
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from worker import Channel, Phases, now, serve


class Turns(TrainerCallback):
    """Lets the trainer go on only when told, and times the phases of each update."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.rollout = 0.0
        self.started = self.sampled = self.scored = 0.0
        engine.batch_generation = self._timed_sampling(engine.batch_generation)
        engine.get_reward = self._timed_scoring(engine.get_reward)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is loaded."""
        self.channel.ready()
        self._next()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An update is done."""
        total = now() - self.started
        phases = Phases(self.rollout, self.scored - self.sampled, total)
        self.channel.done(phases.answer(tokens=JOB.tokens))
        self._next()

    def _next(self) -> None:
        self.channel.wait()
        self.started = now()

    def _timed_sampling(self, sample: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = now()
            result = sample(*args, **kwargs)
            self.sampled = self.scored = now()
            self.rollout = self.sampled - begun
            return result

        return timed

    def _timed_scoring(self, score: Callable[..., Any]) -> Callable[..., Any]:
        """Values and rewards both come from here; the last call of an update ends the scoring."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            result = score(*args, **kwargs)
            self.scored = now()
            return result

        return timed


def config_of(folder: JobFolder, given: argparse.Namespace) -> PPOConfig:
    """The job in TRL's words."""
    return PPOConfig(
        output_dir=str(folder.scratch / "trl"),
        # Fewer at once with gradient accumulation would step once per epoch, not per minibatch.
        per_device_train_batch_size=JOB.sequences,
        gradient_accumulation_steps=1,
        num_mini_batches=JOB.minibatches,
        num_ppo_epochs=JOB.epochs,
        total_episodes=JOB.sequences * given.updates,
        local_rollout_forward_batch_size=JOB.sequences,
        response_length=JOB.completion_tokens,
        stop_token=None,
        temperature=1.0,
        learning_rate=JOB.learning_rate,
        kl_coef=JOB.kl_coef,
        use_cpu=given.device == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def trainer_of(folder: JobFolder, given: argparse.Namespace, turns: Turns) -> PPOTrainer:
    """Load the models and make the trainer."""
    tokenizer = AutoTokenizer.from_pretrained(folder.base, padding_side="left")
    texts = [json.loads(line)["prompt"] for line in folder.prompts.read_text().splitlines()]
    torch.manual_seed(0)
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(
            folder.base, num_labels=1, dtype=torch.float32
        )
        for _ in range(2)
    )
    return PPOTrainer(
        args=config_of(folder, given),
        processing_class=tokenizer,
        model=AutoModelForCausalLM.from_pretrained(folder.base, dtype=torch.float32),
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": [tokenizer.encode(text) for text in texts]}),
        callbacks=[turns],
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=JOB.lora_rank,
            lora_alpha=JOB.lora_alpha,
            lora_dropout=0.0,
            target_modules=list(LORA_TARGETS),
        ),
    )


def run(given: argparse.Namespace) -> None:
    """Serve until the driver closes the pipe."""
    turns = Turns(Channel(given.answers))
    torch.set_num_threads(given.threads)
    trainer_of(JobFolder(given.folder), given, turns).train()


if __name__ == "__main__":
    serve(run)
