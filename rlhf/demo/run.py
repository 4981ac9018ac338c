"""The whole path on the embedded base, offline: from demonstrations to the report.

Rankings come from simulated annotators, whose hidden preference is known, through the same store
API that the labeling app uses; they are marked as simulated wherever they appear. The settings
below are the demo's own; everything else is what a user's own run does.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rlhf.config import (
    AdapterConfig,
    DemoConfig,
    EvaluationConfig,
    PPOConfig,
    RewardConfig,
    SampleConfig,
    SFTConfig,
)
from rlhf.demo.data import demonstrations, prompts
from rlhf.demo.preference import ANNOTATORS, Annotator, judge, rank, true_utility
from rlhf.demo.world import TaskPrompt
from rlhf.errors import CheckpointError
from rlhf.evaluate import EvaluationResult, EvaluationStage, write_report
from rlhf.figures import Judgement
from rlhf.ppo import PPOStage
from rlhf.records import Demonstration, Prompt, Ranking
from rlhf.reward import RewardStage
from rlhf.runs import Listener, peak_memory_mb, reset_peak_memory
from rlhf.sample import sample_candidates
from rlhf.sft import SFTStage
from rlhf.store import RankingStore, Submission

MARKER = "demo.json"
TIE_MARGIN = 0.05
"""Utilities closer than this count as a tie in the true win rate."""
KL_BUDGET = 4.0
"""Nats per completion. Best-of-n spends log n - (n - 1) / n; 4 nats is about what best-of-150
would, so a policy under the budget stays as close to the base as a pick among its own samples."""


TARGETS = {
    "pair_accuracy": 0.80,
    "margin_over_length_rule": 0.10,
    "true_win_rate": 0.75,
    "accuracy_drop": 0.02,
    "seconds": 360,
    "peak_memory_mb": 3000,
}
"""What the demo should reach; the report says of each whether it did."""


@dataclass(frozen=True, slots=True)
class DemoSize:
    """How much of everything; tests shrink it."""

    demonstrations: int = 500
    ranked_once: int = 960
    ranked_twice: int = 160
    """Prompts that both annotators rank, so that their agreement is known."""
    ppo_prompts: int = 1600
    eval_prompts: int = 360
    eval_samples: int = 4
    ppo_updates: int = 65
    sft_epochs: int = 3
    reward_epochs: int = 1
    max_new_tokens: int = 48


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where the demo's results lie, and its figures."""

    output_dir: Path
    report_html: Path
    report_json: Path
    figures: dict[str, Any]

    def summary(self) -> dict[str, float | str]:
        """The table that ``rlhf demo`` prints."""
        return _summary(self.figures) | {"report": str(self.report_html)}


class TrueJudge:
    """The simulated annotators' hidden preference, without their noise."""

    name = "hidden preference of the simulated annotators"
    margin = TIE_MARGIN

    def __init__(self, known: Iterable[TaskPrompt]) -> None:
        self._known = {Prompt.parse(prompt.text).sha256: prompt for prompt in known}

    def task_prompt(self, prompt: Prompt) -> TaskPrompt:
        """The facts behind a prompt."""
        return self._known[prompt.sha256]

    def __call__(self, prompt: Prompt, completion: str) -> Judgement:
        """Judge one answer."""
        found = judge(self.task_prompt(prompt), completion)
        parts = {
            "facts": found.facts,
            "manners": found.manners,
            "directness": found.directness,
        }
        return Judgement(found.total, found.is_correct, parts)


def run_demo(
    config: DemoConfig, *, listener: Listener | None = None, size: DemoSize | None = None
) -> DemoResult:
    """Run every stage and write the report.

    Raises:
        RlhfError: If output_dir can't be used.
    """
    demo = _Demo(config, listener, size or DemoSize())
    with as_file(files("rlhf.demo") / "base") as base:
        return demo.run(base)


