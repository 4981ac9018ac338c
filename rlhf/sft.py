"""Instruction tuning: demonstrations in; an adapter and the folded base out.

TRL's SFTTrainer does the training (this file is TRL's only door). The rows it gets are already
tokenised by ``rlhf.data.chat``, with the loss on completion tokens only, their end token
included. Afterwards the adapter is folded into a fresh copy of the base, in float32 and cast
once; that folded base is the frozen base of the reward and PPO stages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback

from rlhf.checkpoints import fingerprint_file, fingerprint_model, write_folder
from rlhf.config import SFTConfig
from rlhf.data.chat import ChatFormat
from rlhf.data.lengths import refuse_long
from rlhf.data.readers import read_demonstrations
from rlhf.data.splits import split_by_prompt
from rlhf.errors import TrainingError
from rlhf.model.adapters import fold, read_delta, save_adapter
from rlhf.model.base import (
    ADAPTER_FOLDER,
    FOLDED_FILE,
    MODEL_FOLDER,
    FrozenBase,
    load_base,
    resolve_base,
    write_link,
)
from rlhf.model.generation import positions, sample_completions
from rlhf.model.roles import Roles
from rlhf.ranks import Ranks
from rlhf.records import Demonstration
from rlhf.runs import Listener, RunFolder

_IGNORED = -100
_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class SFTResult:
    """What an SFT run leaves."""

    output_dir: Path
    adapter: Path
    """The adapter for the original base."""
    model: Path
    """The folded base, a transformers folder."""
    base_fingerprint: str
    """Of the folded base."""
    train_loss: float
    """Mean over the last tenth of the logged steps, nats per completion token."""
    eval_loss: float
    """On held-out prompts after training, nats per completion token; NaN when none are held out."""
    steps: int

    def summary(self) -> dict[str, float | str]:
        """Figures for the terminal."""
        return {
            "train loss": self.train_loss,
            "held-out loss": self.eval_loss,
            "steps": self.steps,
            "adapter": str(self.adapter),
            "folded base": str(self.model),
        }


class SFTStage:
    """Train a LoRA adapter on demonstrations and fold it into the base."""

    def __init__(self, config: SFTConfig, *, listener: Listener | None = None) -> None:
        self.config = config
        self.listener = listener

    def run(self) -> SFTResult:
        """Train, save and fold.

        Raises:
            RlhfError: For whatever the user can mend.
        """
        config, ranks = self.config, Ranks()
        demonstrations = read_demonstrations(config.train_file)
        source = resolve_base(config.model_name_or_path)
        with RunFolder(
            config.output_dir, "sft", config, listener=self.listener, is_main=ranks.is_main
        ) as run:
            base = load_base(source, dtype=config.dtype, device=ranks.device)
            chat = ChatFormat.of(base.tokenizer, base.model)
            train, held_out = split_by_prompt(demonstrations, config.eval_fraction)
            _refuse_long(demonstrations, chat, config)
            run.record(
                base_fingerprint=base.fingerprint,
                data={"train_file": fingerprint_file(config.train_file)},
                processes=ranks.size,
                counts={"train": len(train), "held_out": len(held_out)},
            )
            roles = Roles(base)
            roles.add("policy", config.adapter, trainable=True, seed=config.seed)
            trained = self._train(roles, chat, train, held_out, run)
            result = self._save(roles, run, trained)
            for row in _sample(roles, chat, held_out or train, config):
                run.sample(row)
            ranks.wait()
        return result

    def _train(
        self,
        roles: Roles,
        chat: ChatFormat,
        train: Sequence[Demonstration],
        held_out: Sequence[Demonstration],
        run: RunFolder,
    ) -> _Trained:
        """Let TRL train the policy adapter."""
        recorder = _Recorder(run)
        before = roles.base_digest()
        trainer = trl.SFTTrainer(
            model=roles.peft_model,
            args=_trl_arguments(self.config, roles.base),
            train_dataset=_tokenize(train, chat),
            eval_dataset=_tokenize(held_out, chat) if held_out else None,
            processing_class=roles.base.tokenizer,
            callbacks=[recorder],
        )
        trainer.remove_callback(PrinterCallback)
        with roles.use("policy"):
            mean_loss = float(trainer.train().training_loss)
            eval_loss = float(trainer.evaluate()["eval_loss"]) if held_out else math.nan
        roles.peft_model.eval()
        if roles.base_digest() != before:
            raise TrainingError(
                "the frozen base changed during SFT; this is a fault of the toolkit"
            )
        losses = recorder.losses or [mean_loss]
        weights = roles.parameters("policy").values()
        if not math.isfinite(losses[-1]) or not all(p.isfinite().all() for p in weights):
            raise TrainingError(
                f"the loss became {losses[-1]}; lower learning_rate "
                f"(now {self.config.learning_rate:g})"
            )
        return _Trained(losses, eval_loss, recorder.steps)

    def _save(self, roles: Roles, run: RunFolder, trained: _Trained) -> SFTResult:
        folder = Path(self.config.output_dir)
        original = roles.base
        if run.is_main:
            write_folder(
                folder / ADAPTER_FOLDER,
                lambda path: _write_adapter(path, roles),
                {
                    "base_fingerprint": original.fingerprint,
                },
            )
            write_folder(
                folder / MODEL_FOLDER,
                lambda path: _write_folded(path, folder / ADAPTER_FOLDER, original),
                {"folded_from": original.fingerprint},
            )
        tail = trained.losses[-max(1, len(trained.losses) // 10) :]
        result = SFTResult(
            output_dir=folder,
            adapter=folder / ADAPTER_FOLDER,
            model=folder / MODEL_FOLDER,
            base_fingerprint=fingerprint_model(folder / MODEL_FOLDER) if run.is_main else "",
            train_loss=sum(tail) / len(tail),
            eval_loss=trained.eval_loss,
            steps=trained.steps,
        )
        run.finish(_as_json(result))
        return result


@dataclass(frozen=True, slots=True)
class _Trained:
    """What training told."""

    losses: list[float]
    """As logged."""
    eval_loss: float
    steps: int


class _Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Writes TRL's log rows into the run folder, under our metric names."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.losses: list[float] = []
        self.steps = 0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any
    ) -> None:
        self.steps = int(state.global_step)
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
            row = {
                "loss/train": float(logs["loss"]),
                "optimizer/learning_rate": float(logs["learning_rate"]),
                "optimizer/grad_norm": float(logs["grad_norm"]),
            }
            self.run.log(state.global_step, row, total=state.max_steps)
        elif "eval_loss" in logs:
            row = {"loss/held_out": float(logs["eval_loss"])}
            self.run.log(state.global_step, row, total=state.max_steps)


def _trl_arguments(config: SFTConfig, base: FrozenBase) -> Any:
    """Our config in TRL's words; whatever TRL would add of its own is switched off."""
    on_gpu = base.device.type == "cuda"
    return trl.SFTConfig(
        output_dir=config.output_dir,
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        max_length=None,
        logging_steps=config.logging_steps,
        seed=config.seed,
        bf16=False,  # the base has its dtype; adapters and logits stay float32
        activation_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        logging_nan_inf_filter=False,  # it would log a diverged loss as 0
        disable_tqdm=True,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
    )


