"""The reward stage: rankings in; a reward model, or an ensemble of them, and its card out.

After training, a model's constants are set so that demonstrations score 0 on average and
completions spread with standard deviation 1. All models share the one frozen base.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf.checkpoints import delete_folder, fingerprint_file, write_text
from rlhf.config import RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.lengths import refuse_long
from rlhf.data.rankings import load_rankings, load_tasks
from rlhf.data.readers import read_demonstrations
from rlhf.data.splits import split_by_prompt
from rlhf.errors import DataError, TrainingError
from rlhf.model.base import ADAPTER_FOLDER, load_base, resolve_base
from rlhf.model.roles import Roles
from rlhf.ranks import Ranks
from rlhf.records import Demonstration, Ranking
from rlhf.reward.card import Interval, pair_accuracy
from rlhf.reward.card_files import (
    CARD_FILE,
    PAGE_FILE,
    SAMPLES,
    finding_lines,
    measure,
    write_card,
)
from rlhf.reward.curve import learning_curve
from rlhf.reward.ensemble import DISAGREEMENT_FILE, Ensemble, bootstrap, member_folder
from rlhf.reward.model import RewardModel
from rlhf.reward.objective import RankingObjective, check_annotators
from rlhf.reward.training import OnStep, encode, train
from rlhf.runs import Listener, RunFolder


@dataclass(frozen=True, slots=True)
class RewardResult:
    """What a reward run leaves."""

    output_dir: Path
    adapter: Path
    """Adapter, score head and normalisation constants; of an ensemble, those of member 1."""
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
    """Mean over the last tenth of the steps, nats per pair; of an ensemble, over its members."""
    steps: int
    findings: tuple[str, ...] = ()
    """What speaks against optimising it; PPO refuses what begins with ``fail``."""

    def summary(self) -> dict[str, float | str]:
        """Figures for the terminal."""
        return {
            "held-out pair accuracy": self.pair_accuracy,
            "95 % from": self.pair_accuracy_low,
            "95 % to": self.pair_accuracy_high,
            "best length rule": self.best_length_rule,
            "train loss": self.train_loss,
            "adapter": str(self.adapter),
            "card": str(self.card.with_name(PAGE_FILE)),
            **{f"finding {i}": text for i, text in enumerate(self.findings, start=1)},
        }


@dataclass(frozen=True, slots=True)
class RankedData:
    """What a run reads."""

    rankings: list[Ranking]
    """Everything that people ranked, usable for training or not."""
    train: list[Ranking]
    held_out: list[Ranking]
    demonstrations: list[Demonstration]

    @property
    def simulated(self) -> bool:
        """Whether programs ranked any of it."""
        return any(ranking.simulated for ranking in self.rankings)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained and normalised model with the losses of its steps."""

    model: RewardModel
    losses: list[float]
    learnt: dict[str, float]
    """Tie parameter and annotators' errors, where they were learnt."""


