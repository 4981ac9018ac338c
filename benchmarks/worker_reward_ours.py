"""Our side of ``reward_vs_trl.py``: K-wise reward training, one optimiser step at a time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from reward_job import RewardJob, Row
from worker import Channel, now, serve

from rlhf.cli import quiet_libraries
from rlhf.config import AdapterConfig, RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.model.base import load_base, resolve_base
from rlhf.model.roles import Roles
from rlhf.ranks import Ranks
from rlhf.records import Prompt, Ranking
from rlhf.reward.model import RewardModel
from rlhf.reward.objective import RankingObjective
from rlhf.reward.training import encode, train


class Turns:
    """Lets training go on only when told."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.started = 0.0

    def next(self) -> None:
        """Wait for the driver, then start the clock."""
        self.channel.wait()
        self.started = now()

    def step_is_done(self, step: int, total: int, figures: dict[str, float]) -> None:
        """Report a step and wait for the next."""
        self.channel.done({"total": now() - self.started, "loss": figures["loss/train"]})
        self.next()


def learn(
    model: RewardModel, rankings: list[Ranking], config: RewardConfig, ranks: Ranks, turns: Turns
) -> None:
    """Do what the reward stage does; encoding comes before the first step, as it does there."""
    objective = RankingObjective(config, rankings)
    encoded = [encode(model, ranking, objective.weight(ranking)) for ranking in rankings]
    turns.channel.ready()
    turns.next()
    train(model, objective, encoded, config, ranks, turns.step_is_done)


def config_of(job: RewardJob, folder: Path) -> RewardConfig:
    """The job in our own words."""
    return RewardConfig(
        model_name_or_path=job.base,
        output_dir=str(folder / "ours"),
        rankings="in memory",
        seed=job.seed,
        dtype="float32",
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=job.prompts_per_step,
        adapter=AdapterConfig(r=job.lora_rank, lora_alpha=job.lora_alpha),
    )


def model_of(config: RewardConfig, ranks: Ranks) -> RewardModel:
    """Load the base and add a fresh reward role, as the stage does."""
    source = resolve_base(config.model_name_or_path)
    base = load_base(source, dtype=config.dtype, device=ranks.device)
    model = RewardModel(Roles(base), ChatFormat.of(base.tokenizer, base.model))
    model.roles.add("reward", config.adapter, trainable=True, seed=config.seed)
    return model


def ranking_of(row: Row) -> Ranking:
    """A row as a person's ranking; the tokenizer makes word w3 token 3 again."""
    texts = tuple(text_of(answer) for answer in row["answers"])
    return Ranking(Prompt.parse(text_of(row["prompt"])), texts, tuple(range(1, len(texts) + 1)))


def text_of(ids: list[int]) -> str:
    """Words with these ids."""
    return " ".join(f"w{number}" for number in ids)


def scores_of(model: RewardModel, rows: list[Row]) -> list[list[float]]:
    """Scores of each row's answers."""
    rankings = [ranking_of(row) for row in rows]
    scores = model.score_texts([(r.prompt, text) for r in rankings for text in r.completions])
    found: list[list[float]] = scores.view(len(rows), -1).tolist()
    return found


def run(given: argparse.Namespace) -> None:
    """Serve until the driver closes the pipe; the step after the last scores what is held out."""
    turns = Turns(Channel(given.answers))
    quiet_libraries()
    torch.set_num_threads(given.threads)
    job, ranks = RewardJob.read(given.folder), Ranks()
    config = config_of(job, given.folder)
    model = model_of(config, ranks)
    learn(model, [ranking_of(row) for row in job.rows], config, ranks, turns)
    answer: dict[str, Any] = {"scores": scores_of(model, job.held_out)}
    turns.channel.done(answer)
    turns.channel.wait()


if __name__ == "__main__":
    serve(run)