def _refuse_long(
    demonstrations: Sequence[Demonstration], chat: ChatFormat, config: SFTConfig
) -> None:
    prompts = [chat.encode_prompt(item.prompt) for item in demonstrations]
    completions = [chat.encode_completion(item.completion) for item in demonstrations]
    sizes = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    refuse_long(
        list(zip(sizes, (item.prompt.text for item in demonstrations), strict=True)),
        limit=config.max_length,
        field="max_length",
        source=config.train_file,
        what="demonstrations",
    )


def _tokenize(demonstrations: Sequence[Demonstration], chat: ChatFormat) -> Dataset:
    """Token ids with labels on the completion only."""
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for demonstration in demonstrations:
        prompt = chat.encode_prompt(demonstration.prompt)
        completion = chat.encode_completion(demonstration.completion)
        rows["input_ids"].append(prompt + completion)
        rows["labels"].append([_IGNORED] * len(prompt) + completion)
    return Dataset.from_dict(rows)


def _sample(
    roles: Roles, chat: ChatFormat, demonstrations: Sequence[Demonstration], config: SFTConfig
) -> list[dict[str, Any]]:
    """A few completions of the trained policy beside the written ones."""
    limit = positions(roles) or math.inf
    encoded = [(item, chat.encode_prompt(item.prompt)) for item in demonstrations[:_SAMPLES]]
    kept = [(item, ids) for item, ids in encoded if len(ids) < limit]
    if not kept:
        return []
    shown, prompts = [item for item, _ in kept], [ids for _, ids in kept]
    written = max(len(chat.encode_completion(item.completion)) for item in shown)
    size = int(min(2 * written, limit - max(map(len, prompts))))
    keys = [(config.seed, 0, 0, row) for row in range(len(shown))]
    with roles.use("policy"):
        sampled = sample_completions(
            roles, chat, prompts, max_new_tokens=size, temperature=1.0, keys=keys
        ).ids
    return [
        {
            "prompt": item.prompt.to_json(),
            "completion": chat.decode_completion(ids),
            "demonstration": item.completion,
        }
        for item, ids in zip(shown, sampled, strict=True)
    ]


def _write_adapter(folder: Path, roles: Roles) -> None:
    save_adapter(roles.peft_model, "policy", folder, base_path=roles.base.path)
    write_link(folder, roles.base)


def _write_folded(folder: Path, adapter: Path, original: FrozenBase) -> None:
    """Fold the adapter into a fresh copy of the original base and save it as a model."""
    model = AutoModelForCausalLM.from_pretrained(original.path, dtype=original.model.dtype)
    fold(model, read_delta(adapter))
    model.save_pretrained(folder)
    original.tokenizer.save_pretrained(folder)
    link = {
        "original_path": str(original.path.resolve()),
        "original_fingerprint": original.fingerprint,
        "adapter": f"../{ADAPTER_FOLDER}",
        "dtype": str(original.model.dtype).removeprefix("torch."),
    }
    (folder / FOLDED_FILE).write_text(json.dumps(link, indent=2) + "\n", encoding="utf-8")


def _as_json(result: SFTResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__dataclass_fields__}
