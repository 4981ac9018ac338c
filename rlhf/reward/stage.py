"""The reward model: K-wise rankings in; an adapter with a score head out.

One batch element is a prompt with all of its ranked completions, each encoded once; the loss is
the mean over a prompt's strict pairs (``rlhf.ops.ranking``). The score is read at the
end token by a float32 head outside PEFT. After training its constants are set so that
demonstrations score 0 on average and completions spread with standard deviation 1.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.checkpoints import fingerprint_file, write_json
from rlhf.config import RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.lengths import refuse_long
from rlhf.data.rankings import load_rankings
from rlhf.data.readers import read_demonstrations
from rlhf.data.splits import split_by_prompt
from rlhf.errors import DataError, TrainingError
from rlhf.model.base import ADAPTER_FOLDER, load_base, resolve_base
from rlhf.model.roles import Roles
from rlhf.optimization import RoleOptimizer, lr_factor
from rlhf.ranks import Ranks
from rlhf.records import Demonstration, Ranking
from rlhf.reward.card import CARD_FILE, build_card
from rlhf.reward.model import EncodedRanking, RewardModel
from rlhf.runs import Listener, RunFolder

_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What a reward run leaves."""

    output_dir: Path
    adapter: Path
    """Adapter, score head and normalisation constants."""
    card: Path
    """Held-out figures as JSON."""
    base_fingerprint: str
    pair_accuracy: float
    """On the strict pairs of held-out prompts; NaN when none are held out."""
    pair_accuracy_low: float
    pair_accuracy_high: float
    best_length_rule: float
    """Accuracy of the better of "longer wins" and "shorter wins" on the same pairs."""
    train_loss: float
    """Mean over the last tenth of the steps, nats per pair."""
    steps: int

    def summary(self) -> dict[str, float | str]:
        """Figures for the terminal."""
        return {
            "held-out pair accuracy": self.pair_accuracy,
            "95 % from": self.pair_accuracy_low,
            "95 % to": self.pair_accuracy_high,
            "best length rule": self.best_length_rule,
            "train loss": self.train_loss,
            "adapter": str(self.adapter),
        }


