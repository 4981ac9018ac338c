"""Write what the workers read: a random base with its tokenizer, prompts and a reward run.

    python benchmarks/make_job.py SIZE FOLDER

Completions must have one length on every side, so no control token may ever be sampled. The first
hidden dimension is a constant: every word's embedding holds the same number there and no layer
writes to it. In the output head the rows of the control tokens are a large negative multiple of
that dimension alone, which makes their probability exactly 0 in float32, whether the head is tied
to the embedding or not.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from job import BOS, EOS, FIRST_WORD, JOB, PAD, SIZES, JobFolder, Shape
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from rlhf.config import AdapterConfig, RewardConfig
from rlhf.reward import RewardStage

CONSTANT = 0.5
PUSH = -500.0
RANKINGS = 4


def make_job(shape: Shape, folder: JobFolder) -> None:
    """Fill the folder; an incomplete one is replaced."""
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.path.mkdir(parents=True)
    make_base(shape, folder.base)
    words = random_texts(shape, seed=1)
    rows = [{"prompt": next(words)} for _ in range(JOB.prompts)]
    folder.prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    make_reward(shape, folder)
    (folder.path / "done").touch()


def make_base(shape: Shape, path: Path) -> None:
    """Save a random model in float32 and a tokenizer with one token per word."""
    torch.manual_seed(0)
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[shape.kind]
    config = kind(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.mlp,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=512,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.generation_config = GenerationConfig(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS)
    forbid_control_tokens(model)
    check_control_tokens(model.eval(), shape)
    model.save_pretrained(path)
    make_tokenizer(shape).save_pretrained(path)


def make_tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """Words w3, w4, ... with their number as id, split at white space."""
    vocabulary = {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
    vocabulary |= {f"w{number}": number for number in range(FIRST_WORD, shape.vocab)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


@torch.no_grad()
def forbid_control_tokens(model: Any) -> None:
    """Make the control tokens impossible to sample; see the top of this file."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding[:, 0] = CONSTANT
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight[0] = 0.0
        layer.mlp.down_proj.weight[0] = 0.0
    head[:FIRST_WORD] = 0.0
    head[:FIRST_WORD, 0] = PUSH


@torch.no_grad()
def check_control_tokens(model: Any, shape: Shape) -> None:
    """Refuse a model that could sample a control token."""
    ids = torch.randint(FIRST_WORD, shape.vocab, (2, 64))
    logits = model(input_ids=ids).logits
    for dtype in (torch.float32, torch.bfloat16):
        share = logits.to(dtype).float().softmax(dim=-1)[..., :FIRST_WORD]
        if float(share.max()) > 0:
            raise SystemExit(f"a control token has probability {float(share.max()):.3g}, not 0")


def make_reward(shape: Shape, folder: JobFolder) -> None:
    """Run the reward stage on a few random rankings: weights that differ from 0, no more."""
    words = random_texts(shape, seed=2)
    rankings = folder.path / "rankings.jsonl"
    rows = [
        {"prompt": next(words), "completions": [next(words), next(words)], "ranks": [1, 2]}
        for _ in range(RANKINGS)
    ]
    rankings.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = RewardConfig(
        model_name_or_path=str(folder.base),
        output_dir=str(folder.reward),
        rankings=str(rankings),
        dtype="float32",
        learning_rate=1e-3,
        per_device_train_batch_size=1,
        eval_fraction=0.0,
        adapter=AdapterConfig(r=JOB.lora_rank, lora_alpha=JOB.lora_alpha),
    )
    RewardStage(config).run()


def random_texts(shape: Shape, *, seed: int) -> Iterator[str]:
    """Texts of exactly ``prompt_tokens`` tokens."""
    draw = random.Random(seed)
    while True:
        numbers = (draw.randrange(FIRST_WORD, shape.vocab) for _ in range(JOB.prompt_tokens))
        yield " ".join(f"w{number}" for number in numbers)


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    make_job(SIZES[arguments.size], JobFolder(arguments.folder))


if __name__ == "__main__":
    main()
