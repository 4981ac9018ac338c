"""From answers to the figures of the report.

Sampled answers are compared with sampled ones and greedy with greedy; every interval takes
prompts as its independent units. Nothing here runs a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from rlhf.comparison import Interval, best_of, distinct_share, mean, paired_change, win_rate
from rlhf.config import EvaluationConfig
from rlhf.ops.metrics import clustered_ratio_interval, pair_outcomes
from rlhf.records import Demonstration, Prompt
from rlhf.reward.card_files import CARD_FILE


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of one answer."""

    utility: float
    """How good the answer is; differences up to the judge's margin are ties."""
    is_correct: bool
    """Whether it solves its task."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named parts of the utility."""


class Judge(Protocol):
    """Knows the true preference."""

    name: str
    margin: float

    def __call__(self, prompt: Prompt, completion: str) -> Judgement:
        """Judge one answer."""


@dataclass(slots=True)
class Answers:
    """One model's answers. The outer list runs over prompts, the inner over samples."""

    texts: list[list[str]]
    ids: list[list[list[int]]]
    ended: list[list[float]]
    scores: list[list[float]] = field(default_factory=list)
    judged: list[list[Judgement]] = field(default_factory=list)

    def values(self, read: Callable[[Judgement], float]) -> list[list[float]]:
        """One number of every judgement."""
        return [[read(judgement) for judgement in own] for own in self.judged]


@dataclass(frozen=True, slots=True)
class HeldOutPrompt:
    """A held-out prompt without a written answer."""

    prompt: Prompt
    completion: None = None
    task: str | None = None


HeldOut = Demonstration | HeldOutPrompt


@dataclass(slots=True)
class Comparison:
    """What base, SFT and PPO answered to the held-out prompts."""

    answers: dict[str, Answers] = field(default_factory=dict)
    greedy: dict[str, Answers] = field(default_factory=dict)
    kl: Tensor = field(default_factory=lambda: torch.zeros(0))
    kl_pretrained: Tensor | None = None


def figures_of(
    items: Sequence[HeldOut], found: Comparison, config: EvaluationConfig, judge: Judge | None
) -> dict[str, Any]:
    """All figures of the report.

    Args:
        items: Held-out prompts, with written answers and tasks where known.
        found: What the models answered.
        config: The evaluation's own.
        judge: Who judged the answers, if anybody.
    """
    kl = Interval.of(_per_prompt(found.kl, config.num_samples))
    ppo: dict[str, Any] = {
        "kl": kl.value,
        "kl_interval": [kl.low, kl.high],
        "kl_budget": config.kl_budget,
        "kl_to_pretrained": None
        if found.kl_pretrained is None
        else float(found.kl_pretrained.mean()),
    }
    ppo |= _run_figures(config)
    figures: dict[str, Any] = {
        "simulated": False,
        "judge": None if judge is None else judge.name,
        "prompts": len(items),
        "samples_per_prompt": config.num_samples,
        "models": {
            name: {
                "sampled": _model_figures(items, found.answers[name]),
                "greedy": _model_figures(items, found.greedy[name]),
            }
            for name in found.answers
        },
        "ppo": ppo,
    }
    if config.reward_model is not None:
        figures["reward_model"] = _card_figures(config.reward_model)
        won = win_rate(found.answers["ppo"].scores, found.answers["sft"].scores)
        ppo |= {"score_win_rate": won.value, "score_win_rate_low": won.low}
    if judge is not None:
        _true_figures(items, found, figures, judge.margin)
    return figures


def _model_figures(items: Sequence[HeldOut], answers: Answers) -> dict[str, Any]:
    """Means of one model's answers, overall and by task."""
    figures = _means(items, answers, range(len(items)))
    tasks = sorted({item.task for item in items if item.task is not None})
    figures["by_task"] = {
        task: _means(items, answers, [i for i, item in enumerate(items) if item.task == task])
        for task in tasks
    }
    return figures


