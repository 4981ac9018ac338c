"""One frozen dataclass per command: its fields, their defaults, help and checks.

The text under a field is its help on the command line and its comment in ``--print_config``.
Field names follow transformers and TRL wherever the concept is the same. Nothing here reads
files or flags (``rlhf.options`` does) and nothing derived is ever written back into a config.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from rlhf.errors import ConfigError

T = TypeVar("T")

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Schedule = Literal["constant", "linear", "cosine"]
Texts = str | tuple[str, ...]
"""One text or several."""
Numbers = float | tuple[float, ...]
"""One number or several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The LoRA adapter that a stage trains."""

    method: Literal["lora"] = "lora"
    """PEFT method of the adapter."""
    r: int = 32
    """Rank of the update matrices."""
    lora_alpha: int = 32
    """Scale of the update: it is multiplied by lora_alpha / r."""
    lora_dropout: float = 0.0
    """Dropout on the adapter's input; SFT only, since reward and PPO need repeatable scores."""
    target_modules: str = "all-linear"
    """Modules to adapt: all-linear (every linear map but the output head) or names, comma
    separated."""

    def __post_init__(self) -> None:
        _require(self.method == "lora", "adapter.method", self.method, "known: lora")
        _positive("adapter.r", self.r)
        _positive("adapter.lora_alpha", self.lora_alpha)
        _require(
            0 <= self.lora_dropout < 1, "adapter.lora_dropout", self.lora_dropout, "0 <= p < 1"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What every training stage needs to know."""

    model_name_or_path: str
    """Base to start from: a transformers folder or hub id, or the run folder of an SFT stage
    (its folded base)."""
    output_dir: str
    """Run folder to write: config, lineage, metrics, samples, checkpoints, result."""
    seed: int = 0
    """Seed of everything random in the run."""
    dtype: Dtype = "auto"
    """Precision of the frozen base; adapters and heads stay in float32. auto: bfloat16 on a GPU
    that has it, float32 otherwise."""
    learning_rate: float = 1e-4
    """Peak learning rate of the adapter."""
    lr_scheduler_type: Schedule = "linear"
    """How the learning rate falls after the warm-up; linear and cosine end at 0."""
    warmup_steps: int = 0
    """Optimiser steps over which the learning rate rises: 1/warmup_steps of it at the first."""
    weight_decay: float = 0.0
    """AdamW weight decay on adapter weights."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this global norm."""
    per_device_train_batch_size: int = 8
    """Sequences (reward: prompts) in one forward pass, on each device."""
    logging_steps: int = 1
    """Write a row of metrics.jsonl every so many steps."""
    report_to: Texts = "none"
    """Trackers that get the same rows: tensorboard, wandb or another of accelerate's; all of those
    installed; or none."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """The adapter to train."""

    def __post_init__(self) -> None:
        _finite(self)
        for name in ("model_name_or_path", "output_dir"):
            _require(bool(getattr(self, name)), name, "", "give a path")
        for name in ("learning_rate", "max_grad_norm"):
            _positive(name, getattr(self, name))
        for name in ("per_device_train_batch_size", "logging_steps"):
            _positive(name, getattr(self, name))
        for name in ("seed", "warmup_steps", "weight_decay"):
            _at_least_zero(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class SFTConfig(StageConfig):
    """Instruction tuning: demonstrations in, an adapter and the folded base out."""

    train_file: str
    """Demonstrations (.jsonl, .csv or .parquet): prompt and completion, or messages."""
    learning_rate: float = 2e-4
    """Peak learning rate of the adapter."""
    lr_scheduler_type: Schedule = "cosine"
    """How the learning rate falls after the warm-up; linear and cosine end at 0."""
    num_train_epochs: float = 1.0
    """Passes over the demonstrations."""
    max_steps: int = -1
    """Stop after so many optimiser steps; -1: let num_train_epochs decide."""
    gradient_accumulation_steps: int = 1
    """Forward passes summed into one optimiser step."""
    max_length: int = 1024
    """Longest prompt plus completion in tokens; a longer demonstration is refused."""
    eval_fraction: float = 0.05
    """Share of prompts (chosen by hash) held out to measure the loss."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        _positive("num_train_epochs", self.num_train_epochs)
        _require(
            self.max_steps == -1 or self.max_steps > 0,
            "max_steps",
            self.max_steps,
            "-1 or more than 0",
        )
        _positive("gradient_accumulation_steps", self.gradient_accumulation_steps)
        _positive("max_length", self.max_length)
        _fraction("eval_fraction", self.eval_fraction)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig(StageConfig):
    """Reward model: K-wise rankings in, an adapter with a score head out."""

    rankings: str
    """Ranking store (path or URL) or a rankings file (.jsonl, .csv or .parquet)."""
    demonstrations: str | None = None
    """Demonstrations whose mean score becomes 0 (default: the ranked completions)."""
    learning_rate: float = 5e-5
    """Peak learning rate of the adapter and the score head."""
    lr_scheduler_type: Schedule = "cosine"
    """How the learning rate falls after the warm-up; linear and cosine end at 0."""
    num_train_epochs: int = 1
    """Passes over the rankings; more than one over-fits quickly."""
    per_device_train_batch_size: int = 16
    """Prompts, each with all of its K ranked completions, in one optimiser step."""
    max_length: int = 1024
    """Longest prompt plus completion in tokens; a longer ranking is refused."""
    eval_fraction: float = 0.1
    """Share of prompts (chosen by hash) held out for the reward card."""
    micro_batch_tokens: int = 16384
    """Tokens in one forward pass; a batch with more is split, with the same gradients."""
    ensemble_size: int = 1
    """Reward models to train, each on a bootstrap resample of the prompts; with more than one,
    output_dir holds member_1, member_2, ... and how far they disagree on each prompt."""
    learning_curve: bool = True
    """Also train on 25, 50 and 75 % of the rankings, to tell in the card what more would bring."""

    loss: Literal["bradley_terry", "plackett_luce", "rao_kupper", "davidson"] = "bradley_terry"
    """How scores explain an order: by its pairs (bradley_terry), by its pairs with a tie as an
    outcome of its own (rao_kupper, davidson), or as a whole (plackett_luce, nats per choice)."""
    ties: Literal["drop", "half"] = "drop"
    """What bradley_terry makes of a tie: nothing, or a pair that either side wins by half."""
    label_smoothing: float = 0.0
    """Assumed share of pairs that annotators ordered by mistake (bradley_terry)."""
    strength_margin: float = 0.0
    """Lead asked for per step of the strengths between tiers, in raw score (bradley_terry)."""
    center_rewards_coefficient: float = 0.0
    """Weight of a penalty on raw scores away from 0; 0.01 is usual."""
    all_bad: Literal["skip", "ties", "below_zero"] = "skip"
    """What "all bad" means: nothing, that the answers are tied, or that their raw scores lie
    below 0."""
    all_bad_coef: float = 1.0
    """Weight of the loss of all_bad=below_zero."""
    annotator_weights: Texts | None = None
    """What the rankings of a person count, as name=weight (default: 1 each). A ranking counts that
    times the weight in its own meta, if it has one."""
    learn_annotator_errors: bool = False
    """Learn which share of pairs each person answers by chance, and count them accordingly
    (bradley_terry)."""
    annotator_error: float = 0.1
    """That share for an unknown person; learnt shares are drawn towards it."""
    annotator_error_std: float = 1.0
    """How far people are expected to differ in it, in logits."""
    objective_learning_rate: float = 0.05
    """Peak learning rate of the tie parameter and of the annotators' errors."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        _no_dropout(self.adapter)
        for name in (
            *("num_train_epochs", "max_length", "micro_batch_tokens", "ensemble_size"),
            *("annotator_error_std", "objective_learning_rate"),
        ):
            _positive(name, getattr(self, name))
        for name in ("strength_margin", "center_rewards_coefficient", "all_bad_coef"):
            _at_least_zero(name, getattr(self, name))
        _fraction("eval_fraction", self.eval_fraction)
        _require(
            0 <= self.label_smoothing < 0.5, "label_smoothing", self.label_smoothing, "0 <= p < 0.5"
        )
        _require(0 < self.annotator_error < 1, "annotator_error", self.annotator_error, "0 < p < 1")
        self._check_loss()

    def _check_loss(self) -> None:
        """Refuse options that the loss would ignore."""
        for name in ("ties", "label_smoothing", "strength_margin", "learn_annotator_errors"):
            value = getattr(self, name)
            _require(
                self.loss == "bradley_terry" or value in ("drop", 0),
                name,
                value,
                f"it belongs to loss bradley_terry, not {self.loss}",
            )
            _require(
                not self.learn_annotator_errors
                or name == "learn_annotator_errors"
                or value in ("drop", 0),
                name,
                value,
                "it can't be had together with learn_annotator_errors",
            )
        _require(
            self.all_bad != "ties" or self.ties == "half" or self.loss in TIE_LOSSES,
            "all_bad",
            self.all_bad,
            "ties teach nothing here; set ties half or loss rao_kupper or davidson",
        )


TIE_LOSSES = ("rao_kupper", "davidson")
"""Losses in which a tie is an outcome of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOConfig(StageConfig):
    """PPO: prompts and a reward in, a policy adapter on the folded base out."""

    train_file: str
    """Prompts (.jsonl, .csv or .parquet)."""
    reward_model: Texts | None = None
    """Reward models, by path or name=path: run folders of the reward stage on the same base, or
    sequence-classification models (folder or hub id), which read the text with their own
    tokenizer."""
    reward_function: Texts | None = None
    """Python functions that score, by path or name=path: file.py:name or package.module:name,
    called as f(prompts, completions) -> one number per completion."""
    reward_weights: Numbers | None = None
    """Weight of each reward in the score, models first, in the order given (default: 1 each)."""
    reward_ensemble: Literal["none", "mean", "min", "mean_minus_std"] = "none"
    """Make one score of the reward-stage models: their mean, their minimum, or their mean less
    reward_ensemble_coef standard deviations; none weighs each on its own."""
    reward_ensemble_coef: float = 1.0
    """Standard deviations that mean_minus_std takes off."""
    accept_reward_model: bool = False
    """Train against a reward model though its card says that it should not be."""
    score_clip: float = 10.0
    """Scores are clipped to plus or minus this."""
    length_penalty: float = 0.0
    """Taken off the score for each token of the completion."""
    missing_eos_penalty: float = 1.0
    """Taken off the score of a completion that did not end by itself."""

    learning_rate: float = 1e-5
    """Peak learning rate of the policy adapter."""
    value_learning_rate: float = 5e-5
    """Peak learning rate of the value adapter and value head."""
    warmup_steps: int = 10
    """Updates over which a learning rate rises, for each role from its first update on."""
    max_steps: int = 100
    """Updates: rollout batches sampled and learnt from."""

    rollout_batch_size: int = 64
    """Completions sampled per update, over all devices."""
    num_generations: int = 1
    """Completions sampled per prompt; must divide rollout_batch_size."""
    per_device_generation_batch_size: int = 64
    """Completions sampled together on each device."""
    max_new_tokens: int = 64
    """Longest completion in tokens."""
    max_prompt_length: int = 512
    """Longest prompt in tokens; a longer one is refused."""
    temperature: float = 1.0
    """Sampling temperature; log-probabilities are taken at the same temperature."""

    num_ppo_epochs: int = 1
    """Passes over each rollout batch."""
    num_mini_batches: int = 4
    """Optimiser steps per pass."""
    target_kl: float | None = None
    """Go on to the next rollout once a minibatch's KL between old and new policy exceeds this,
    nats per token; needs two optimiser steps or more per batch."""
    cliprange: float = 0.2
    """Clip range of the policy ratio."""
    cliprange_high: float | None = None
    """Clip range above 1, where it differs from cliprange."""
    dual_clip: float | None = None
    """Bound on the loss of a token with negative advantage: this times -advantage; more than 1."""
    importance_sampling_cap: float | None = None
    """Weigh each token by the probability ratio between scored and sampling policy, cut off here
    (needed only where the two differ)."""

    advantage: Literal["gae", "rloo"] = "gae"
    """How advantages are estimated: gae with a value model, or rloo, which compares the
    num_generations completions of a prompt and needs none."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """GAE lambda of the advantages."""
    lam_value: float | None = None
    """GAE lambda of the value targets (default: lam); 1.0 suits long completions."""
    value: Literal["adapter", "shared"] = "adapter"
    """Where values come from: an adapter and head of their own, or a head on the policy's last
    hidden state (cheaper; the value loss then also moves the policy)."""
    vf_coef: float = 0.01
    """Weight of the value loss with value=shared; too much of it drags the policy along."""
    cliprange_value: float = 0.2
    """Clip range of the value around its value at rollout."""
    value_warmup_steps: int = 0
    """First updates in which only the value model learns."""

    reference: str = "base"
    """What the KL is taken to: base (the frozen base, which the policy starts as), pretrained (the
    weights before SFT), or the run folder of an adapter on this base."""
    kl_in: Literal["reward", "loss"] = "reward"
    """Where the KL penalty acts: in the reward token by token (estimator k1), or in the loss
    (estimator k2, whose gradient is right only for the policy that sampled, and leaves out the KL
    of later tokens)."""
    kl_coef: float = 0.05
    """Weight of the KL to the reference; the starting weight where kl_target is given."""
    kl_target: float | None = None
    """Adapt kl_coef towards this KL, nats per completion."""
    kl_horizon: int = 10000
    """Completions over which kl_coef adapts; rollout_batch_size or more."""
    kl_budget: float | None = None
    """Stop when the KL to the reference exceeds this: nats per completion, mean of the last 3
    updates."""

    ptx_file: str | None = None
    """Demonstrations whose log-likelihood is trained along with the policy."""
    ptx_coef: float = 0.0
    """Weight of their loss, nats per token."""
    ptx_batch_size: int = 16
    """Demonstrations per optimiser step, over all devices."""

    forward: Literal["auto", "transformers"] = "auto"
    """Which code runs the base: auto takes a faster pass over the same weights where there is one
    (Llama, Mistral, Qwen2, Qwen3); transformers always takes the model's own."""
    save_steps: int = 50
    """Write a checkpoint every so many updates (one is always written at the end)."""
    resume: bool = False
    """Go on from the newest valid checkpoint in output_dir."""

    def __post_init__(self) -> None:
        StageConfig.__post_init__(self)
        _no_dropout(self.adapter)
        _require(
            bool(self.reward_model) or bool(self.reward_function),
            "reward_model",
            self.reward_model,
            "give reward_model or reward_function, or both",
        )
        self._check_rewards()
        for name in _POSITIVE_PPO_FIELDS:
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))
        for name in _NOT_NEGATIVE_PPO_FIELDS:
            _at_least_zero(name, getattr(self, name))
        for name in ("gamma", "lam", "lam_value"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 1, name, value, "0 to 1")
        for name in ("num_mini_batches", "num_generations"):
            _require(
                self.rollout_batch_size % getattr(self, name) == 0,
                name,
                getattr(self, name),
                f"must divide rollout_batch_size {self.rollout_batch_size}",
            )
        self._check_pairs()
        self._check_rloo()
        self._check_kl_target()

    def _check_rewards(self) -> None:
        """Refuse weights that don't match the rewards."""
        count = len(as_tuple(self.reward_model)) + len(as_tuple(self.reward_function))
        weights = as_tuple(self.reward_weights)
        _require(
            not weights or len(weights) == count,
            "reward_weights",
            self.reward_weights,
            f"give {count}, one for each reward",
        )
        _require(
            self.reward_ensemble == "none" or not weights,
            "reward_weights",
            self.reward_weights,
            "an ensemble is one reward; leave reward_weights out or set reward_ensemble none",
        )

    def _check_pairs(self) -> None:
        """Refuse settings that contradict each other."""
        _require(
            self.dual_clip is None or self.dual_clip > 1,
            "dual_clip",
            self.dual_clip,
            "must be more than 1",
        )
        _require(
            self.target_kl is None or self.num_ppo_epochs * self.num_mini_batches > 1,
            "target_kl",
            self.target_kl,
            "an update of one step has none that it could leave out; raise num_mini_batches or "
            "num_ppo_epochs, or leave target_kl out",
        )
        _require(
            self.advantage != "rloo" or self.num_generations > 1,
            "num_generations",
            self.num_generations,
            "rloo compares the completions of a prompt: give 2 or more",
        )
        _require(
            self.value_warmup_steps < self.max_steps,
            "value_warmup_steps",
            self.value_warmup_steps,
            f"the policy would never train: give less than max_steps ({self.max_steps})",
        )
        _require(
            (self.ptx_file is not None) == (self.ptx_coef > 0),
            "ptx_coef",
            self.ptx_coef,
            "ptx_file and a ptx_coef above 0 go together",
        )

    def _check_rloo(self) -> None:
        """Refuse options that advantages without a value model would ignore."""
        defaults = {each.name: each.default for each in fields(self)}
        for name in _GAE_PPO_FIELDS if self.advantage == "rloo" else ():
            _require(
                getattr(self, name) == defaults[name],
                name,
                getattr(self, name),
                "advantage rloo has no value model and discounts nothing; leave it out",
            )

    def _check_kl_target(self) -> None:
        """Refuse a weight of the KL that could not move, or could turn negative."""
        if self.kl_target is None:
            return
        _require(
            self.kl_horizon >= self.rollout_batch_size,
            "kl_horizon",
            self.kl_horizon,
            f"with kl_target, give rollout_batch_size ({self.rollout_batch_size}) or more: a "
            "smaller one moves kl_coef by more than a fifth per update and can make it negative",
        )
        _require(
            self.kl_coef > 0,
            "kl_coef",
            self.kl_coef,
            "kl_target multiplies it, so it must be more than 0",
        )


