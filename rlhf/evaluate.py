"""Evaluation: what base, SFT and PPO say on held-out prompts, and how they compare.

Sampled answers are compared with sampled ones and greedy with greedy. A judge, where there is
one, gives the true preference (the demo knows its annotators' hidden preference); without a
judge the comparison rests on the reward model, and the report says so.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from rlhf.checkpoints import fingerprint_file, write_json, write_text
from rlhf.comparison import Interval, best_of, distinct_share, mean, paired_change, win_rate
from rlhf.config import EvaluationConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import collate
from rlhf.data.readers import read_demonstrations, read_prompts
from rlhf.errors import ConfigError, DataError
from rlhf.inference import Policy
from rlhf.model.base import (
    FOLDED_FILE,
    ModelSource,
    check_base,
    linked_base,
    load_base,
    resolve_model,
)
from rlhf.model.generation import NoiseKey
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs
from rlhf.ops.masking import masked_sum
from rlhf.ops.metrics import clustered_ratio_interval, pair_outcomes
from rlhf.ranks import Ranks
from rlhf.records import Demonstration, Prompt
from rlhf.report import render_report
from rlhf.reward import CARD_FILE, RewardModel
from rlhf.runs import Listener, RunFolder, read_run

MODELS = ("base", "sft", "ppo")
_EVALUATION_NOISE = 4
"""Purpose number in the noise keys; see ``rlhf.model.generation``."""
_SHOWN = 24


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
class EvaluationResult:
    """Where the report lies and the figures in it."""

    output_dir: Path
    report_html: Path
    report_json: Path
    figures: dict[str, Any]
    samples: list[dict[str, Any]]
    """Side by side: what every model answered to each prompt."""
    curves: dict[str, list[dict[str, Any]]]
    """Logged rows of the training stages."""

    def summary(self) -> dict[str, float | str]:
        """Figures for the terminal."""
        return summary_of(self.figures) | {"report": str(self.report_html)}


class EvaluationStage:
    """Sample from base, SFT and PPO on held-out prompts, compare and report."""

    def __init__(
        self,
        config: EvaluationConfig,
        *,
        listener: Listener | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.config = config
        self.listener = listener
        self.judge = judge

    def run(self) -> EvaluationResult:
        """Answer, score, compare and write the report.

        Raises:
            RlhfError: For whatever the user can mend.
        """
        config = self.config
        items = _read_items(config)
        prompts = [item.prompt for item in items]
        with RunFolder(config.output_dir, "evaluation", config, listener=self.listener) as run:
            run.record(data={"eval_file": fingerprint_file(config.eval_file)})
            found = self._answer(prompts, run)
            figures = self._figures(items, found)
            figures["stages"] = _stage_costs(config)
            rows = _sample_rows(items, found)
            for row in rows:
                run.sample(row)
            run.finish(summary_of(figures))
        return write_report(Path(config.output_dir), figures, rows, _curves(config))

    def _answer(self, prompts: list[Prompt], run: RunFolder) -> _Found:
        """Let every model answer every prompt, greedily and sampled."""
        config, device = self.config, Ranks().device
        sft = resolve_model(config.sft_model, field="sft_model")
        ppo = resolve_model(config.ppo_model, field="ppo_model")
        if ppo.adapter is None:
            raise ConfigError(f"ppo_model: {config.ppo_model} is not a finished PPO run")
        original = _original_of(sft.base)
        found = _Found()
        if original is not None:
            policy = Policy.load(str(original), dtype=config.dtype)
            found.answers["base"], found.greedy["base"] = self._sample(policy, prompts, 0)
            del policy
        run.log(1, {}, total=4)
        base = load_base(ModelSource(sft.base), dtype=config.dtype, device=device)
        roles, chat = Roles(base), ChatFormat.of(base.tokenizer, base.model)
        check_base(ppo.adapter, base)
        roles.add("policy", ppo.adapter, trainable=False)
        for number, (name, role) in enumerate((("sft", None), ("ppo", "policy")), start=1):
            policy = Policy(roles, chat, role)
            found.answers[name], found.greedy[name] = self._sample(policy, prompts, number)
        run.log(2, {}, total=4)
        prompt_ids = [chat.encode_prompt(prompt) for prompt in prompts]
        ppo_ids = found.answers["ppo"].ids
        with roles.use("policy"):
            policy_logprobs = self._sequence_logprobs(roles, chat, prompt_ids, ppo_ids)
        with roles.use(None):
            found.kl = policy_logprobs - self._sequence_logprobs(roles, chat, prompt_ids, ppo_ids)
        if config.reward_model is not None:
            model = RewardModel.load(Path(config.reward_model), roles, chat)
            for answers in (*found.answers.values(), *found.greedy.values()):
                _score(answers, model, prompts)
        run.log(3, {}, total=4)
        del roles, base, policy
        if original is not None:
            base = load_base(ModelSource(original), dtype=config.dtype, device=device)
            roles = Roles(base)
            with roles.use(None):
                pretrained = self._sequence_logprobs(roles, chat, prompt_ids, ppo_ids)
            found.kl_pretrained = policy_logprobs - pretrained
        if self.judge is not None:
            for answers in (*found.answers.values(), *found.greedy.values()):
                answers.judged = [
                    [self.judge(prompt, text) for text in own]
                    for prompt, own in zip(prompts, answers.texts, strict=True)
                ]
        run.log(4, {}, total=4)
        return found

    def _sample(
        self, policy: Policy, prompts: list[Prompt], number: int
    ) -> tuple[Answers, Answers]:
        """Sampled and greedy answers of one model."""
        config, chat = self.config, policy.chat
        prompt_ids = [chat.encode_prompt(prompt) for prompt in prompts]

        def answer(keys: Sequence[NoiseKey] | None, count: int) -> Answers:
            repeated = [ids for ids in prompt_ids for _ in range(count)]
            batches = policy.complete_ids(
                repeated,
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                keys=keys,
                batch_size=config.batch_size,
            )
            flat = list(itertools.chain.from_iterable(batches))
            ids = [flat[row * count : (row + 1) * count] for row in range(len(prompts))]
            return Answers(
                texts=[[chat.decode_completion(one) for one in own] for own in ids],
                ids=ids,
                ended=[[float(chat.has_ended(one)) for one in own] for own in ids],
            )

        keys = [
            (config.seed, _EVALUATION_NOISE, number, row, sample)
            for row in range(len(prompts))
            for sample in range(config.num_samples)
        ]
        return answer(keys, config.num_samples), answer(None, 1)

    @torch.no_grad()
    def _sequence_logprobs(
        self,
        roles: Roles,
        chat: ChatFormat,
        prompt_ids: list[list[int]],
        completion_ids: list[list[list[int]]],
    ) -> Tensor:
        """Log-probability of each whole completion in nats, float32 (prompts * samples,)."""
        rows = [
            (prompt, ids)
            for prompt, own in zip(prompt_ids, completion_ids, strict=True)
            for ids in own
        ]
        found = []
        for start in range(0, len(rows), self.config.batch_size):
            prompts, completions = zip(*rows[start : start + self.config.batch_size], strict=True)
            batch = collate(prompts, completions, pad_id=chat.pad_id, device=roles.base.device)
            logprobs = completion_logprobs(roles, batch, temperature=self.config.temperature)
            found.append(masked_sum(logprobs, batch.completion_mask).cpu())
        return torch.cat(found)

    def _figures(
        self, items: Sequence[Demonstration | _PromptOnly], found: _Found
    ) -> dict[str, Any]:
        """All figures of the report."""
        config = self.config
        kl = Interval.of(_per_prompt(found.kl, config.num_samples))
        ppo: dict[str, Any] = {
            "kl": kl.value,
            "kl_interval": [kl.low, kl.high],
            "kl_budget": config.kl_budget,
            "kl_to_pretrained": None
            if found.kl_pretrained is None
            else float(found.kl_pretrained.mean()),
        }
        ppo |= _export_figures(config)
        figures: dict[str, Any] = {
            "simulated": False,
            "judge": None if self.judge is None else self.judge.name,
            "prompts": len(items),
            "samples_per_prompt": config.num_samples,
            "models": {
                name: {
                    "sampled": self._model_figures(items, found.answers[name]),
                    "greedy": self._model_figures(items, found.greedy[name]),
                }
                for name in found.answers
            },
            "ppo": ppo,
        }
        if config.reward_model is not None:
            figures["reward_model"] = _card_figures(config.reward_model)
            won = win_rate(found.answers["ppo"].scores, found.answers["sft"].scores)
            ppo |= {"score_win_rate": won.value, "score_win_rate_low": won.low}
        if self.judge is not None:
            self._true_figures(items, found, figures)
        return figures

    def _model_figures(
        self, items: Sequence[Demonstration | _PromptOnly], answers: Answers
    ) -> dict[str, Any]:
        """Means of one model's answers, overall and by task."""
        figures = _means(items, answers, range(len(items)))
        tasks = sorted({item.task for item in items if item.task is not None})
        figures["by_task"] = {
            task: _means(items, answers, [i for i, item in enumerate(items) if item.task == task])
            for task in tasks
        }
        return figures

    def _true_figures(
        self,
        items: Sequence[Demonstration | _PromptOnly],
        found: _Found,
        figures: dict[str, Any],
    ) -> None:
        """Figures that need the true preference."""
        assert self.judge is not None
        margin = self.judge.margin
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
            if self.config.num_samples > 1:
                figures["ppo"]["best_of_n"] = _best_of_n(before, sft.scores, margin)


