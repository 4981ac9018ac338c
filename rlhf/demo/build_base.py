"""Make the demo's base model: ``python -m rlhf.demo.build_base --output DIR [--seed 0]``.

Builds the tokenizer, trains a small Llama from scratch on generated text (``rlhf.demo.corpus``;
read there about the readers' verdicts that stand after some answers, an openly privileged hint)
and writes both, weights in bfloat16, with ``build.json`` beside them: settings, seconds, steps,
tokens and final loss. The step count is fixed, not the time, so a slow machine gives the same
model as a fast one, up to rounding.

Matrix products run in bfloat16 here (autocast), which is about 1.5 times as fast on recent CPUs;
``--compile`` doubles that where a C++ compiler is at hand. The demo itself runs the base in
float32.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.demo import corpus
from rlhf.demo.tokenizer import MAX_LENGTH, build_tokenizer

ROW_LENGTHS = (32, 48, 64, 96)
"""Documents are padded to the next of these, so that few shapes occur."""


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """Settings of one build."""

    seed: int = 0
    steps: int = 2000
    tokens_per_batch: int = 4096
    """Padding included."""
    learning_rate: float = 2e-3
    """AdamW's, for the embedding and the norms."""
    matrix_learning_rate: float = 5e-3
    """Muon's, for the matrices inside the layers."""
    warmup_steps: int = 80
    decay_share: float = 0.45
    """Share of the steps, at the end, in which the learning rate falls to 0."""
    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    intermediate_size: int = 512
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded documents of about one length."""

    input_ids: Tensor
    """int64 (B, T)."""
    weights: Tensor
    """Weight of each token's loss, float (B, T); 0 at padding."""


def build_base(config: BuildConfig, output: Path, report: Callable[[str], None]) -> None:
    """Build tokenizer and base model and write them to a folder.

    Args:
        config: Settings; equal settings give the same model on one machine.
        output: Folder to write to; made if missing.
        report: Called with one line of progress now and then.
    """
    started = time.monotonic()
    tokenizer = build_tokenizer()
    torch.manual_seed(config.seed)
    model = LlamaForCausalLM(_model_config(config, tokenizer))
    losses, tokens = _train(model, tokenizer, config, report)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    facts = {
        "parameters": model.num_parameters(),
        "seconds": round(time.monotonic() - started),
        "threads": torch.get_num_threads(),
        "tokens": tokens,
        "final_loss": round(sum(losses[-50:]) / len(losses[-50:]), 4),
        "torch": torch.__version__,
        "config": asdict(config),
    }
    (output / "build.json").write_text(json.dumps(facts, indent=2) + "\n")


def _model_config(config: BuildConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # on short rows faster than sdpa's backward on a CPU
    )


def _train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    config: BuildConfig,
    report: Callable[[str], None],
) -> tuple[list[float], int]:
    """Train in place; give the loss of every step and the tokens seen, padding left out."""
    optimizers = _optimizers(model, config)
    loss_of = torch.compile(weighted_loss) if config.compile else weighted_loss
    losses: list[float] = []
    tokens, started = 0, time.monotonic()
    for step, batch in enumerate(batches(tokenizer, config)):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _schedule(step, config)
        loss = loss_of(model, batch.input_ids, batch.weights)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        tokens += int((batch.weights > 0).sum())
        if (step + 1) % 50 == 0:
            recent = sum(losses[-50:]) / 50
            seconds = time.monotonic() - started
            report(f"step {step + 1}  loss {recent:.4f}  tokens {tokens}  {seconds:.0f} s")
    return losses, tokens


def _optimizers(model: LlamaForCausalLM, config: BuildConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the norms."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and "embed_tokens" not in name
        (matrices if inside else rest).append(parameter)
    muon = torch.optim.Muon(
        matrices,
        lr=config.matrix_learning_rate,
        weight_decay=0.05,
        adjust_lr_fn="match_rms_adamw",  # updates as large as AdamW's at the same rate
    )
    adamw = torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for group in muon.param_groups + adamw.param_groups:
        group["initial_lr"] = group["lr"]
    return [muon, adamw]


def weighted_loss(model: LlamaForCausalLM, input_ids: Tensor, weights: Tensor) -> Tensor:
    """Mean next-token loss in nats, each token counted by its weight.

    Rows are padded on the right, so causal attention alone keeps padding out.
    """
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids, use_cache=False).logits
    losses = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), input_ids[:, 1:].flatten(), reduction="none"
    )
    kept = weights[:, 1:].flatten()
    return (losses * kept).sum() / kept.sum()


def batches(tokenizer: PreTrainedTokenizerFast, config: BuildConfig) -> Iterator[Batch]:
    """Draw documents and yield a batch whenever enough of about one length are there."""
    rng = random.Random(f"base/{config.seed}")
    rows: dict[int, list[tuple[list[int], list[float]]]] = {length: [] for length in ROW_LENGTHS}
    step = 0
    while step < config.steps:
        share = exercise_share(step / config.steps)
        ids, weights = _encode(corpus.draw_document(rng, exercise_share=share), tokenizer)
        length = next((length for length in ROW_LENGTHS if len(ids) <= length), None)
        if length is None:
            continue
        rows[length].append((ids, weights))
        if len(rows[length]) == config.tokens_per_batch // length:
            yield _collate(rows[length], length, tokenizer.pad_token_id)
            rows[length] = []
            step += 1


def exercise_share(progress: float) -> float:
    """Share of copying exercises in the corpus, by the share of the steps done."""
    return 0.5 if progress < 0.2 else 0.25 if progress < 0.4 else 0.06


def _encode(
    document: corpus.Document, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[int], list[float]]:
    ids: list[int] = []
    weights: list[float] = []
    for text, weight in document:
        piece = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        ids += piece
        weights += [weight] * len(piece)
    return ids, weights


def _collate(rows: list[tuple[list[int], list[float]]], length: int, pad_id: int) -> Batch:
    return Batch(
        torch.tensor([ids + [pad_id] * (length - len(ids)) for ids, _ in rows]),
        torch.tensor([weights + [0.0] * (length - len(weights)) for _, weights in rows]),
    )


def _schedule(step: int, config: BuildConfig) -> float:
    """Warm up, stay, then fall linearly to 0."""
    left = (config.steps - step) / (config.steps * config.decay_share)
    return min(1.0, (step + 1) / config.warmup_steps, left)


def main() -> None:
    """Read the command line and build."""
    defaults = BuildConfig()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument(
        "--compile", action="store_true", help="compile the training step (needs a C++ compiler)"
    )
    arguments = parser.parse_args()
    config = BuildConfig(arguments.seed, arguments.steps, compile=arguments.compile)
    build_base(config, arguments.output, lambda line: print(line, flush=True))  # noqa: T201 progress


if __name__ == "__main__":
    main()
