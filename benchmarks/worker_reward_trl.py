"""TRL's side of ``reward_vs_trl.py``: ``RewardTrainer`` on expanded pairs, a step at a time.

Its own training loop runs. The pairs of a prompt stay together, so that a step has as many prompts
as ours; Adam's second beta and the schedule are ours. Everything is float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from job import EOS, LORA_TARGETS
from peft import LoraConfig
from reward_job import RewardJob, Row, expanded
from transformers import AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer
from worker import Channel, now, serve

BETA2 = 0.95


class Turns(TrainerCallback):
    """Lets the trainer go on only when told."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.started = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is loaded."""
        self.channel.ready()
        self._next()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step is done."""
        self.channel.done({"total": now() - self.started})
        self._next()

    def _next(self) -> None:
        self.channel.wait()
        self.started = now()


def config_of(job: RewardJob, given: argparse.Namespace) -> RewardConfig:
    """The job in TRL's words."""
    return RewardConfig(
        output_dir=str(Path(given.folder, "trl")),
        seed=job.seed,
        model_init_kwargs={"dtype": "float32"},
        per_device_train_batch_size=job.comparisons,
        gradient_accumulation_steps=1,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine",
        adam_beta2=BETA2,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=None,
        use_cpu=given.device == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def trainer_of(job: RewardJob, given: argparse.Namespace, turns: Turns) -> RewardTrainer:
    """Let TRL load the model and make the trainer."""
    better, worse = zip(*expanded(job.rows, EOS), strict=True)
    return RewardTrainer(
        model=job.base,
        args=config_of(job, given),
        train_dataset=Dataset.from_dict({"chosen_ids": better, "rejected_ids": worse}),
        processing_class=AutoTokenizer.from_pretrained(job.base),
        callbacks=[turns],
        peft_config=LoraConfig(
            task_type="SEQ_CLS",
            r=job.lora_rank,
            lora_alpha=job.lora_alpha,
            lora_dropout=0.0,
            target_modules=list(LORA_TARGETS),
            modules_to_save=["score"],
        ),
    )


@torch.no_grad()
def scores_of(model: Any, rows: list[Row]) -> list[list[float]]:
    """Scores of each row's answers, which all have one length."""
    model.eval()
    found = []
    for row in rows:
        ids = torch.tensor([[*row["prompt"], *answer, EOS] for answer in row["answers"]])
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        found.append(logits[:, 0].tolist())
    return found


def run(given: argparse.Namespace) -> None:
    """Serve until the driver closes the pipe; the step after the last scores what is held out."""
    turns = Turns(Channel(given.answers))
    torch.set_num_threads(given.threads)
    job = RewardJob.read(given.folder)
    trainer = trainer_of(job, given, turns)
    trainer.train()
    turns.channel.done({"scores": scores_of(trainer.model, job.held_out)})
    turns.channel.wait()


if __name__ == "__main__":
    serve(run)