@dataclass(frozen=True, slots=True)
class _PromptOnly:
    """A held-out prompt without a written answer."""

    prompt: Prompt
    completion: None = None
    task: str | None = None


@dataclass(slots=True)
class _Found:
    """Everything the models gave."""

    answers: dict[str, Answers] = field(default_factory=dict)
    greedy: dict[str, Answers] = field(default_factory=dict)
    kl: Tensor = field(default_factory=lambda: torch.zeros(0))
    kl_pretrained: Tensor | None = None


def write_report(
    folder: Path,
    figures: dict[str, Any],
    samples: list[dict[str, Any]],
    curves: dict[str, list[dict[str, Any]]],
) -> EvaluationResult:
    """Write report.json and report.html into a folder."""
    page, data = folder / "report.html", folder / "report.json"
    write_json(data, figures)
    write_text(page, render_report(figures, samples[:_SHOWN], curves))
    return EvaluationResult(folder, page, data, figures, samples, curves)


def summary_of(figures: Mapping[str, Any]) -> dict[str, float | str]:
    """The figures that fit a terminal."""
    ppo, reward = figures["ppo"], figures.get("reward_model", {})
    chosen = {
        "reward model: pair accuracy": reward.get("pair_accuracy"),
        "reward model: best length rule": reward.get("best_length_rule"),
        "reward model: ceiling": reward.get("ceiling"),
        "PPO beats SFT (true preference)": ppo.get("true_win_rate"),
        "PPO beats SFT (reward model)": ppo.get("score_win_rate"),
        "KL to the base, nats per completion": ppo["kl"],
        "KL budget": ppo["kl_budget"],
    }
    return {name: value for name, value in chosen.items() if value is not None}