def _true_figures(
    items: Sequence[HeldOut],
    found: Comparison,
    figures: dict[str, Any],
    margin: float,
) -> None:
    """Figures that need the true preference."""
    sft, ppo = found.answers["sft"], found.answers["ppo"]
    before, after = sft.values(_utility), ppo.values(_utility)
    won = win_rate(after, before, margin=margin)
    greedy = win_rate(
        found.greedy["ppo"].values(_utility),
        found.greedy["sft"].values(_utility),
        margin=margin,
    )
    tasks = sorted({item.task for item in items if item.task is not None})
    figures["ppo"] |= {
        "true_win_rate": won.value,
        "true_win_rate_low": won.low,
        "true_win_rate_high": won.high,
        "true_win_rate_greedy": greedy.value,
        "true_win_rate_greedy_low": greedy.low,
        "utility_change": asdict(paired_change(before, after)),
        "by_task": {
            task: _task_comparison(
                [i for i, item in enumerate(items) if item.task == task],
                before,
                after,
                margin,
            )
            for task in tasks
        },
    }
    if "base" in found.answers:
        base = found.answers["base"].values(_utility)
        figures["sft"] = {"true_win_rate": asdict(win_rate(before, base, margin=margin))}
    change = paired_change(sft.values(_correct), ppo.values(_correct))
    figures["task_accuracy"] = {
        name: mean(answers.values(_correct)) for name, answers in found.answers.items()
    } | {"change": change.value, "change_low": change.low, "change_high": change.high}
    if "reward_model" in figures:
        figures["reward_model"] |= _true_order(sft, before)
        if figures["samples_per_prompt"] > 1:
            figures["ppo"]["best_of_n"] = _best_of_n(before, sft.scores, margin)


def _means(items: Sequence[HeldOut], answers: Answers, rows: Sequence[int]) -> dict[str, Any]:
    """Means over the given prompts."""
    figures: dict[str, Any] = {
        "length": mean([[float(len(ids)) for ids in answers.ids[i]] for i in rows]),
        "ended": mean([answers.ended[i] for i in rows]),
        "distinct": distinct_share([answers.texts[i] for i in rows]),
    }
    if answers.scores:
        figures["score"] = mean([answers.scores[i] for i in rows])
    written = [(items[i].completion, answers.texts[i]) for i in rows]
    references = [(reference, own) for reference, own in written if reference is not None]
    if references:
        figures["rouge_l"] = mean([[rouge_l(ref, one) for one in own] for ref, own in references])
    if answers.judged:
        judged = [answers.judged[i] for i in rows]
        figures["utility"] = mean([[one.utility for one in own] for own in judged])
        figures["accuracy"] = mean([[float(one.is_correct) for one in own] for own in judged])
        for part in judged[0][0].parts:
            figures[part] = mean([[one.parts[part] for one in own] for own in judged])
    return figures


def rouge_l(reference: str, text: str) -> float:
    """ROUGE-L F1 of a text against a reference, without stemming."""
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return float(scorer.score(reference, text)["rougeL"].fmeasure)


def _task_comparison(
    rows: Sequence[int], before: list[list[float]], after: list[list[float]], margin: float
) -> dict[str, Any]:
    ours, theirs = [after[i] for i in rows], [before[i] for i in rows]
    won = win_rate(ours, theirs, margin=margin)
    change = paired_change(theirs, ours)
    return {
        "true_win_rate": won.value,
        "true_win_rate_low": won.low,
        "true_win_rate_high": won.high,
        "utility_change": change.value,
        "utility_change_low": change.low,
        "utility_change_high": change.high,
    }


