"""LLaMA-Factory's PPO update (trl 0.9.6 inside), one at a time.

Policy, reference, reward and value share one base (``reward_model_type=lora``, value head on the
policy's trunk); forward passes run under bfloat16 autocast. Sampling goes in minibatches, as its
PPO loop does.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from job import JOB, LORA_TARGETS, JobFolder
from llamafactory.train.ppo.trainer import CustomPPOTrainer
from llamafactory.train.tuner import run_exp
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from worker import Channel, Phases, now, serve


class Turns(TrainerCallback):
    """Lets the trainer go on only when told, and times the phases of each update.

    Scoring is the rewards and every forward pass without gradients inside the step.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.started = self.rollout = self.scoring = 0.0
        self.tokens = 0
        trainer = CustomPPOTrainer
        trainer.get_inputs = self._timed_sampling(trainer.get_inputs)
        trainer.get_rewards = self._timed_scoring(trainer.get_rewards)
        trainer.batched_forward_pass = self._timed_scoring(trainer.batched_forward_pass)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is loaded."""
        self.channel.ready()
        self._next()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An update is done."""
        phases = Phases(self.rollout, self.scoring, now() - self.started)
        if self.tokens != JOB.tokens:
            raise SystemExit(f"{self.tokens} response tokens instead of {JOB.tokens}")
        self.channel.done(phases.answer(tokens=self.tokens))
        self._next()

    def _next(self) -> None:
        self.channel.wait()
        self.rollout = self.scoring = 0.0
        self.tokens = 0
        self.started = now()

    def _timed_sampling(self, sample: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = now()
            queries, responses = sample(*args, **kwargs)
            self.rollout += now() - begun
            self.tokens += sum(len(response) for response in responses)
            return queries, responses

        return timed

    def _timed_scoring(self, score: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled() and score.__name__ != "get_rewards":
                return score(*args, **kwargs)
            begun = now()
            result = score(*args, **kwargs)
            self.scoring += now() - begun
            return result

        return timed


def write_inputs(folder: JobFolder, scratch: Path) -> None:
    """Lay out base, prompts and reward adapter as LLaMA-Factory reads them."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(folder.base, scratch / "base")
    file = scratch / "base" / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 4 knows no other name
    file.write_text(json.dumps(settings))
    rows = [json.loads(line)["prompt"] for line in folder.prompts.read_text().splitlines()]
    data = [{"instruction": text, "input": "", "output": "w3"} for text in rows]
    (scratch / "prompts.json").write_text(json.dumps(data))
    (scratch / "dataset_info.json").write_text('{"prompts": {"file_name": "prompts.json"}}')
    write_reward(folder.reward / "adapter", scratch / "reward")


def write_reward(adapter: Path, target: Path) -> None:
    """Copy our reward adapter with its head under LLaMA-Factory's names."""
    target.mkdir()
    shutil.copy(adapter / "adapter_model.safetensors", target)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": JOB.lora_rank,
        "lora_alpha": JOB.lora_alpha,
        "target_modules": list(LORA_TARGETS),
        "inference_mode": True,
    }
    (target / "adapter_config.json").write_text(json.dumps(settings))
    head = load_file(adapter / "score_head.safetensors")
    weight = (head["weight"] / head["std"])[None]
    bias = ((head["bias"] - head["mean"]) / head["std"])[None]
    named = {"v_head.summary.weight": weight, "v_head.summary.bias": bias}
    save_file(named, target / "value_head.safetensors", metadata={"format": "pt"})


def settings_of(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The job in LLaMA-Factory's words."""
    return {
        "stage": "ppo",
        "do_train": True,
        "model_name_or_path": str(scratch / "base"),
        "finetuning_type": "lora",
        "lora_rank": JOB.lora_rank,
        "lora_alpha": JOB.lora_alpha,
        "lora_target": "all",
        "reward_model": str(scratch / "reward"),
        "reward_model_type": "lora",
        "ppo_epochs": JOB.epochs,
        "ppo_buffer_size": JOB.minibatches,
        "per_device_train_batch_size": JOB.minibatch,
        "gradient_accumulation_steps": 1,
        "dataset": "prompts",
        "dataset_dir": str(scratch),
        "template": "empty",
        "cutoff_len": JOB.prompt_tokens + JOB.completion_tokens,
        "max_new_tokens": JOB.completion_tokens,
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "learning_rate": JOB.learning_rate,
        "max_steps": given.updates,
        "output_dir": str(scratch / "run"),
        "overwrite_output_dir": True,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "logging_steps": 1,
        "save_steps": 10**6,
        "plot_loss": False,
        "report_to": "none",
        "use_cpu": given.device == "cpu",
        "disable_gradient_checkpointing": True,
    }


def run(given: argparse.Namespace) -> None:
    """Serve until the driver closes the pipe."""
    turns = Turns(Channel(given.answers))
    torch.set_num_threads(given.threads)
    folder = JobFolder(given.folder)
    scratch = folder.scratch / "llamafactory"
    write_inputs(folder, scratch)
    run_exp(settings_of(scratch, given), callbacks=[turns])


if __name__ == "__main__":
    serve(run)
