"""The reward model: K-wise rankings in; an adapter with a score head out.

One batch element is a prompt with all of its ranked completions, each encoded once; the loss is
the mean over a prompt's strict pairs (``rlhf.ops.ranking``). The score is read at the
end token by a float32 head outside PEFT. After training its constants are set so that
demonstrations score 0 on average and completions spread with standard deviation 1.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.checkpoints import fingerprint_file, write_folder, write_json
from rlhf.config import RewardConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import GroupBatch
from rlhf.data.lengths import refuse_long
from rlhf.data.rankings import load_rankings
from rlhf.data.readers import read_demonstrations
from rlhf.data.splits import split_by_prompt
from rlhf.errors import DataError, TrainingError
from rlhf.model.adapters import save_adapter
from rlhf.model.base import ADAPTER_FOLDER, check_base, load_base, resolve_base, write_link
from rlhf.model.heads import ScalarHead
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_scores
from rlhf.ops.metrics import clustered_ratio_interval, pair_outcomes
from rlhf.ops.ranking import bradley_terry_loss
from rlhf.optimization import RoleOptimizer, lr_factor
from rlhf.ranks import Ranks
from rlhf.records import Demonstration, Ranking
from rlhf.runs import Listener, RunFolder

HEAD_FILE = "score_head.safetensors"
CARD_FILE = "reward_card.json"
_SCORING_BATCH = 64
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


@dataclass(frozen=True, slots=True)
class EncodedRanking:
    """A ranking as token ids."""

    prompt: list[int]
    completions: list[list[int]]
    ranks: list[int]
    """1 is best, 0 is not ranked."""

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest completion."""
        return len(self.prompt) + max(map(len, self.completions))


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
            card = model.card(held_out) | {"simulated": any(r.simulated for r in rankings)}
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

    def _save(
        self, model: RewardModel, run: RunFolder, losses: list[float], card: dict[str, Any]
    ) -> RewardResult:
        folder = Path(self.config.output_dir)
        base = model.roles.base

        def fill(path: Path) -> None:
            save_adapter(model.roles.peft_model, "reward", path, base_path=base.path)
            write_link(path, base)
            model.head.save(path / HEAD_FILE)

        if run.is_main:
            write_folder(folder / ADAPTER_FOLDER, fill, {"base_fingerprint": base.fingerprint})
            write_json(folder / CARD_FILE, card)
        tail = losses[-max(1, len(losses) // 10) :]
        accuracy = card["pair_accuracy"]
        result = RewardResult(
            output_dir=folder,
            adapter=folder / ADAPTER_FOLDER,
            card=folder / CARD_FILE,
            base_fingerprint=base.fingerprint,
            pair_accuracy=_nan(accuracy["value"]),
            pair_accuracy_low=_nan(accuracy["low"]),
            pair_accuracy_high=_nan(accuracy["high"]),
            best_length_rule=_nan(card["best_length_rule"]["value"]),
            train_loss=sum(tail) / len(tail),
            steps=len(losses),
        )
        run.finish({name: getattr(result, name) for name in result.__dataclass_fields__})
        return result


class RewardModel:
    """A reward role with its score head and text format."""

    def __init__(
        self,
        roles: Roles,
        chat: ChatFormat,
        head: ScalarHead | None = None,
        role: str = "reward",
    ) -> None:
        self.roles = roles
        self.chat = chat
        self.role = role
        self.head = head or ScalarHead(roles.base.hidden_size).to(roles.base.device)
        self.head.bias.requires_grad_(False)  # transformers' score heads have none

    @classmethod
    def load(
        cls, run_folder: Path, roles: Roles, chat: ChatFormat, role: str = "reward"
    ) -> RewardModel:
        """Add a trained reward adapter to a base under a role, refusing one of another base."""
        adapter = run_folder / ADAPTER_FOLDER
        check_base(adapter, roles.base)
        roles.add(role, adapter, trainable=False)
        head = ScalarHead(roles.base.hidden_size)
        head.load(adapter / HEAD_FILE)
        return cls(roles, chat, head.to(roles.base.device).requires_grad_(False), role)

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Adapter parameters and the head's weight, by name."""
        return self.roles.parameters(self.role) | {"score_head.weight": self.head.weight}

    def encode(self, ranking: Ranking) -> EncodedRanking:
        """Tokenise a ranking."""
        prompt = self.chat.encode_prompt(ranking.prompt)
        completions = [self.chat.encode_completion(text) for text in ranking.completions]
        return EncodedRanking(prompt, completions, [rank or 0 for rank in ranking.effective_ranks])

    def encode_demonstrations(
        self, demonstrations: Sequence[Demonstration]
    ) -> list[tuple[list[int], list[int]]]:
        """Tokenise prompts with their written completions."""
        chat = self.chat
        return [
            (chat.encode_prompt(item.prompt), chat.encode_completion(item.completion))
            for item in demonstrations
        ]

    def loss_and_backward(
        self, batch: Sequence[EncodedRanking], total: int, label_smoothing: float
    ) -> Tensor:
        """Add one share of a batch's gradients.

        Args:
            batch: This process's prompts.
            total: Prompts of the batch over all processes, which the loss is averaged over.
            label_smoothing: See ``bradley_terry_loss``.

        Returns:
            float32 (3,): this share's part of the mean loss, its rightly ordered pairs, its pairs.
        """
        figures = torch.zeros(3, device=self.roles.base.device)
        if not batch:
            return figures
        size = max(len(item.completions) for item in batch)
        ranks = torch.tensor([item.ranks + [0] * (size - len(item.ranks)) for item in batch])
        ranks = ranks.to(figures.device)
        with self.roles.use(self.role):
            groups = self._group([item.prompt for item in batch], [i.completions for i in batch])
            flat = completion_scores(self.roles, groups, self.head)
            counts = [len(item.completions) for item in batch]
            scores = torch.nn.utils.rnn.pad_sequence(
                list(torch.split(flat, counts)), batch_first=True
            )
            losses, _ = bradley_terry_loss(scores, ranks, label_smoothing=label_smoothing)
            loss = losses.sum() / total
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        figures[0] = loss.detach()
        for row in range(len(batch)):
            pairs, right = pair_outcomes(scores[row].detach(), ranks[row])
            figures[1] += right
            figures[2] += pairs
        return figures

    @torch.no_grad()
    def score(self, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        """Normalised scores of (prompt, completion) id lists, float32 (B,) on the CPU.

        Neighbours with the same prompt share its computation; rows are scored in batches of
        similar length. Neither changes a score.
        """
        starts = [row for row in range(len(rows)) if row == 0 or rows[row][0] != rows[row - 1][0]]
        spans = [range(*ends) for ends in pairwise([*starts, len(rows)])]
        spans.sort(key=lambda span: len(rows[span[0]][0]) + max(len(rows[row][1]) for row in span))
        scores = torch.zeros(len(rows))
        with self.roles.use(self.role):
            for chunk in _chunks(spans, _SCORING_BATCH):
                groups = self._group(
                    [rows[span[0]][0] for span in chunk],
                    [[rows[row][1] for row in span] for span in chunk],
                )
                places = torch.tensor([row for span in chunk for row in span])
                scores[places] = completion_scores(self.roles, groups, self.head).cpu()
        return scores

    def score_ids(
        self, prompt_ids: Sequence[list[int]], completion_ids: Sequence[list[int]]
    ) -> Tensor:
        """Normalised scores of sampled completions, float32 (B,).

        The head was trained at the end token of written completions, so it is put in place of
        whatever stop token was sampled, and after a completion that was cut off.
        """
        chat = self.chat
        closed = [
            [*(ids[:-1] if chat.has_ended(ids) else ids), chat.end_id] for ids in completion_ids
        ]
        return self.score(list(zip(prompt_ids, closed, strict=True)))

    def score_texts(self, pairs: Sequence[tuple[Any, str]]) -> Tensor:
        """Normalised scores of (Prompt, completion text) pairs, float32 (B,)."""
        chat = self.chat
        return self.score(
            [(chat.encode_prompt(p), chat.encode_completion(text)) for p, text in pairs]
        )

    def sample_row(self, ranking: Ranking) -> dict[str, Any]:
        """A ranking beside the scores of its completions, for people to read."""
        scores = self.score_texts([(ranking.prompt, text) for text in ranking.completions])
        return {
            "prompt": ranking.prompt.to_json(),
            "completions": list(ranking.completions),
            "ranks": list(ranking.effective_ranks),
            "scores": [round(score, 4) for score in scores.tolist()],
        }

    def card(self, rankings: Sequence[Ranking]) -> dict[str, Any]:
        """Held-out figures: pair accuracy beside what a rule on length alone would reach."""
        prompts, lengths, outcomes = [], [], []
        scores = self.score_texts([(r.prompt, text) for r in rankings for text in r.completions])
        start = 0
        for ranking in rankings:
            ranks = torch.tensor([rank or 0 for rank in ranking.effective_ranks])
            own = scores[start : start + len(ranks)]
            start += len(ranks)
            size = torch.tensor(
                [float(len(self.chat.encode_completion(text))) for text in ranking.completions]
            )
            prompts.append(ranking.prompt.sha256)
            outcomes.append(pair_outcomes(own, ranks))
            lengths.append(pair_outcomes(size, ranks))
        longer = _ratio(prompts, lengths)
        rule = "longer wins" if not longer["value"] or longer["value"] >= 0.5 else "shorter wins"
        best = None if longer["value"] is None else max(longer["value"], 1 - longer["value"])
        return {
            "held_out_prompts": len({ranking.prompt.sha256 for ranking in rankings}),
            "held_out_pairs": sum(pairs for pairs, _ in outcomes),
            "pair_accuracy": _ratio(prompts, outcomes),
            "longer_wins": longer["value"],
            "shorter_wins": None if longer["value"] is None else 1 - longer["value"],
            "best_length_rule": {"rule": rule, "value": best},
            "normalization": {"mean": float(self.head.mean), "std": float(self.head.std)},
            "base_fingerprint": self.roles.base.fingerprint,
        }

    def _group(
        self, prompts: Sequence[list[int]], completions: Sequence[Sequence[list[int]]]
    ) -> GroupBatch:
        return GroupBatch(prompts, completions, self.chat.pad_id, self.roles.base.device)


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


def _chunks(spans: Sequence[range], size: int) -> Iterator[list[range]]:
    """Neighbouring spans with up to ``size`` rows together; a longer span stands alone."""
    chunk: list[range] = []
    for span in spans:
        if chunk and sum(map(len, chunk)) + len(span) > size:
            yield chunk
            chunk = []
        chunk.append(span)
    if chunk:
        yield chunk


def _batches(
    encoded: list[EncodedRanking], size: int, config: RewardConfig
) -> Iterator[list[EncodedRanking]]:
    """Shuffled batches of every epoch, the same on every process."""
    for epoch in range(config.num_train_epochs):
        order = list(range(len(encoded)))
        random.Random(f"reward/{config.seed}/{epoch}").shuffle(order)
        for start in range(0, len(order), size):
            yield [encoded[row] for row in order[start : start + size]]


def _ratio(
    prompts: Sequence[str], outcomes: Sequence[tuple[int, float]]
) -> dict[str, float | None]:
    """Pair accuracy with an interval whose independent units are prompts, not rankings."""
    right: dict[str, float] = defaultdict(float)
    count: dict[str, float] = defaultdict(float)
    for prompt, (pairs, points) in zip(prompts, outcomes, strict=True):
        count[prompt] += pairs
        right[prompt] += points
    found = clustered_ratio_interval([right[p] for p in count], list(count.values()))
    value, low, high = (None if math.isnan(x) else x for x in found)
    if low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return {"value": value, "low": low, "high": high}


def _nan(value: float | None) -> float:
    return math.nan if value is None else value