def _true_order(sft: Answers, utilities: list[list[float]]) -> dict[str, Any]:
    """Accuracy of the reward model, and of length, against the true order of SFT samples."""
    by_score, by_length = [], []
    for own, scores, ids in zip(utilities, sft.scores, sft.ids, strict=True):
        # 1 is best: count the samples that are better by more than rounding.
        ranks = torch.tensor([1 + sum(other > one + 1e-6 for other in own) for one in own])
        by_score.append(pair_outcomes(torch.tensor(scores), ranks))
        by_length.append(pair_outcomes(torch.tensor([float(len(one)) for one in ids]), ranks))
    if not any(pairs for pairs, _ in by_score):
        return {}
    accuracy = _accuracy(by_score)
    longer = _accuracy(by_length)[0]
    return {
        "pair_accuracy": accuracy[0],
        "pair_accuracy_low": accuracy[1],
        "pair_accuracy_high": accuracy[2],
        "pair_accuracy_against": "true order of SFT samples on held-out prompts",
        "pairs": sum(pairs for pairs, _ in by_score),
        "longer_wins": longer,
        "shorter_wins": 1.0 - longer,
        "best_length_rule": max(longer, 1.0 - longer),
    }


def _accuracy(outcomes: Sequence[tuple[int, float]]) -> tuple[float, float, float]:
    return clustered_ratio_interval(
        [right for _, right in outcomes], [float(pairs) for pairs, _ in outcomes]
    )


def _best_of_n(
    utilities: list[list[float]], scores: list[list[float]], margin: float
) -> dict[str, Any]:
    """How often the reward model's pick among n - 1 SFT samples beats the n-th one."""
    count = len(utilities[0]) - 1
    picked = best_of(utilities, scores, count=count)
    oracle = best_of(utilities, utilities, count=count)
    last = [own[-1:] for own in utilities]
    return {
        "n": count,
        "true_win_rate": win_rate(picked, last, margin=margin).value,
        "true_win_rate_of_perfect_judge": win_rate(oracle, last, margin=margin).value,
    }


def _card_figures(reward_run: str) -> dict[str, Any]:
    """What the reward run measured on its held-out rankings."""
    card = json.loads((Path(reward_run) / CARD_FILE).read_text(encoding="utf-8"))
    accuracy = card["pair_accuracy"]
    return {
        "pair_accuracy": accuracy["value"],
        "pair_accuracy_low": accuracy["low"],
        "pair_accuracy_high": accuracy["high"],
        "pair_accuracy_against": "held-out rankings",
        "pair_accuracy_rankings": accuracy["value"],
        "pair_accuracy_rankings_low": accuracy["low"],
        "pair_accuracy_rankings_high": accuracy["high"],
        "pairs_rankings": card["held_out_pairs"],
        "longer_wins": card["longer_wins"],
        "shorter_wins": card["shorter_wins"],
        "best_length_rule": card["best_length_rule"]["value"],
        "best_length_rule_rankings": card["best_length_rule"]["value"],
    }


def _run_figures(config: EvaluationConfig) -> dict[str, Any]:
    file = Path(config.ppo_model) / "result.json"
    if not file.is_file():
        return {}
    result = json.loads(file.read_text(encoding="utf-8"))
    names = (
        *("export_max_logprob_difference", "export_same_greedy_text"),
        *("updates", "stopped_by", "reference", "alarms"),
    )
    return {name: result[name] for name in names if name in result}


def sample_rows(items: Sequence[HeldOut], found: Comparison) -> list[dict[str, Any]]:
    """Side by side: every model's first sample and greedy answer."""
    rows = []
    for i, item in enumerate(items):
        row: dict[str, Any] = {
            "prompt": item.prompt.text,
            "task": item.task,
            "demonstration": item.completion,
        }
        for name in found.answers:
            for kind, answers in (("sampled", found.answers[name]), ("greedy", found.greedy[name])):
                row[f"{name}_{kind}"] = {
                    "text": answers.texts[i][0],
                    "score": answers.scores[i][0] if answers.scores else None,
                    "utility": answers.judged[i][0].utility if answers.judged else None,
                }
        rows.append(row)
    return rows


def _per_prompt(flat: Tensor, samples: int) -> list[float]:
    means: list[float] = flat.view(-1, samples).mean(dim=-1).tolist()
    return means


def _utility(judgement: Judgement) -> float:
    return judgement.utility


def _correct(judgement: Judgement) -> float:
    return float(judgement.is_correct)