class RewardStage:
    """Train reward adapters with their score heads on rankings."""

    def __init__(self, config: RewardConfig, *, listener: Listener | None = None) -> None:
        self.config = config
        self.listener = listener

    def run(self) -> RewardResult:
        """Train, normalise, measure on held-out prompts and save.

        Raises:
            RlhfError: For whatever the user can mend.
        """
        config, ranks = self.config, Ranks()
        data = self._read()
        source = resolve_base(config.model_name_or_path)
        with self._folder(config, ranks) as run:
            if ranks.is_main:
                for folder in list(run.path.glob("member_*")):  # of an unfinished ensemble
                    delete_folder(folder)
            base = load_base(source, dtype=config.dtype, device=ranks.device)
            roles, chat = Roles(base), ChatFormat.of(base.tokenizer, base.model)
            run.record(
                base_fingerprint=base.fingerprint,
                data=self._fingerprints(),
                processes=ranks.size,
                counts={"train": len(data.train), "held_out": len(data.held_out)},
                simulated=data.simulated,
            )
            trainer = _Trainer(config, data, roles, chat, ranks)
            before = roles.base_digest()
            result = (self._one if config.ensemble_size == 1 else self._several)(trainer, run)
            if roles.base_digest() != before:
                raise TrainingError("the frozen base changed; this is a fault of the toolkit")
            run.finish({name: getattr(result, name) for name in result.__dataclass_fields__})
            ranks.wait()
        return result

    def _read(self) -> RankedData:
        config = self.config
        rankings = load_rankings(config.rankings)
        check_annotators(config, rankings)
        uses = RankingObjective(config, rankings).uses
        kept = [r for r in rankings if r.action == "rank" or uses(r)]
        seen, unseen = split_by_prompt(kept, config.eval_fraction)
        train = [ranking for ranking in seen if uses(ranking)]
        held_out = [ranking for ranking in unseen if ranking.action == "rank"]
        if not train:
            raise DataError(
                f"{config.rankings}: none of its {len(rankings)} rankings puts one completion "
                "above another; rank some answers first (rlhf label)"
            )
        path = config.demonstrations
        demonstrations = [] if path is None else list(read_demonstrations(path))
        return RankedData(rankings, train, held_out, demonstrations)

    def _folder(self, config: RewardConfig, ranks: Ranks) -> RunFolder:
        return RunFolder(
            config.output_dir, "reward", config, listener=self.listener, is_main=ranks.is_main
        )

    def _fingerprints(self) -> dict[str, str]:
        files = {"rankings": self.config.rankings, "demonstrations": self.config.demonstrations}
        return {
            name: fingerprint_file(path)
            for name, path in files.items()
            if path is not None and Path(path).exists()
        }

    def _one(self, trainer: _Trainer, run: RunFolder) -> RewardResult:
        """Train and save one model."""
        config, data = self.config, trainer.data
        fitted = trainer.fit("reward", data.train, seed=config.seed, on_step=_logger(run, config))
        card = trainer.card(fitted.model) | {"learnt": fitted.learnt}
        if config.learning_curve:
            accuracy = card["pair_accuracy"]
            card["learning_curve"] = learning_curve(data.train, trainer.accuracy_of, accuracy)
        return _save_model(run, fitted, card, data, trainer.ranks)

    def _several(self, trainer: _Trainer, run: RunFolder) -> RewardResult:
        """Train and save an ensemble, each member in a run folder of its own."""
        config, data, ranks = self.config, trainer.data, trainer.ranks
        members, results = [], []
        for number in range(1, config.ensemble_size + 1):
            folder = member_folder(run.path, number)
            seed = config.seed + number
            sample = bootstrap(data.train, config.seed, number)
            own = replace(config, output_dir=str(folder), ensemble_size=1, seed=seed)
            with self._folder(own, ranks) as member:
                member.record(base_fingerprint=trainer.roles.base.fingerprint)
                role = "reward" if number == 1 else f"reward_{number}"
                fitted = trainer.fit(role, sample, seed=seed, on_step=_logger(member, config))
                card = trainer.card(fitted.model) | {"learnt": fitted.learnt}
                result = _save_model(member, fitted, card, data, ranks)
                member.finish({name: getattr(result, name) for name in result.__dataclass_fields__})
            members.append(fitted.model)
            results.append(result)
        card = trainer.card(*members) | {"members": len(members)}
        if ranks.is_main:
            tasks = load_tasks(config.rankings, data.rankings)
            rows = (
                json.dumps(row, ensure_ascii=False)
                for row in Ensemble(members).disagreements(tasks)
            )
            write_text(run.path / DISAGREEMENT_FILE, "".join(f"{row}\n" for row in rows))
            write_card(run.path, card, [])
        loss = sum(result.train_loss for result in results) / len(results)
        return _result_of(run.path, card, results[0].adapter, loss, results[0].steps)