@dataclass(slots=True)
class _Costs:
    """Seconds and peak memory of each step."""

    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        reset_peak_memory()
        started = time.perf_counter()
        yield
        self.stages[name] = {
            "seconds": round(time.perf_counter() - started, 2),
            "peak_memory_mb": round(peak_memory_mb(), 1),
        }


class _Demo:
    def __init__(self, config: DemoConfig, listener: Listener | None, size: DemoSize) -> None:
        self.config = config
        self.listener = listener
        self.size = size
        self.folder = Path(config.output_dir)
        self.costs = _Costs()
        self.adapter = AdapterConfig(r=16, lora_alpha=32)

    def run(self, base: Path) -> DemoResult:
        started = time.perf_counter()
        _prepare(self.folder, overwrite=self.config.overwrite)
        judge_ = self._write_data()
        with self.costs.measure("sft"):
            SFTStage(self._sft(base), listener=self.listener).run()
        with self.costs.measure("sample"):
            self._sample()
        with self.costs.measure("rank"):
            self._rank(judge_)
        with self.costs.measure("reward"):
            RewardStage(self._reward(), listener=self.listener).run()
        with self.costs.measure("ppo"):
            PPOStage(self._ppo(), listener=self.listener).run()
        with self.costs.measure("evaluation"):
            evaluation = EvaluationStage(
                self._evaluation(), listener=self.listener, judge=judge_
            ).run()
        figures = evaluation.figures | {
            "simulated": True,
            "seed": self.config.seed,
            "stages": self.costs.stages,
            "seconds": round(time.perf_counter() - started, 1),
            "peak_memory_mb": max(c["peak_memory_mb"] for c in self.costs.stages.values()),
            "targets": TARGETS,
            "notes": _NOTES,
        }
        figures["reward_model"] |= self._ceilings(judge_)
        report = EvaluationResult.of(self.folder, figures, evaluation.samples, evaluation.curves)
        write_report(report)
        return DemoResult(self.folder, report.report_html, report.report_json, figures)

    def _write_data(self) -> TrueJudge:
        """Write the data files as a user would have them; give who knows the truth."""
        size, seed = self.size, self.config.seed
        ranked = prompts(size.ranked_once + size.ranked_twice, seed)
        extra = prompts(len(ranked) + size.ppo_prompts, seed)[len(ranked) :]
        held_out = prompts(size.eval_prompts, seed, split="test")
        shown = demonstrations(size.eval_prompts, seed, split="test", good_share=1.0)
        _write_rows(
            self.folder / "demonstrations.jsonl", demonstrations(size.demonstrations, seed + 1)
        )
        _write_rows(self.folder / "prompts_ranked_once.jsonl", ranked[: size.ranked_once])
        _write_rows(self.folder / "prompts_ranked_twice.jsonl", ranked[size.ranked_once :])
        _write_rows(self.folder / "prompts_ppo.jsonl", [*ranked, *extra])
        _write_rows(self.folder / "held_out.jsonl", shown)
        return TrueJudge([*ranked, *held_out])

    def _sample(self) -> None:
        # Every prompt by exactly the people it is meant for, in the order of the files.
        with RankingStore.open(self.folder / "store.sqlite") as store:
            store.change_settings(random_share=0, max_overlap=0)
        for overlap, name in ((1, "once"), (2, "twice")):
            config = SampleConfig(
                model_name_or_path=str(self.folder / "sft"),
                prompts=str(self.folder / f"prompts_ranked_{name}.jsonl"),
                store=str(self.folder / "store.sqlite"),
                num_candidates=4,
                overlap=overlap,
                max_new_tokens=self.size.max_new_tokens,
                batch_size=128,
                seed=self.config.seed + overlap,
            )
            sample_candidates(config, listener=self.listener)

    def _rank(self, judge_: TrueJudge) -> None:
        """Let the simulated annotators work through the queue, in turns."""
        with RankingStore.open(self.folder / "store.sqlite", create=False) as store:
            for annotator in ANNOTATORS:
                store.add_annotator(annotator.name, annotator.name)
            total = sum(task.overlap for task in store.tasks())
            done, working = 0, list(ANNOTATORS)
            while working:
                for annotator in list(working):
                    if not _rank_next(store, annotator, judge_, f"{self.config.seed}-{done:06d}"):
                        working.remove(annotator)
                        continue
                    done += 1
                    if self.listener is not None and (done % 50 == 0 or done == total):
                        self.listener("rank (simulated)", done, total, {"rankings": done})

    def _ceilings(self, judge_: TrueJudge) -> dict[str, Any]:
        """What bounds the reward model: the annotators' noise and their agreement."""
        with RankingStore.open(self.folder / "store.sqlite", create=False) as store:
            rankings = [r for r in store.rankings() if r.action == "rank"]
        right, pairs = 0.0, 0
        for ranking in rankings:
            known = judge_.task_prompt(ranking.prompt)
            worth = [true_utility(known, text) for text in ranking.completions]
            for better, worse in ranking.strict_pairs():
                pairs += 1
                right += _order(worth[better], worth[worse])
        return {
            "ceiling": right / pairs,
            "ceiling_is": "accuracy of the noise-free simulated annotator on the noisy rankings",
            "annotator_agreement": _agreement(rankings),
            "annotator_noise": {a.name: a.noise for a in ANNOTATORS},
        }

    def _sft(self, base: Path) -> SFTConfig:
        return SFTConfig(
            model_name_or_path=str(base),
            train_file=str(self.folder / "demonstrations.jsonl"),
            output_dir=str(self.folder / "sft"),
            seed=self.config.seed,
            adapter=self.adapter,
            learning_rate=2e-3,
            num_train_epochs=self.size.sft_epochs,
            per_device_train_batch_size=32,
        )

    def _reward(self) -> RewardConfig:
        return RewardConfig(
            model_name_or_path=str(self.folder / "sft"),
            rankings=str(self.folder / "store.sqlite"),
            demonstrations=str(self.folder / "demonstrations.jsonl"),
            output_dir=str(self.folder / "reward"),
            seed=self.config.seed,
            adapter=self.adapter,
            learning_rate=1.5e-3,
            num_train_epochs=self.size.reward_epochs,
            per_device_train_batch_size=16,
        )

    def _ppo(self) -> PPOConfig:
        return PPOConfig(
            model_name_or_path=str(self.folder / "sft"),
            reward_model=str(self.folder / "reward"),
            train_file=str(self.folder / "prompts_ppo.jsonl"),
            output_dir=str(self.folder / "ppo"),
            seed=self.config.seed,
            adapter=self.adapter,
            learning_rate=4e-4,
            value_learning_rate=1.6e-3,
            warmup_steps=5,
            value_warmup_steps=4,
            max_steps=self.size.ppo_updates,
            rollout_batch_size=64,
            per_device_train_batch_size=16,
            num_ppo_epochs=2,
            num_mini_batches=4,
            max_new_tokens=self.size.max_new_tokens,
            kl_coef=0.05,
            kl_budget=KL_BUDGET,
            cliprange_value=0.5,
            score_clip=3.0,
            missing_eos_penalty=2.0,
        )

    def _evaluation(self) -> EvaluationConfig:
        return EvaluationConfig(
            sft_model=str(self.folder / "sft"),
            ppo_model=str(self.folder / "ppo"),
            reward_model=str(self.folder / "reward"),
            eval_file=str(self.folder / "held_out.jsonl"),
            output_dir=str(self.folder / "evaluation"),
            num_samples=self.size.eval_samples,
            max_new_tokens=self.size.max_new_tokens,
            batch_size=128,
            kl_budget=KL_BUDGET,
            seed=self.config.seed,
        )


