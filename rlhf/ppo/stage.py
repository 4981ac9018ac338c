"""The PPO stage: prompts and rewards in; a policy adapter on the folded base out.

The run around the updates of ``rlhf.ppo.trainer``: prompts in seeded passes, logging, checkpoints
and resuming, the KL budget, and at the end the adapter and its export for the original base.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf.checkpoints import fingerprint_file, keep_last, newest_valid, sweep
from rlhf.config import PPOConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.lengths import refuse_long
from rlhf.data.readers import read_prompts
from rlhf.errors import TrainingError
from rlhf.export import (
    EXPORT_FOLDER,
    ExportReport,
    Probes,
    export_to_original,
    find_origin,
    take_probes,
)
from rlhf.model.base import ADAPTER_FOLDER, resolve_base
from rlhf.model.generation import require_room
from rlhf.ppo.advantages import Targets
from rlhf.ppo.alarms import KEY_FIGURES, SOURCE_PREFIX, find_alarms, refuse_double_bos
from rlhf.ppo.rewards import RewardFunction, card_findings, check_rewards
from rlhf.ppo.rollout import Rollout, SeededPasses
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ranks import Ranks
from rlhf.records import Prompt
from rlhf.runs import Listener, RunFolder

CHECKPOINTS_FOLDER = "checkpoints"
_LOGGER = logging.getLogger(__name__)
_KEPT_CHECKPOINTS = 2
_SAMPLES_PER_UPDATE = 2
_PROBES = 16
_BUDGET_WINDOW = 3
_LAST_SHARE = 10
"""The result's figures are means over the last tenth of the updates."""


@dataclass(frozen=True, slots=True)
class PPOResult:
    """What a PPO run leaves."""

    output_dir: Path
    adapter: Path
    """The policy adapter on the folded base (exact)."""
    export: Path | None
    """The same policy as an adapter for the original base; None where the base was never folded."""
    export_max_logprob_difference: float | None
    """Largest difference of a token's log-probability between export and policy, in nats."""
    export_same_greedy_text: bool | None
    checkpoint: Path
    """Policy, value, heads and optimisers, for resuming."""
    base_fingerprint: str
    updates: int
    stopped_by: str
    """``max_steps`` or ``kl_budget``."""
    score_start: float
    """Mean score over the first tenth of the updates."""
    score: float
    """Mean score over the last tenth of the updates."""
    reference: str
    """What the KL was taken to: ``base``, ``pretrained`` or a run folder."""
    kl: float
    """Mean KL to the reference over the last tenth of the updates, nats per completion."""
    length: float
    """Mean completion length over the last tenth of the updates, tokens."""
    alarms: tuple[str, ...]
    """Names of the alarms raised, in order; alarms.jsonl says when and why."""

    def summary(self) -> dict[str, float | str]:
        """Figures for the terminal."""
        figures: dict[str, float | str] = {
            "score": self.score,
            "score at the start": self.score_start,
            "KL to the reference": self.kl,
            "length": self.length,
            "updates": self.updates,
            "stopped by": self.stopped_by,
            "alarms": ", ".join(self.alarms) or "none",
            "adapter": str(self.adapter),
        }
        if self.export is not None and self.export_max_logprob_difference is not None:
            figures["export"] = str(self.export)
            figures["export: largest logprob difference"] = self.export_max_logprob_difference
        return figures