class _Trainer:
    """Trains roles on one base and measures them on the held-out rankings."""

    def __init__(
        self, config: RewardConfig, data: RankedData, roles: Roles, chat: ChatFormat, ranks: Ranks
    ) -> None:
        self.config = config
        self.data = data
        self.roles = roles
        self.chat = chat
        self.ranks = ranks
        self._check_lengths()

    def fit(
        self, role: str, rankings: Sequence[Ranking], *, seed: int, on_step: OnStep | None = None
    ) -> Fitted:
        """Train a new role on rankings and set its head's constants."""
        config = replace(self.config, seed=seed)
        self.roles.add(role, config.adapter, trainable=True, seed=seed)
        model = RewardModel(self.roles, self.chat, role=role)
        objective = RankingObjective(config, rankings)
        encoded = [encode(model, ranking, objective.weight(ranking)) for ranking in rankings]
        losses = train(model, objective, encoded, config, self.ranks, on_step)
        self._normalize(model, rankings)
        return Fitted(model, losses, objective.figures())

    def accuracy_of(self, rankings: Sequence[Ranking], name: str) -> Interval:
        """Held-out pair accuracy of a model trained on these rankings alone."""
        fitted = self.fit(f"curve_{name}", rankings, seed=self.config.seed)
        return pair_accuracy(fitted.model.score_texts, self.data.held_out)

    def card(self, *models: RewardModel) -> dict[str, Any]:
        """The card of one model or of several."""
        data = self.data
        return measure(
            Ensemble(models),
            data.held_out,
            demonstrations=data.demonstrations,
            rankings=data.rankings,
            train_rankings=len(data.train),
        )

    def _check_lengths(self) -> None:
        chat, config = self.chat, self.config
        sizes = [
            (
                len(chat.encode_prompt(ranking.prompt))
                + max(len(chat.encode_completion(text)) for text in ranking.completions),
                ranking.prompt.text,
            )
            for ranking in (*self.data.train, *self.data.held_out)
        ]
        refuse_long(
            sizes,
            limit=config.max_length,
            field="max_length",
            source=config.rankings,
            what="rankings",
        )

    def _normalize(self, model: RewardModel, rankings: Sequence[Ranking]) -> None:
        """Centre scores on the demonstrations, scale them by the spread of the completions."""
        samples = model.score_texts([(r.prompt, text) for r in rankings for text in r.completions])
        written = [(item.prompt, item.completion) for item in self.data.demonstrations]
        centre = model.score_texts(written) if written else samples
        spread = float(samples.std(correction=0))
        if not spread > 1e-8:
            raise TrainingError(
                "the reward model gives every completion the same score; train longer or raise "
                f"learning_rate (now {self.config.learning_rate:g})"
            )
        model.head.normalize(float(centre.mean()), spread)


def _save_model(
    run: RunFolder, fitted: Fitted, card: dict[str, Any], data: RankedData, ranks: Ranks
) -> RewardResult:
    """Write a model's folder: adapter, card, page, samples."""
    scorer = Ensemble([fitted.model])
    rows = [scorer.sample_row(r) for r in (data.held_out or data.train)[:SAMPLES]]
    for row in rows:
        run.sample(row)
    if ranks.is_main:
        fitted.model.save(run.path / ADAPTER_FOLDER)
        write_card(run.path, card, rows)
    tail = fitted.losses[-max(1, len(fitted.losses) // 10) :]
    loss = sum(tail) / len(tail)
    return _result_of(run.path, card, run.path / ADAPTER_FOLDER, loss, len(fitted.losses))


def _result_of(
    folder: Path, card: Mapping[str, Any], adapter: Path, loss: float, steps: int
) -> RewardResult:
    """What a run leaves, from its card."""
    accuracy = card["pair_accuracy"]
    return RewardResult(
        output_dir=folder,
        adapter=adapter,
        card=folder / CARD_FILE,
        base_fingerprint=card["base_fingerprint"],
        pair_accuracy=_nan(accuracy["value"]),
        pair_accuracy_low=_nan(accuracy["low"]),
        pair_accuracy_high=_nan(accuracy["high"]),
        best_length_rule=_nan(card["best_length_rule"]["value"]),
        train_loss=loss,
        steps=steps,
        findings=finding_lines(card),
    )


def _logger(run: RunFolder, config: RewardConfig) -> OnStep:
    """Log every n-th step and the last one."""

    def on_step(step: int, total: int, row: Mapping[str, float]) -> None:
        if step % config.logging_steps == 0 or step == total:
            run.log(step, row, total=total)

    return on_step


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
