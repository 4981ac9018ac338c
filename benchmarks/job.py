"""The measured job: model shapes, lengths and update counts. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAD, BOS, EOS = 0, 1, 2
FIRST_WORD = 3
"""Token ids from here on are words; those below are the control tokens above."""

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Shape:
    """A randomly initialised decoder."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    tied: bool
    kind: str = "llama"
    """llama or qwen2: the transformers architecture."""

    @property
    def kv_width(self) -> int:
        """Width of keys and of values."""
        return self.hidden // self.heads * self.kv_heads


SIZES = {
    "0.8m": Shape(64, 2, 4, 4, 176, 8192, tied=False),
    "30m": Shape(512, 8, 8, 8, 1408, 8192, tied=True),
    "134m": Shape(768, 12, 12, 12, 2048, 32000, tied=False),
    "0.5b": Shape(896, 24, 14, 2, 4864, 151936, tied=True, kind="qwen2"),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One PPO update, the same for every implementation."""

    sequences: int = 16
    prompt_tokens: int = 32
    completion_tokens: int = 48
    epochs: int = 4
    minibatches: int = 4
    """Optimiser steps per epoch; each takes ``sequences / minibatches`` sequences at once."""
    lora_rank: int = 16
    lora_alpha: int = 32
    learning_rate: float = 1e-5
    kl_coef: float = 0.05
    prompts: int = 256
    """Rows of the prompts file."""

    @property
    def minibatch(self) -> int:
        """Sequences of one optimiser step."""
        return self.sequences // self.minibatches

    @property
    def tokens(self) -> int:
        """Response tokens of one update."""
        return self.sequences * self.completion_tokens


JOB = Job()


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Where ``make_job.py`` puts what the workers read."""

    path: Path

    @property
    def base(self) -> Path:
        """Model and tokenizer, as transformers saves them."""
        return self.path / "base"

    @property
    def prompts(self) -> Path:
        """Prompts of exactly ``prompt_tokens`` tokens, JSONL."""
        return self.path / "prompts.jsonl"

    @property
    def reward(self) -> Path:
        """A finished run of the reward stage on that base."""
        return self.path / "reward"

    @property
    def scratch(self) -> Path:
        """For output folders that a trainer insists on."""
        return self.path / "scratch"

    @property
    def is_complete(self) -> bool:
        """Whether the last thing that is written is there."""
        return (self.path / "done").is_file()