def _read_items(config: EvaluationConfig) -> list[Demonstration | _PromptOnly]:
    """Demonstrations where the file has completions, else prompts."""
    items: list[Demonstration | _PromptOnly]
    try:
        items = list(read_demonstrations(config.eval_file))
    except DataError:
        items = [_PromptOnly(prompt) for prompt in read_prompts(config.eval_file)]
    distinct = {item.prompt.sha256: item for item in items}
    return list(distinct.values())[: config.max_prompts]


def _original_of(base: Path) -> Path | None:
    """The base before SFT, for a folded base."""
    if not (base / FOLDED_FILE).is_file():
        return None
    link = json.loads((base / FOLDED_FILE).read_text(encoding="utf-8"))
    return linked_base(base / link["adapter"])


def _score(answers: Answers, model: RewardModel, prompts: Sequence[Prompt]) -> None:
    pairs = [
        (prompt, text) for prompt, own in zip(prompts, answers.texts, strict=True) for text in own
    ]
    flat = model.score_texts(pairs).tolist()
    answers.scores = _regroup(flat, [len(own) for own in answers.texts])


def _means(
    items: Sequence[Demonstration | _PromptOnly], answers: Answers, rows: Sequence[int]
) -> dict[str, Any]:
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


def _export_figures(config: EvaluationConfig) -> dict[str, Any]:
    file = Path(config.ppo_model) / "result.json"
    if not file.is_file():
        return {}
    result = json.loads(file.read_text(encoding="utf-8"))
    names = ("export_max_logprob_difference", "export_same_greedy_text", "updates", "stopped_by")
    return {name: result[name] for name in names if name in result}


def _stage_costs(config: EvaluationConfig) -> dict[str, Any]:
    """Seconds and peak memory of each stage, from their run folders."""
    folders = {"sft": config.sft_model, "reward": config.reward_model, "ppo": config.ppo_model}
    costs = {}
    for name, folder in folders.items():
        if folder is not None and (Path(folder) / "run.json").is_file():
            run = read_run(folder)
            costs[name] = {key: run.get(key) for key in ("seconds", "peak_memory_mb")}
    return costs


def _curves(config: EvaluationConfig) -> dict[str, list[dict[str, Any]]]:
    """Logged rows of each stage, for the plots."""
    folders = {"sft": config.sft_model, "reward": config.reward_model, "ppo": config.ppo_model}
    curves = {}
    for name, folder in folders.items():
        file = None if folder is None else Path(folder) / "metrics.jsonl"
        if file is not None and file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            curves[name] = [json.loads(line) for line in lines]
    return curves


def _sample_rows(
    items: Sequence[Demonstration | _PromptOnly], found: _Found
) -> list[dict[str, Any]]:
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


def _regroup(flat: list[float], sizes: Sequence[int]) -> list[list[float]]:
    values = iter(flat)
    return [list(itertools.islice(values, size)) for size in sizes]


def _utility(judgement: Judgement) -> float:
    return judgement.utility


def _correct(judgement: Judgement) -> float:
    return float(judgement.is_correct)
