"""Evaluation: what base, SFT and PPO say on held-out prompts, and how they compare.

Sampled answers are compared with sampled ones and greedy with greedy. A judge, where there is
one, gives the true preference (the demo knows its annotators' hidden preference); without a
judge the comparison rests on the reward model, and the report says so.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.checkpoints import fingerprint_file, write_json, write_text
from rlhf.config import EvaluationConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.collation import collate
from rlhf.data.readers import read_demonstrations, read_prompts
from rlhf.data.rows import read_rows
from rlhf.errors import ConfigError
from rlhf.export import find_origin
from rlhf.figures import Answers, Comparison, HeldOut, HeldOutPrompt, Judge, figures_of, sample_rows
from rlhf.inference import Policy
from rlhf.model.base import (
    ModelSource,
    check_base,
    load_base,
    resolve_base,
    resolve_model,
)
from rlhf.model.generation import NoiseKey
from rlhf.model.roles import Roles
from rlhf.model.scoring import completion_logprobs
from rlhf.ops.masking import masked_sum
from rlhf.ranks import Ranks
from rlhf.records import Prompt
from rlhf.report import render_report
from rlhf.reward import RewardModel
from rlhf.runs import Listener, RunFolder, read_run

_EVALUATION_NOISE = 4
"""Purpose number in the noise keys; see ``rlhf.model.generation``."""
_SHOWN = 24
_LOGITS_SHARE = 4
"""Passes with logits over the vocabulary take this much smaller batches than sampling."""


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

    @classmethod
    def of(
        cls,
        folder: Path,
        figures: dict[str, Any],
        samples: list[dict[str, Any]],
        curves: dict[str, list[dict[str, Any]]],
    ) -> EvaluationResult:
        """Name the report's files in a folder."""
        return cls(folder, folder / "report.html", folder / "report.json", figures, samples, curves)

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
        config, ranks = self.config, Ranks()
        sft = resolve_base(config.sft_model, field="sft_model")
        ppo = resolve_model(config.ppo_model, field="ppo_model")
        if ppo.adapter is None:
            raise ConfigError(f"ppo_model: {config.ppo_model} is not a finished PPO run")
        origin = find_origin(sft.base)
        items = _read_items(config)
        prompts = [item.prompt for item in items]
        with RunFolder(
            config.output_dir,
            "evaluation",
            config,
            listener=self.listener,
            is_main=ranks.is_main,
        ) as run:
            run.record(data={"eval_file": fingerprint_file(config.eval_file)})
            found = Comparison()
            if origin is not None:
                self._answer_base(found, origin.base, prompts)
            run.log(1, {}, total=4)
            logprobs = self._answer_adapted(found, sft, ppo.adapter, prompts, ranks)
            run.log(2, {}, total=4)
            if origin is not None:
                found.kl_pretrained = logprobs - self._base_logprobs(found, origin.base, prompts)
            run.log(3, {}, total=4)
            self._judge(found, prompts)
            figures = _finite(figures_of(items, found, config, self.judge))
            figures["stages"] = _stage_costs(config)
            rows = sample_rows(items, found)
            for row in rows:
                run.sample(row)
            result = EvaluationResult.of(Path(config.output_dir), figures, rows, _curves(config))
            if ranks.is_main:
                write_report(result)
            run.log(4, {}, total=4)
            run.finish(summary_of(figures))
            ranks.wait()
        return result

    def _answer_base(self, found: Comparison, base: Path, prompts: list[Prompt]) -> None:
        """Let the base before SFT answer."""
        policy = Policy.load(str(base), dtype=self.config.dtype)
        found.answers["base"], found.greedy["base"] = self._sample(policy, prompts, 0)

    def _answer_adapted(
        self,
        found: Comparison,
        sft: ModelSource,
        adapter: Path,
        prompts: list[Prompt],
        ranks: Ranks,
    ) -> Tensor:
        """Let SFT and PPO answer and the reward model score all answers.

        Returns:
            Log-probability of each sampled PPO completion under PPO, float32 (prompts * samples,).
        """
        base = load_base(sft, dtype=self.config.dtype, device=ranks.device)
        roles, chat = Roles(base), ChatFormat.of(base.tokenizer, base.model)
        check_base(adapter, base)
        roles.add("policy", adapter, trainable=False)
        for number, (name, role) in enumerate((("sft", None), ("ppo", "policy")), start=1):
            policy = Policy(roles, chat, role)
            found.answers[name], found.greedy[name] = self._sample(policy, prompts, number)
        prompt_ids = [chat.encode_prompt(prompt) for prompt in prompts]
        ppo_ids = found.answers["ppo"].ids
        with roles.use("policy"):
            logprobs = self._sequence_logprobs(roles, chat, prompt_ids, ppo_ids)
        with roles.use(None):
            found.kl = logprobs - self._sequence_logprobs(roles, chat, prompt_ids, ppo_ids)
        if self.config.reward_model is not None:
            model = RewardModel.load(Path(self.config.reward_model), roles, chat)
            for answers in (*found.answers.values(), *found.greedy.values()):
                _score(answers, model, prompt_ids)
        return logprobs

    def _base_logprobs(self, found: Comparison, path: Path, prompts: list[Prompt]) -> Tensor:
        """Log-probabilities of PPO's sampled completions under the base before SFT."""
        policy = Policy.load(str(path), dtype=self.config.dtype)
        prompt_ids = [policy.chat.encode_prompt(prompt) for prompt in prompts]
        with policy.roles.use(None):
            return self._sequence_logprobs(
                policy.roles, policy.chat, prompt_ids, found.answers["ppo"].ids
            )

    def _judge(self, found: Comparison, prompts: list[Prompt]) -> None:
        """Let the judge read every answer, where there is one."""
        if self.judge is None:
            return
        for answers in (*found.answers.values(), *found.greedy.values()):
            answers.judged = [
                [self.judge(prompt, text) for text in own]
                for prompt, own in zip(prompts, answers.texts, strict=True)
            ]

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
        size = max(1, self.config.batch_size // _LOGITS_SHARE)
        for start in range(0, len(rows), size):
            prompts, completions = zip(*rows[start : start + size], strict=True)
            batch = collate(prompts, completions, pad_id=chat.pad_id, device=roles.base.device)
            logprobs = completion_logprobs(roles, batch, temperature=self.config.temperature)
            found.append(masked_sum(logprobs, batch.completion_mask).cpu())
        return torch.cat(found)


def write_report(result: EvaluationResult) -> None:
    """Write report.json and report.html."""
    write_json(result.report_json, result.figures)
    page = render_report(result.figures, result.samples[:_SHOWN], result.curves)
    write_text(result.report_html, page)


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


def _read_items(config: EvaluationConfig) -> list[HeldOut]:
    """Demonstrations where the file has completions, else prompts."""
    first = next(iter(read_rows(config.eval_file)), None)
    items: list[HeldOut]
    if first is not None and {"completion", "messages"} & first.fields.keys():
        items = list(read_demonstrations(config.eval_file))
    else:
        items = [HeldOutPrompt(prompt) for prompt in read_prompts(config.eval_file)]
    distinct = {item.prompt.sha256: item for item in items}
    return list(distinct.values())[: config.max_prompts]


def _score(answers: Answers, model: RewardModel, prompt_ids: Sequence[list[int]]) -> None:
    rows = [(p, ids) for p, own in zip(prompt_ids, answers.ids, strict=True) for ids in own]
    flat = model.score_ids([p for p, _ in rows], [ids for _, ids in rows]).tolist()
    answers.scores = _regroup(flat, [len(own) for own in answers.ids])


def _finite(value: Any) -> Any:
    """Replace what has no value (NaN, an endless interval) by None, which JSON can hold."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def _regroup(flat: list[float], sizes: Sequence[int]) -> list[list[float]]:
    values = iter(flat)
    return [list(itertools.islice(values, size)) for size in sizes]
