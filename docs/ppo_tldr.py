"""TRL's TL;DR example for PPO, as a job of this toolkit (docs/from-trl.md).

    python docs/ppo_tldr.py --output_dir runs/tldr --train_file tldr.jsonl \
        --sft_model_path cleanrl/EleutherAI_pythia-1b-deduped__sft__tldr \
        --reward_model_path cleanrl/EleutherAI_pythia-1b-deduped__reward__tldr

The file has a JSON object with a ``prompt`` on each line.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf import PPOConfig, PPOStage
from rlhf.ppo import PPOResult

BATCH = 64
LONGEST_PROMPT = 512


def main(arguments: list[str] | None = None) -> PPOResult:
    """Run the job; the flags are those of the original."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("output_dir", "train_file", "sft_model_path", "reward_model_path"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--total_episodes", type=int, default=30_000)
    given = parser.parse_args(arguments)
    updates = math.ceil(given.total_episodes / BATCH)
    config = PPOConfig(
        model_name_or_path=given.sft_model_path,
        reward_function="classifier:score",  # names the function that PPOStage is given
        train_file=short_prompts(given.train_file, given.sft_model_path),
        output_dir=given.output_dir,
        learning_rate=3e-5,  # 3e-6 there, for all weights; LoRA wants about ten times that
        value_learning_rate=5e-5,
        # The value starts from nothing: there is no reward adapter to copy.
        value_warmup_steps=min(10, updates - 1),
        max_steps=updates,
        rollout_batch_size=BATCH,
        num_mini_batches=1,
        num_ppo_epochs=4,
        max_prompt_length=LONGEST_PROMPT,
        max_new_tokens=53,
        temperature=0.7,
        missing_eos_penalty=1.0,
        kl_coef=0.05,
    )
    score = tldr_score(given.reward_model_path)
    return PPOStage(config, reward_functions=[score]).run()


def short_prompts(source: str, tokenizer_path: str) -> str:
    """Write the prompts that are short enough beside their file, and give the new path."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    kept = [
        json.dumps({"prompt": row["prompt"]}) + "\n"
        for row in rows
        if len(tokenizer.encode(row["prompt"])) <= LONGEST_PROMPT
    ]
    target = Path(source).with_suffix(f".{LONGEST_PROMPT}.jsonl")
    target.write_text("".join(kept), encoding="utf-8")
    return str(target)


def tldr_score(path: str) -> Callable[[list[Any], list[str]], list[float]]:
    """Make a reward function of a classifier that reads "prompt summary<end>" and scores the end.

    ``reward_model=path`` would do for a classifier with a chat template; this one wants its text
    in the form it was trained on.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    model = model.to(device).eval()

    @torch.no_grad()
    def score(prompts: list[Any], completions: list[str]) -> list[float]:
        scores = []
        for prompt, completion in zip(prompts, completions, strict=True):
            text = f"{prompt} {completion}{tokenizer.eos_token}"
            ids = tokenizer(text, return_tensors="pt")["input_ids"].to(device)
            # Not model(...).logits: where pad is the end token, those are of the token before it.
            hidden = model.base_model(input_ids=ids).last_hidden_state
            scores.append(float(model.score(hidden[0, -1])))
        return scores

    return score


if __name__ == "__main__":
    main()