_NOTES = [
    "Annotators, their rankings and the people who wrote the demonstrations are simulated; the "
    "true preference is the simulated annotators' own, before their noise.",
    "True win rate: sampled answers against sampled answers on held-out prompts; utilities that "
    f"differ by at most {TIE_MARGIN} are ties and count half.",
    f"KL budget: {KL_BUDGET:g} nats per completion, about what picking the best of 150 samples "
    "would spend (log n - (n - 1) / n).",
]


def _prepare(folder: Path, *, overwrite: bool) -> None:
    """Make the folder; an earlier demo in it is replaced only when asked."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; give a folder as --output_dir")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise CheckpointError(f"{folder}: holds other files; give a new or empty --output_dir")
        if not overwrite:
            raise CheckpointError(
                f"{folder}: holds an earlier demo; give --overwrite or another --output_dir"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text('{"simulated": true}\n', encoding="utf-8")


def _write_rows(path: Path, items: Sequence[TaskPrompt] | Sequence[Demonstration]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            if isinstance(item, Demonstration):
                row: Mapping[str, Any] = {
                    "prompt": item.prompt.to_json(),
                    "completion": item.completion,
                    "task": item.task,
                }
            else:
                row = {"prompt": item.text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rank_next(
    store: RankingStore, annotator: Annotator, judge_: TrueJudge, request_id: str
) -> bool:
    """Claim, rank and submit one task; False when nothing is left for this annotator."""
    assignment = store.claim(annotator.name)
    if assignment is None:
        return False
    known = judge_.task_prompt(assignment.prompt)
    ranks = rank(known, assignment.completions, annotator)
    store.submit(
        assignment.id,
        annotator.name,
        Submission(request_id=f"demo-{request_id}", ranks=tuple(ranks), simulated=True),
    )
    return True


def _agreement(rankings: Sequence[Ranking]) -> float | None:
    """Share of pairs that two annotators both ordered and ordered alike."""
    first: dict[tuple[str, str, str], None] = {}
    alike = both = 0
    for ranking in rankings:
        texts = ranking.completions
        for better, worse in ranking.strict_pairs():
            pair = (ranking.prompt.sha256, texts[better], texts[worse])
            swapped = (pair[0], pair[2], pair[1])
            alike += pair in first
            both += pair in first or swapped in first
            first.setdefault(pair)
    return alike / both if both else None


def _order(better: float, worse: float) -> float:
    """1 for the right order, half for equal utilities."""
    if math.isclose(better, worse, abs_tol=1e-6):
        return 0.5
    return float(better > worse)


def _summary(figures: Mapping[str, Any]) -> dict[str, float | str]:
    """The demo's table."""
    reward, ppo, accuracy = figures["reward_model"], figures["ppo"], figures["task_accuracy"]
    table: dict[str, float | str] = {
        "annotators": "simulated",
        "reward model: pair accuracy, true order": reward["pair_accuracy"],
        "reward model: pair accuracy, held-out rankings": reward["pair_accuracy_rankings"],
        "reward model: best length rule": reward["best_length_rule"],
        "reward model: ceiling (noise-free annotator)": reward["ceiling"],
        "PPO beats SFT, true preference": ppo["true_win_rate"],
        "  95 % from": ppo["true_win_rate_low"],
        "  95 % to": ppo["true_win_rate_high"],
        "KL to the base, nats per completion": f"{ppo['kl']:.2f} (budget {ppo['kl_budget']:g})",
    }
    for name in ("base", "sft", "ppo"):
        sampled = figures["models"][name]["sampled"]
        table[f"{name}: score, length, ROUGE-L, task accuracy"] = (
            f"{sampled['score']:.2f}, {sampled['length']:.1f}, {sampled['rouge_l']:.3f}, "
            f"{accuracy[name]:.3f}"
        )
    for name, cost in figures["stages"].items():
        table[f"{name}: seconds, peak MB"] = f"{cost['seconds']:.1f}, {cost['peak_memory_mb']:.0f}"
    table["total seconds"] = figures["seconds"]
    table["peak memory, MB"] = figures["peak_memory_mb"]
    return table