class PPOStage:
    """Train the policy adapter against rewards with a KL penalty to the reference.

    Args:
        config: All settings.
        listener: Told of every logged update.
        reward_functions: Callables ``f(prompts, completions) -> scores`` in place of importing
            ``config.reward_function``, which then only names them.
    """

    def __init__(
        self,
        config: PPOConfig,
        *,
        listener: Listener | None = None,
        reward_functions: Sequence[RewardFunction] | None = None,
    ) -> None:
        self.config = config
        self.listener = listener
        self.reward_functions = reward_functions

    def run(self) -> PPOResult:
        """Train, save the adapter, export it for the original base and check the export.

        Raises:
            RlhfError: For whatever the user can mend.
        """
        config, ranks = self.config, Ranks()
        prompts = list(
            {prompt.sha256: prompt for prompt in read_prompts(config.train_file)}.values()
        )
        source = resolve_base(config.model_name_or_path)
        functions = check_rewards(config, self.reward_functions)
        if ranks.is_main:
            for path, finding in card_findings(config):
                _LOGGER.warning("reward model %s: %s; %s", path, finding.text, finding.remedy)
        find_origin(source.base)  # the export at the end needs it: miss it now, not then
        with RunFolder(
            config.output_dir,
            "ppo",
            config,
            listener=self.listener,
            is_main=ranks.is_main,
            resume=config.resume,
        ) as run:
            run.record(data=_fingerprints(config), processes=ranks.size)
            outcome = self._train(PPOTrainer(config, source, ranks, functions), prompts, run)
            ranks.wait()
            export = None
            if ranks.is_main:
                export = export_to_original(
                    Path(config.output_dir), outcome.probes, dtype=config.dtype, device=ranks.device
                )
            result = self._result(outcome, export)
            run.finish({name: getattr(result, name) for name in result.__dataclass_fields__})
            ranks.wait()
        return result

    def _train(self, trainer: PPOTrainer, prompts: list[Prompt], run: RunFolder) -> _Outcome:
        """Everything that needs the models; they are freed on return."""
        config = self.config
        run.record(base_fingerprint=trainer.roles.base.fingerprint, reward=trainer.reward.notes)
        prompt_ids = self._encode(trainer, prompts)
        before = trainer.roles.base_digest()
        checkpoints = run.path / CHECKPOINTS_FOLDER
        done, history = 0, History()
        if config.resume:
            done, history = self._resume(trainer, checkpoints, run)
        order = SeededPasses(len(prompts), config.seed)
        total, stopped_by = config.max_steps, "max_steps"
        checkpoint = checkpoints / f"step-{done}"
        for update in range(done, total):
            if self._is_over_budget(history):
                break
            chosen = order.rows(update, config.rollout_batch_size // config.num_generations)
            rows = [row for row in chosen for _ in range(config.num_generations)]
            metrics, rollout, targets = trainer.step(
                [prompts[row] for row in rows], [prompt_ids[row] for row in rows], update
            )
            history.add(metrics)
            for alarm in find_alarms(history.figures, config):
                run.alarm(update + 1, alarm.name, alarm.message)
            ended = self._is_over_budget(history) or update + 1 == total
            self._log(run, update + 1, metrics, rollout, targets, trainer.chat, is_last=ended)
            if ended or (update + 1) % config.save_steps == 0:
                checkpoint = checkpoints / f"step-{update + 1}"
                if run.is_main:
                    trainer.save_checkpoint(checkpoint, update + 1, asdict(history))
                    keep_last(checkpoints, _KEPT_CHECKPOINTS)
        if self._is_over_budget(history):
            stopped_by = "kl_budget"
        if trainer.roles.base_digest() != before:
            raise TrainingError(
                "the frozen base changed during PPO; this is a fault of the toolkit"
            )
        if run.is_main:
            trainer.save_adapter(run.path / ADAPTER_FOLDER)
        return _Outcome(
            history=history,
            stopped_by=stopped_by,
            checkpoint=checkpoint,
            base_fingerprint=trainer.roles.base.fingerprint,
            probes=self._probes(trainer, prompt_ids[:_PROBES]),
            alarms=run.alarms,
        )

    def _encode(self, trainer: PPOTrainer, prompts: list[Prompt]) -> list[list[int]]:
        """Tokenise the prompts; refuse those that the model can't answer."""
        config = self.config
        prompt_ids = [trainer.chat.encode_prompt(prompt) for prompt in prompts]
        bos_id = trainer.chat.tokenizer.bos_token_id
        for ids in prompt_ids:
            refuse_double_bos(ids, bos_id, source=config.train_file)
        refuse_long(
            [(len(ids), prompt.text) for ids, prompt in zip(prompt_ids, prompts, strict=True)],
            limit=config.max_prompt_length,
            field="max_prompt_length",
            source=config.train_file,
            what="prompts",
        )
        require_room(
            trainer.roles,
            max(map(len, prompt_ids)),
            config.max_new_tokens,
            closed=trainer.reward.first_model is not None,
        )
        return prompt_ids

    def _is_over_budget(self, history: History) -> bool:
        budget = self.config.kl_budget
        return budget is not None and history.recent_kl > budget

    def _probes(self, trainer: PPOTrainer, prompt_ids: list[list[int]]) -> Probes:
        """What the trained policy says on a few prompts, to compare the export with."""
        with trainer.roles.use("policy"):
            return take_probes(
                trainer.roles, trainer.chat, prompt_ids, max_new_tokens=self.config.max_new_tokens
            )

    def _resume(
        self, trainer: PPOTrainer, checkpoints: Path, run: RunFolder
    ) -> tuple[int, History]:
        if run.is_main and checkpoints.exists():
            sweep(checkpoints)
        trainer.ranks.wait()
        newest = newest_valid(checkpoints) if checkpoints.exists() else None
        if newest is None:
            run.rewind(0)
            return 0, History()
        step, history = trainer.load_checkpoint(newest)
        run.rewind(step)
        return step, History(**history)

    def _log(
        self,
        run: RunFolder,
        step: int,
        metrics: Mapping[str, float],
        rollout: Rollout,
        targets: Targets,
        chat: ChatFormat,
        *,
        is_last: bool,
    ) -> None:
        if is_last or step % self.config.logging_steps == 0:
            run.log(step, metrics, total=self.config.max_steps)
            for row in range(min(_SAMPLES_PER_UPDATE, len(rollout.prompts))):
                run.sample(_sample_row(step, rollout, targets, row, chat))

    def _result(self, outcome: _Outcome, export: ExportReport | None) -> PPOResult:
        folder = Path(self.config.output_dir)
        history = outcome.history
        return PPOResult(
            output_dir=folder,
            adapter=folder / ADAPTER_FOLDER,
            export=None if export is None else folder / EXPORT_FOLDER,
            export_max_logprob_difference=None if export is None else export.max_difference,
            export_same_greedy_text=None if export is None else export.same_greedy_text,
            checkpoint=outcome.checkpoint,
            base_fingerprint=outcome.base_fingerprint,
            updates=len(history.figures),
            stopped_by=outcome.stopped_by,
            score_start=history.first("score/mean"),
            score=history.last("score/mean"),
            reference=self.config.reference,
            kl=history.last("kl/reference"),
            length=history.last("completion/length"),
            alarms=outcome.alarms,
        )


@dataclass(slots=True)
class History:
    """The key figures of every update so far, for the result, the KL budget and the alarms."""

    figures: list[dict[str, float]] = field(default_factory=list)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Note one update."""
        kept = {k: v for k, v in metrics.items() if k in KEY_FIGURES or k.startswith(SOURCE_PREFIX)}
        self.figures.append(kept)

    @property
    def recent_kl(self) -> float:
        """Mean KL of the last few updates: one batch alone is too noisy to stop a run."""
        return _mean([row["kl/reference"] for row in self.figures[-_BUDGET_WINDOW:]])

    def first(self, name: str) -> float:
        """Mean over the first tenth of the updates, at least one."""
        return _mean([row[name] for row in self.figures[: self._tenth]])

    def last(self, name: str) -> float:
        """Mean over the last tenth of the updates, at least one."""
        return _mean([row[name] for row in self.figures[-self._tenth :]])

    @property
    def _tenth(self) -> int:
        return max(1, len(self.figures) // _LAST_SHARE)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What is left of training once the models are freed."""

    history: History
    stopped_by: str
    checkpoint: Path
    base_fingerprint: str
    probes: Probes
    alarms: tuple[str, ...]


def _fingerprints(config: PPOConfig) -> dict[str, str]:
    files = {"train_file": config.train_file, "ptx_file": config.ptx_file}
    return {name: fingerprint_file(path) for name, path in files.items() if path is not None}


def _sample_row(
    step: int, rollout: Rollout, targets: Targets, row: int, chat: ChatFormat
) -> dict[str, Any]:
    """One completion with what the update made of each of its tokens."""
    ids = rollout.completion_ids[row]

    def per_token(tensor: Tensor) -> list[float]:
        return [round(x, 5) for x in tensor[row, : len(ids)].tolist()]

    return {
        "step": step,
        "prompt": rollout.prompts[row].to_json(),
        "completion": chat.decode_completion(ids),
        "ended": bool(rollout.ended[row]),
        "score": float(rollout.scores[row]),
        "kl": float(rollout.log_ratio_ref[row].sum()),
        "tokens": [str(chat.tokenizer.decode([token])) for token in ids],
        "token_kl": per_token(rollout.log_ratio_ref),
        "token_value": per_token(rollout.values),
        "token_advantage": per_token(targets.advantages),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