_POSITIVE_PPO_FIELDS = (
    "value_learning_rate",
    "max_steps",
    "rollout_batch_size",
    "num_ppo_epochs",
    "num_mini_batches",
    "max_new_tokens",
    "max_prompt_length",
    "temperature",
    "cliprange",
    "cliprange_value",
    "score_clip",
    "save_steps",
    "num_generations",
    "per_device_generation_batch_size",
    "ptx_batch_size",
    "kl_horizon",
    "cliprange_high",
    "importance_sampling_cap",
    "target_kl",
    "kl_target",
    "kl_budget",
)
_GAE_PPO_FIELDS = (
    "gamma",
    "lam",
    "lam_value",
    "value",
    "vf_coef",
    "cliprange_value",
    "value_learning_rate",
    "value_warmup_steps",
)
"""What advantage=rloo has no use for."""
_NOT_NEGATIVE_PPO_FIELDS = (
    "kl_coef",
    "missing_eos_penalty",
    "length_penalty",
    "value_warmup_steps",
    "vf_coef",
    "reward_ensemble_coef",
    "ptx_coef",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleConfig:
    """Sample K candidates for each prompt from a policy into a ranking store."""

    model_name_or_path: str
    """Policy to sample from: a run folder of the SFT or PPO stage, a model folder or hub id."""
    prompts: str
    """Prompts (.jsonl, .csv or .parquet)."""
    store: str
    """Ranking store to fill (path or URL); made when missing."""
    num_candidates: int = 4
    """Completions per prompt, 2 to 9; identical ones are merged."""
    max_prompts: int | None = None
    """Take only the first so many prompts."""
    overlap: int = 1
    """People who should rank each prompt."""
    max_new_tokens: int = 64
    """Longest completion in tokens."""
    temperature: float = 1.0
    """Sampling temperature."""
    batch_size: int = 64
    """Completions sampled together."""
    seed: int = 0
    """Seed of the sampling."""
    dtype: Dtype = "auto"
    """Precision of the model."""

    def __post_init__(self) -> None:
        _finite(self)
        _require(2 <= self.num_candidates <= 9, "num_candidates", self.num_candidates, "2 to 9")
        for name in ("overlap", "max_new_tokens", "temperature", "batch_size"):
            _positive(name, getattr(self, name))
        _at_least_zero("seed", self.seed)
        if self.max_prompts is not None:
            _positive("max_prompts", self.max_prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig:
    """Talk to the result of any stage."""

    model_name_or_path: str
    """Run folder of the SFT or PPO stage, a model folder or hub id."""
    prompt: str | None = None
    """One prompt; without it, prompts are read line by line from the terminal."""
    prompts: str | None = None
    """Prompts file; completions are written as JSONL to standard output."""
    greedy: bool = False
    """Take the likeliest token each time instead of sampling."""
    max_new_tokens: int = 64
    """Longest completion in tokens."""
    temperature: float = 1.0
    """Sampling temperature."""
    seed: int = 0
    """Seed of the sampling."""
    dtype: Dtype = "auto"
    """Precision of the model."""

    def __post_init__(self) -> None:
        _finite(self)
        for name in ("max_new_tokens", "temperature"):
            _positive(name, getattr(self, name))
        _at_least_zero("seed", self.seed)
        if self.prompt is not None and self.prompts is not None:
            raise ConfigError("prompts: give either prompt or prompts, not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreConfig:
    """Score written or sampled completions with one or several reward models."""

    reward_model: Texts
    """Run folder of the reward stage, or several on one base: an ensemble. One trained with
    ensemble_size stands for its members."""
    input: str
    """Rows (.jsonl, .csv or .parquet) of prompt and completion, of messages, of prompt and
    completions, or rankings."""
    output: str | None = None
    """File for the rows with their scores, as JSONL (default: standard output)."""
    dtype: Dtype = "auto"
    """Precision of the base."""

    def __post_init__(self) -> None:
        for path in as_tuple(self.reward_model) or ("",):
            _require(bool(path), "reward_model", path, "give a run folder of the reward stage")
        _require(bool(self.input), "input", "", "give a path")
        _require(self.output != "", "output", "", "give a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardCardConfig:
    """Measure a trained reward model, or an ensemble, on other rankings."""

    reward_model: str
    """Run folder of the reward stage."""
    rankings: str
    """Ranking store (path or URL) or a rankings file (.jsonl, .csv or .parquet). All of it counts
    as held out; of the source that the model was trained on, only the prompts held out then."""
    output_dir: str
    """Folder for reward_card.json and reward_card.html; the run folder itself, if its own card is
    missing or broken."""
    demonstrations: str | None = None
    """Demonstrations to score beside the completions; their answers are the probes' references."""
    dtype: Dtype = "auto"
    """Precision of the base."""

    def __post_init__(self) -> None:
        for name in ("reward_model", "rankings", "output_dir"):
            _require(bool(getattr(self, name)), name, "", "give a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardExportConfig:
    """Write a reward model as a sequence classifier that transformers loads."""

    reward_model: str
    """Run folder of the reward stage."""
    output_dir: str
    """New or empty folder for the model, its tokenizer and how to read its scores."""
    dtype: Dtype = "float32"
    """Precision of the written weights; auto is float32. Below float32, merging the adapter
    rounds: export.json then has the largest difference of a score."""

    def __post_init__(self) -> None:
        for name in ("reward_model", "output_dir"):
            _require(bool(getattr(self, name)), name, "", "give a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """Compare base, SFT and PPO on held-out prompts and write a report."""

    sft_model: str
    """Run folder of the SFT stage."""
    ppo_model: str
    """Run folder of the PPO stage."""
    eval_file: str
    """Held-out demonstrations or prompts; completions, where given, are the ROUGE-L references."""
    output_dir: str
    """Folder for report.html, report.json and samples.jsonl."""
    reward_model: str | None = None
    """Run folder of the reward stage; its scores and held-out accuracy enter the report."""
    num_samples: int = 1
    """Completions sampled per prompt and model."""
    max_prompts: int | None = None
    """Take only the first so many prompts."""
    max_new_tokens: int = 64
    """Longest completion in tokens."""
    temperature: float = 1.0
    """Sampling temperature."""
    batch_size: int = 64
    """Completions sampled together."""
    kl_budget: float | None = None
    """KL to the base, in nats per completion, that the PPO policy should stay under."""
    seed: int = 0
    """Seed of the sampling."""
    dtype: Dtype = "auto"
    """Precision of the models."""

    def __post_init__(self) -> None:
        _finite(self)
        for name in ("num_samples", "max_new_tokens", "temperature", "batch_size"):
            _positive(name, getattr(self, name))
        _at_least_zero("seed", self.seed)
        for name in ("max_prompts", "kl_budget"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsImportConfig:
    """Read rankings of this or another tool into a ranking store, all of them or none."""

    input: str
    """File to read: JSONL (.jsonl, .json), a JSON list (.json), .csv, .parquet or a datasets
    folder."""
    store: str
    """Ranking store to add to (path or URL); made when missing."""
    format: Literal["auto", "rlhf", "hh", "oasst", "trl", "argilla", "label-studio"] = "auto"
    """Whose rows they are: our own rankings (rlhf), HH-RLHF, message trees of OASST, preference
    pairs of TRL, records of Argilla with ranks (from its REST API; SDK 2 drops them) or Label
    Studio's JSON; auto tells from the first row."""

    def __post_init__(self) -> None:
        for name in ("input", "store"):
            _require(bool(getattr(self, name)), name, "", "give a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsExportConfig:
    """Write the current rankings of a store to a file, in an order of their own."""

    store: str
    """Ranking store (path or URL)."""
    output: str
    """JSONL file to write; one that exists is replaced."""
    format: Literal["rankings", "trl"] = "rankings"
    """rankings: everything that the store knows of each; trl: a row of prompt, chosen and rejected
    for each strict pair."""
    annotator: str | None = None
    """Take only the rankings of this person, by pseudonym or name."""
    pool: str | None = None
    """Take only the rankings of this pool; those of gold and training tasks come by name alone."""
    aggregate: Literal["none", "majority"] = "none"
    """majority: per task, the pairs that more people ordered one way than the other."""
    split: Literal["all", "train", "held_out"] = "all"
    """Take only the prompts that eval_fraction leaves for training, or those that it holds out."""
    eval_fraction: float = 0.1
    """Share of prompts (chosen by hash) held out, as in the reward stage."""

    def __post_init__(self) -> None:
        for name in ("store", "output"):
            _require(bool(getattr(self, name)), name, "", "give a path")
        _require(self.annotator != "", "annotator", "", "give a name")
        _require(self.pool != "", "pool", "", "give a label such as random")
        _fraction("eval_fraction", self.eval_fraction)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsReportConfig:
    """Count what people have ranked, what is open and how far they agree."""

    store: str
    """Ranking store (path or URL)."""
    seed: int = 0
    """Seed of the resampled prompts behind the intervals."""

    def __post_init__(self) -> None:
        _require(bool(self.store), "store", "", "give a path")
        _at_least_zero("seed", self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsVerifyConfig:
    """Check that a ranking store is whole; one line per fault, and exit status 2."""

    store: str
    """Ranking store (path or URL)."""

    def __post_init__(self) -> None:
        _require(bool(self.store), "store", "", "give a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsBackupConfig:
    """Copy a ranking store, also while people rank; the copy is verified."""

    store: str
    """Ranking store (path or URL)."""
    output: str
    """New file for the copy; it is an SQLite store, wherever the store itself lies."""

    def __post_init__(self) -> None:
        for name in ("store", "output"):
            _require(bool(getattr(self, name)), name, "", "give a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsRestoreConfig:
    """Make a new ranking store from a backup; it is verified against the backup."""

    backup: str
    """File that rlhf rankings backup wrote; it is left as it is."""
    store: str
    """New store: a file that is not there yet, or the URL of an empty PostgreSQL database."""

    def __post_init__(self) -> None:
        for name in ("backup", "store"):
            _require(bool(getattr(self, name)), name, "", "give a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsEraseConfig:
    """Erase a person's name, account and drafts; rankings stay under the pseudonym."""

    store: str
    """Ranking store (path or URL)."""
    annotator: str
    """Name of the person. Backups and exports made before are not changed."""

    def __post_init__(self) -> None:
        _require(bool(self.store), "store", "", "give a path")
        _require(bool(self.annotator), "annotator", "", "give a name")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsGoldConfig:
    """Add tasks whose right order is known, to train people or to measure them by."""

    store: str
    """Ranking store (path or URL); made when missing."""
    data: str
    """JSONL rows as of rlhf rankings export, whose ranks are the right answer;
    meta.explanation, Markdown, tells why."""
    pool: Literal["gold", "training"] = "gold"
    """gold: among other tasks and looking like them, to measure people; training: before anything
    else, with the answer and the explanation shown afterwards."""

    def __post_init__(self) -> None:
        for name in ("store", "data"):
            _require(bool(getattr(self, name)), name, "", "give a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingsPrioritiseConfig:
    """Have people rank first what a reward model is least sure of."""

    store: str
    """Ranking store (path or URL)."""
    disagreement: str
    """disagreement.jsonl of a reward run."""
    by: Literal["disagreement", "entropy"] = "disagreement"
    """disagreement: how far the models of an ensemble are apart; entropy: how near the completions'
    scores are to each other, which one model can tell too."""

    def __post_init__(self) -> None:
        for name in ("store", "disagreement"):
            _require(bool(getattr(self, name)), name, "", "give a path")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """The whole path on the embedded tiny base with simulated annotators, offline."""

    output_dir: str = "runs/demo"
    """Folder for the runs of all stages, the ranking store and the report."""
    seed: int = 0
    """Seed of everything random in the demo."""
    overwrite: bool = False
    """Replace an earlier demo in output_dir (and nothing that is not one)."""

    def __post_init__(self) -> None:
        _at_least_zero("seed", self.seed)


def as_tuple(value: T | tuple[T, ...] | None) -> tuple[T, ...]:
    """Give what a field holds as a tuple: nothing, one or several."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def split_name(text: str) -> tuple[str | None, str]:
    """Split ``name=path`` as the reward fields take it; the name is None where there is none."""
    match = re.fullmatch(r"([A-Za-z_][\w.-]*)=(.+)", text)
    return (None, text) if match is None else (match[1], match[2])


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: {value!r} is not allowed; {expected}")


def _finite(config: Any) -> None:
    """Refuse NaN and infinity in every field of a config."""
    for each in fields(config):
        for value in as_tuple(getattr(config, each.name)):
            finite = not isinstance(value, float) or math.isfinite(value)
            _require(finite, each.name, value, "give a finite number")


def _positive(name: str, value: float) -> None:
    _require(value > 0, name, value, "must be more than 0")


def _at_least_zero(name: str, value: float) -> None:
    _require(value >= 0, name, value, "must be 0 or more")


def _fraction(name: str, value: float) -> None:
    _require(0 <= value < 1, name, value, "0 <= fraction < 1")


def _no_dropout(adapter: AdapterConfig) -> None:
    _require(
        adapter.lora_dropout == 0,
        "adapter.lora_dropout",
        adapter.lora_dropout,
        "must be 0 here: reward and PPO need the same score for the same text",
    )
