"""Evaluation: what base, SFT and PPO say on held-out prompts, and how they compare.

Sampled answers are compared with sampled ones and greedy with greedy. A judge, where there is
one, gives the true preference (the demo knows its annotators' hidden preference); without a
judge the comparison rests on the reward model, and the report says so.
"""

from __future__ import annotations

import itertools
import json
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
from rlhf.errors import ConfigError, DataError
from rlhf.figures import Answers, Comparison, HeldOut, HeldOutPrompt, Judge, figures_of, sample_rows
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
from rlhf.ranks import Ranks
from rlhf.records import Prompt
from rlhf.report import render_report
from rlhf.reward import RewardModel
from rlhf.runs import Listener, RunFolder, read_run

_EVALUATION_NOISE = 4
"""Purpose number in the noise keys; see ``rlhf.model.generation``."""
_SHOWN = 24


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
            figures = figures_of(items, found, config, self.judge)
            figures["stages"] = _stage_costs(config)
            rows = sample_rows(items, found)
            for row in rows:
                run.sample(row)
            run.finish(summary_of(figures))
        return write_report(Path(config.output_dir), figures, rows, _curves(config))

    def _answer(self, prompts: list[Prompt], run: RunFolder) -> Comparison:
        """Let every model answer every prompt, greedily and sampled."""
        config, device = self.config, Ranks().device
        sft = resolve_model(config.sft_model, field="sft_model")
        ppo = resolve_model(config.ppo_model, field="ppo_model")
        if ppo.adapter is None:
            raise ConfigError(f"ppo_model: {config.ppo_model} is not a finished PPO run")
        original = _original_of(sft.base)
        found = Comparison()
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


def _read_items(config: EvaluationConfig) -> list[HeldOut]:
    """Demonstrations where the file has completions, else prompts."""
    items: list[HeldOut]
    try:
        items = list(read_demonstrations(config.eval_file))
    except DataError:
        items = [HeldOutPrompt(prompt) for prompt in read_prompts(config.eval_file)]
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