class RewardStage:
    """Train a reward adapter and its score head on rankings."""

    def __init__(self, config: RewardConfig, *, listener: Listener | None = None) -> None:
        self.config = config
        self.listener = listener

    def run(self) -> RewardResult:
        """Train, normalise, measure on held-out prompts and save.

        Raises:
            RlhfError: For whatever the user can mend.
        """
        config, ranks = self.config, Ranks()
        rankings = usable_rankings(load_rankings(config.rankings), config.rankings)
        anchors = None
        if config.demonstrations is not None:
            anchors = read_demonstrations(config.demonstrations)
        source = resolve_base(config.model_name_or_path)
        with RunFolder(
            config.output_dir, "reward", config, listener=self.listener, is_main=ranks.is_main
        ) as run:
            base = load_base(source, dtype=config.dtype, device=ranks.device)
            chat = ChatFormat.of(base.tokenizer, base.model)
            train, held_out = split_by_prompt(rankings, config.eval_fraction)
            run.record(
                base_fingerprint=base.fingerprint,
                data=self._fingerprints(),
                processes=ranks.size,
                counts={"train": len(train), "held_out": len(held_out)},
                simulated=any(ranking.simulated for ranking in rankings),
            )
            model = RewardModel(Roles(base), chat)
            model.roles.add("reward", config.adapter, trainable=True, seed=config.seed)
            before = model.roles.base_digest()
            encoded = {id(ranking): model.encode(ranking) for ranking in rankings}
            refuse_long(
                [(encoded[id(ranking)].longest, ranking.prompt.text) for ranking in rankings],
                limit=config.max_length,
                field="max_length",
                source=config.rankings,
                what="rankings",
            )
            anchor_ids = None if anchors is None else model.encode_demonstrations(anchors)
            losses = self._train(model, [encoded[id(r)] for r in train], run, ranks)
            self._normalize(model, train, anchor_ids)
            card = self._card(model, held_out, anchors or (), rankings)
            if model.roles.base_digest() != before:
                raise TrainingError("the frozen base changed; this is a fault of the toolkit")
            for ranking in (held_out or train)[:_SAMPLES]:
                run.sample(model.sample_row(ranking))
            result = self._save(model, run, losses, card)
            ranks.wait()
        return result

    def _fingerprints(self) -> dict[str, str]:
        files = {"rankings": self.config.rankings, "demonstrations": self.config.demonstrations}
        return {
            name: fingerprint_file(path)
            for name, path in files.items()
            if path is not None and Path(path).exists()
        }

    def _train(
        self, model: RewardModel, encoded: list[EncodedRanking], run: RunFolder, ranks: Ranks
    ) -> list[float]:
        config = self.config
        optimizer = RoleOptimizer(
            model.trainable(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            ranks=ranks,
        )
        size = config.per_device_train_batch_size * ranks.size
        total = math.ceil(len(encoded) / size) * config.num_train_epochs
        losses: list[float] = []
        for step, batch in enumerate(_batches(encoded, size, config)):
            mine = ranks.share(batch)
            figures = model.loss_and_backward(mine, len(batch), config.label_smoothing)
            loss, right, pairs = ranks.sum(figures).tolist()
            factor = lr_factor(
                config.lr_scheduler_type, step, total=total, warmup=config.warmup_steps
            )
            norm = optimizer.step(factor)
            losses.append(loss)
            if (step + 1) % config.logging_steps == 0 or step + 1 == total:
                row = {
                    "loss/train": loss,
                    "reward/pair_accuracy_train": right / pairs,
                    "optimizer/learning_rate": config.learning_rate * factor,
                    "optimizer/grad_norm": norm,
                }
                run.log(step + 1, row, total=total)
        return losses

    def _normalize(
        self,
        model: RewardModel,
        rankings: Sequence[Ranking],
        anchors: Sequence[tuple[list[int], list[int]]] | None,
    ) -> None:
        """Centre scores on the demonstrations, scale them by the spread of the completions."""
        samples = model.score_texts(
            [(ranking.prompt, text) for ranking in rankings for text in ranking.completions]
        )
        centre = samples if anchors is None else model.score(anchors)
        spread = float(samples.std(correction=0))
        if not spread > 1e-8:
            raise TrainingError(
                "the reward model gives every completion the same score; train longer or raise "
                f"learning_rate (now {self.config.learning_rate:g})"
            )
        model.head.normalize(float(centre.mean()), spread)

    def _card(
        self,
        model: RewardModel,
        held_out: Sequence[Ranking],
        demonstrations: Sequence[Demonstration],
        rankings: Sequence[Ranking],
    ) -> dict[str, Any]:
        figures = build_card(
            model.score_texts, model.count_tokens, held_out, demonstrations=demonstrations
        )
        return figures | {
            "normalization": {"mean": float(model.head.mean), "std": float(model.head.std)},
            "base_fingerprint": model.roles.base.fingerprint,
            "simulated": any(ranking.simulated for ranking in rankings),
        }

    def _save(
        self, model: RewardModel, run: RunFolder, losses: list[float], card: dict[str, Any]
    ) -> RewardResult:
        folder = Path(self.config.output_dir)
        if run.is_main:
            model.save(folder / ADAPTER_FOLDER)
            write_json(folder / CARD_FILE, card)
        tail = losses[-max(1, len(losses) // 10) :]
        accuracy = card["pair_accuracy"]
        result = RewardResult(
            output_dir=folder,
            adapter=folder / ADAPTER_FOLDER,
            card=folder / CARD_FILE,
            base_fingerprint=model.roles.base.fingerprint,
            pair_accuracy=_nan(accuracy["value"]),
            pair_accuracy_low=_nan(accuracy["low"]),
            pair_accuracy_high=_nan(accuracy["high"]),
            best_length_rule=_nan(card["best_length_rule"]["value"]),
            train_loss=sum(tail) / len(tail),
            steps=len(losses),
        )
        run.finish({name: getattr(result, name) for name in result.__dataclass_fields__})
        return result


def usable_rankings(rankings: Sequence[Ranking], source: str) -> list[Ranking]:
    """Keep the rankings that order at least two completions.

    Raises:
        DataError: If none does.
    """
    kept = [r for r in rankings if r.action == "rank" and any(True for _ in r.strict_pairs())]
    if not kept:
        raise DataError(
            f"{source}: none of its {len(rankings)} rankings puts one completion above another; "
            "rank some answers first (rlhf label)"
        )
    return kept


def _batches(
    encoded: list[EncodedRanking], size: int, config: RewardConfig
) -> Iterator[list[EncodedRanking]]:
    """Shuffled batches of every epoch, the same on every process."""
    for epoch in range(config.num_train_epochs):
        order = list(range(len(encoded)))
        random.Random(f"reward/{config.seed}/{epoch}").shuffle(order)
        for start in range(0, len(order), size):
            yield [encoded[row] for row in order[start : start + size]]


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
