"""The reward card anew: a trained model, or an ensemble, on rankings given now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf.checkpoints import fingerprint_file
from rlhf.config import RewardCardConfig
from rlhf.data.rankings import load_rankings
from rlhf.data.readers import read_demonstrations
from rlhf.data.splits import split_by_prompt
from rlhf.errors import CheckpointError, ConfigError, DataError
from rlhf.ranks import Ranks
from rlhf.records import Ranking
from rlhf.reward.card_files import (
    CARD_FILE,
    PAGE_FILE,
    SAMPLES,
    finding_lines,
    measure,
    read_card,
    write_card,
)
from rlhf.reward.ensemble import Ensemble
from rlhf.reward.model import RewardModel
from rlhf.reward.score import check_reward_runs, expand_ensembles, load_reward_models
from rlhf.runs import Listener, read_run


@dataclass(frozen=True, slots=True)
class RewardCardResult:
    """What was measured, and where it is written."""

    card: Path
    """Figures as JSON; their page is beside them."""
    rankings: int
    """Rankings read."""
    measured: int
    """Those of them that are scored here."""
    trained_on: bool
    """Whether the model was trained on this source, so that only its held-out prompts count."""
    pair_accuracy: float | None
    pair_accuracy_low: float | None
    pair_accuracy_high: float | None
    best_length_rule: float | None
    findings: tuple[str, ...]
    """What speaks against optimising the model; PPO refuses what begins with ``fail``."""

    def summary(self) -> dict[str, float | str]:
        """Figures for the terminal."""
        used = f"{self.measured} of {self.rankings}"
        source = "trained on the others, these were held out" if self.trained_on else "held out"
        figures = {
            "pair accuracy": self.pair_accuracy,
            "95 % from": self.pair_accuracy_low,
            "95 % to": self.pair_accuracy_high,
            "best length rule": self.best_length_rule,
        }
        return {
            "rankings": f"{used} ({source})",
            **{name: value for name, value in figures.items() if value is not None},
            "card": str(self.card.with_name(PAGE_FILE)),
            **{f"finding {i}": text for i, text in enumerate(self.findings, start=1)},
        }


@dataclass(frozen=True, slots=True)
class _Run:
    """What a reward run says of itself."""

    folder: Path
    info: Mapping[str, Any]
    """run.json."""
    config: Mapping[str, Any]
    """config.yaml."""
    card: Mapping[str, Any]
    """Its own card, empty where there is none that can be read."""

    @classmethod
    def read(cls, folder: Path) -> _Run:
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"reward_model: {folder}/config.yaml: {error}") from error
        return cls(folder, read_run(folder), config, _card_of(folder) or {})

    def was_trained_on(self, source: str) -> bool:
        """Tell whether the rankings come from the source that the run was trained on.

        The bytes tell, and for a store, which grows, its name.
        """
        path, own = Path(source), str(self.config["rankings"])
        if source == own or ("://" not in source and path.resolve() == Path(own).resolve()):
            return True
        known = self.info.get("data", {}).get("rankings")
        return known is not None and path.exists() and fingerprint_file(path) == known

    def held_out(self, rankings: Sequence[Ranking]) -> list[Ranking]:
        """The rankings on whose prompts the run did not train, as the reward stage splits them."""
        all_bad = self.config.get("all_bad", "skip") != "skip"
        kept = [r for r in rankings if r.action == "rank" or (all_bad and r.action == "all_bad")]
        _, unseen = split_by_prompt(kept, float(self.config["eval_fraction"]))
        return [ranking for ranking in unseen if ranking.action == "rank"]

    @property
    def train_rankings(self) -> int | None:
        """How many rankings it learnt from."""
        found = self.card.get("train_rankings", self.info.get("counts", {}).get("train"))
        return None if found is None else int(found)


def rebuild_card(config: RewardCardConfig, *, listener: Listener | None = None) -> RewardCardResult:
    """Score rankings with a trained reward model and write its card.

    What training alone can tell stays as the run's own card has it: how many rankings it learnt
    from, what it learnt beside scores, and, for the same rankings, the learning curve.

    Args:
        config: The run, the rankings and where the card goes.
        listener: Of no use here; scoring has no steps.

    Raises:
        RlhfError: For whatever the user can mend.
    """
    folders = check_reward_runs(expand_ensembles([config.reward_model]))
    run, output = _Run.read(Path(config.reward_model)), Path(config.output_dir)
    _check_output(output)
    rankings = load_rankings(config.rankings)
    trained_on = run.was_trained_on(config.rankings)
    measured = [ranking for ranking in rankings if ranking.action == "rank"]
    if trained_on:
        measured = run.held_out(rankings)
    if not measured:
        why = "the model was trained on all of its prompts" if trained_on else "nobody ranked any"
        raise DataError(f"{config.rankings}: has no ranking to measure on, {why}; give others")
    path = config.demonstrations
    demonstrations = [] if path is None else list(read_demonstrations(path))
    ranks = Ranks()
    models = load_reward_models(folders, dtype=config.dtype, device=ranks.device)
    scorer = Ensemble(models)
    _check_lengths(config.rankings, models[0], measured)
    card = measure(
        scorer,
        measured,
        demonstrations=demonstrations,
        rankings=rankings,
        train_rankings=run.train_rankings,
    )
    card |= _kept(run, trained_on=trained_on)
    if len(models) > 1:
        card |= {"members": len(models)}
    if ranks.is_main:
        _write(output, card, [scorer.sample_row(ranking) for ranking in measured[:SAMPLES]])
    accuracy = card["pair_accuracy"]
    return RewardCardResult(
        card=output / CARD_FILE,
        rankings=len(rankings),
        measured=len(measured),
        trained_on=trained_on,
        pair_accuracy=accuracy["value"],
        pair_accuracy_low=accuracy["low"],
        pair_accuracy_high=accuracy["high"],
        best_length_rule=card["best_length_rule"]["value"],
        findings=finding_lines(card),
    )


def _kept(run: _Run, *, trained_on: bool) -> dict[str, Any]:
    """What the run's own card has and scoring can't tell."""
    names = ("learnt", "learning_curve") if trained_on else ("learnt",)
    return {name: run.card[name] for name in names if name in run.card}


def _check_lengths(source: str, model: RewardModel, rankings: Sequence[Ranking]) -> None:
    """Refuse rankings that the model can't read."""
    chat, config = model.chat, model.roles.base.model.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None:
        return
    for ranking in rankings:
        size = len(chat.encode_prompt(ranking.prompt))
        size += max(model.count_tokens(text) for text in ranking.completions)
        if size > limit:
            raise DataError(
                f"{source}: a ranking of {ranking.prompt.text[:50]!r} has {size} tokens, the model "
                f"reads {limit}; drop it"
            )


def _card_of(folder: Path) -> dict[str, Any] | None:
    """A folder's card; None where it is missing or broken."""
    try:
        return read_card(folder)
    except CheckpointError:
        return None


def _check_output(output: Path) -> None:
    """Refuse a folder with a card in it; a broken one may go."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output_dir: {output} is no folder; give a new or empty one")
    if _card_of(output) is not None:
        raise ConfigError(
            f"output_dir: {output} holds a {CARD_FILE} already; give another folder or remove it"
        )


def _write(output: Path, card: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_card(output, card, samples)
    except OSError as error:
        raise ConfigError(
            f"output_dir: {output}: not written: {error.strerror or error}"
        ) from error
